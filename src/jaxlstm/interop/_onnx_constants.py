"""The constants of an ONNX graph: tensors that it holds, and what nodes make of them that only rearrange.

Exporters may leave the weights as they were and cut and join them in the graph (torch does, without constant folding).
"""

import math
from typing import Any

import numpy as np

from jaxlstm import _checks

# None of these makes a tensor of more elements than came in.
_REARRANGING = ("Identity", "Cast", "Concat", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
_TIMES = 16  # how often what the model holds may be rearranged; torch's models take five


def constants(model: Any, wanted: set[str]) -> dict[str, np.ndarray]:
    """The values of this model that are constants, of those that are wanted, by name.

    Raises:
      ValueError: if a tensor is damaged or lies in another file, or a node cannot be computed.
    """
    wanted = _with_sources(model.graph, wanted)
    values = {t.name: _array(t.name, t) for t in model.graph.initializer if t.name in wanted}
    nodes = [node for node in model.graph.node if not node.domain and wanted.intersection(node.output)]
    for node in nodes:
        if node.op_type == "Constant":
            values[node.output[0]] = _constant(node)
    budget = _TIMES * sum(value.size for value in values.values())
    for node in nodes:
        if node.op_type in _REARRANGING and all(name in values for name in node.input if name):
            budget -= sum(values[name].size for name in node.input if name)
            if budget < 0:
                _checks.reject(
                    "model", "weights that are rearranged a few times at most", f"still more at {node.name!r}"
                )
            values[node.output[0]] = _compute(model, node, values)
    return values


def _with_sources(graph: Any, wanted: set[str]) -> set[str]:
    """The names wanted, and those of all that they are made of; a graph lists what is made after what it is made of."""
    wanted = set(wanted)
    for node in reversed(graph.node):
        if node.op_type in _REARRANGING and wanted.intersection(node.output):
            wanted.update(node.input)
    return wanted - {""}


def _constant(node: Any) -> np.ndarray:
    """The value of a Constant node, which has one attribute."""
    for attribute in node.attribute:
        if attribute.name == "value":
            return _array(node.output[0], attribute.t)
        if attribute.name in ("value_int", "value_ints"):
            return np.array(attribute.i if attribute.name == "value_int" else attribute.ints, np.int64)
        if attribute.name in ("value_float", "value_floats"):
            return np.array(attribute.f if attribute.name == "value_float" else attribute.floats, np.float32)
    return _checks.reject(f"model: {node.output[0]}", "a Constant of numbers", [a.name for a in node.attribute])


def _array(name: str, tensor: Any) -> np.ndarray:
    """A tensor's numbers."""
    import onnx

    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _checks.reject(f"model: {name}", "a tensor in the model (onnx.load_external_data_for_model)", "one beside it")
    try:
        value = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"model: {name}: damaged ({error})") from error
    if value.size != math.prod(tensor.dims):
        _checks.reject(f"model: {name}", f"shape {tuple(tensor.dims)}", value.shape)
    return value


def _compute(model: Any, node: Any, values: dict[str, np.ndarray]) -> np.ndarray:
    """One node's output, as ONNX's reference implementation has it."""
    import onnx.reference
    from onnx import helper

    feeds = {name: values[name] for name in node.input if name}
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in feeds]
    outputs = [helper.make_tensor_value_info(node.output[0], onnx.TensorProto.UNDEFINED, None)]
    graph = helper.make_graph([node], "one node", inputs, outputs)
    try:
        one_node = helper.make_model(graph, opset_imports=model.opset_import)
        (value,) = onnx.reference.ReferenceEvaluator(one_node).run(None, feeds)
    except Exception as error:  # of whatever kind: what a damaged node does to the implementation is unknown
        raise ValueError(f"model: {node.op_type} {node.name!r} cannot be computed ({error})") from error
    return np.asarray(value)
