"""The constants of an ONNX model: its tensors, and what its nodes compute from them.

ONNX's reference evaluator computes them, node by node. Before each node, shape inference tells the size of the result,
which must be within a limit.
"""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxlstm import _checks
from jaxlstm.interop._onnx_scope import Place, Scope, text

_TIMES = 16  # elements that may be computed for each one that the model holds; torch's models need five
_DEEPEST = 64  # nodes in a row
_SMALL = 64  # elements; smaller inputs may be shapes or indices, so shape inference gets their values

# Operators whose memory is bounded by inputs and outputs. Others, such as Conv, Loop or Einsum, can need much more.
_COMPUTED = {
    "Abs", "Add", "And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike",
    "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "CumSum", "DepthToSpace", "DequantizeLinear", "Div",
    "DynamicQuantizeLinear", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather",
    "GatherElements", "GatherND", "Gemm", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log",
    "MatMul", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Not", "OneHot", "Or", "Pad", "Pow", "QuantizeLinear",
    "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round", "ScatterElements", "ScatterND", "Shape", "Sigmoid",
    "Sign", "Size", "Slice", "Softmax", "Softplus", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum",
    "Tanh", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
}  # fmt: skip
_QUANTIZING = {"DequantizeLinear", "QuantizeLinear"}  # com.microsoft has them too, for 4 and 16 bits
_KEEPING = {  # operators that return zeros if their first input is zeros
    "Cast", "CastLike", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
}  # fmt: skip


def why_not_constant(scope: Scope, name: str, depth: int = 0) -> str | None:
    """What a value depends on that is not constant, in words; None if it is a constant of the model."""
    scope, name = scope.find(name)
    if name not in scope.causes:
        scope.causes[name] = _why_not(scope, name, depth)
    return scope.causes[name]


def _why_not(scope: Scope, name: str, depth: int) -> str | None:
    if name in scope.tensors:
        return None
    if name in scope.unread:
        return scope.unread[name]
    if name not in scope.makers:
        return f"{name!r}, which nothing in the model makes"
    node = scope.makers[name]
    if depth > _DEEPEST:
        return f"a chain of more than {_DEEPEST} nodes"
    if called := _called(scope, node, name):
        return why_not_constant(*called, depth + 1)
    if not _is_computed(node):
        return f"{_label(node)}, an operator that from_onnx does not evaluate"
    causes = (why_not_constant(scope, each, depth + 1) for each in node.input if each)
    return next((cause for cause in causes if cause), None)


def value(scope: Scope, name: str) -> np.ndarray:
    """The value of a constant.

    Raises:
      ValueError: if a tensor is damaged or missing, or a node cannot be computed or its result is too large.
    """
    scope, name = scope.find(name)
    if name in scope.values:
        return scope.values[name]
    if name in scope.tensors:
        scope.values[name] = _read(scope, name)
    elif called := _called(scope, scope.makers[name], name):
        scope.values[name] = value(*called)
    else:
        scope.values |= _compute(scope, scope.makers[name])
    return scope.values[name]


def is_zero(scope: Scope, name: str, depth: int = 0) -> bool:
    """Whether a value is zeros, even if its shape is only known at run time."""
    scope, name = scope.find(name)
    if name not in scope.zeros:
        scope.zeros[name] = _is_zero(scope, name, depth)
    return scope.zeros[name]


def _is_zero(scope: Scope, name: str, depth: int) -> bool:
    if why_not_constant(scope, name) is None:
        return not value(scope, name).any()
    node = scope.makers.get(name)
    if node is None or depth > _DEEPEST:
        return False
    if called := _called(scope, node, name):
        return is_zero(*called, depth + 1)
    if node.op_type == "ConstantOfShape":
        return not any(_array(scope, name, a.t).any() for a in scope.resolve(node).attribute if a.name == "value")
    zeros = (is_zero(scope, each, depth + 1) for each in node.input if each)
    if node.op_type in _KEEPING:
        return next(zeros, False)
    if node.op_type == "Concat":
        return all(zeros)
    return node.op_type == "Mul" and any(zeros)


def _called(scope: Scope, node: Any, name: str) -> Place | None:
    """Where the function that a node calls computes the node's output of this name."""
    if name not in scope.calls:
        scope.calls[name] = None
        if called := scope.call(node):
            own = zip(node.output, called[1].output, strict=False)
            scope.calls |= {output: Place(called[0], inner) for output, inner in own}
    return scope.calls[name]


def _is_computed(node: Any) -> bool:
    return node.op_type in {"": _COMPUTED, "ai.onnx": _COMPUTED, "com.microsoft": _QUANTIZING}.get(node.domain, ())


def _compute(scope: Scope, node: Any) -> dict[str, np.ndarray]:
    """The outputs of a node whose inputs are constants."""
    import onnx.reference

    where = f"model: {_label(node)}"
    feeds = {name: value(scope, name) for name in node.input if name}
    try:
        model = _model_of(scope, node, feeds)
        size = _size(model, feeds)
    except Exception as error:  # any kind: a damaged node can break onnx anywhere
        raise ValueError(f"{where}: cannot be computed ({_short(error)})") from error
    if size is None:
        _checks.reject(where, "an array of numbers whose shape can be inferred", "something else")
    left = max(0, scope.model.elements_left - sum(array.size for array in feeds.values()))
    if size > left:
        _checks.reject(where, f"at most {left} more elements ({_TIMES} for each that the model holds)", size)
    scope.model.elements_left = left - size
    try:
        with np.errstate(all="ignore"):
            values = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:
        raise ValueError(f"{where}: cannot be computed ({_short(error)})") from error
    arrays = {output.name: np.asarray(array) for output, array in zip(model.graph.output, values, strict=True)}
    if any(array.dtype.kind in "OSU" for array in arrays.values()):
        _checks.reject(where, "an array of numbers", "strings or objects")
    return arrays


def _model_of(scope: Scope, node: Any, feeds: dict[str, np.ndarray]) -> Any:
    """A model of this node alone."""
    import onnx
    from onnx import helper

    opset, alone = scope.opsets.get("", 1), onnx.NodeProto()
    alone.CopyFrom(scope.resolve(node))
    for each in alone.attribute:  # onnx would read such files from the current directory
        tensors = (each.t, *each.tensors, each.sparse_tensor.values, each.sparse_tensor.indices)
        if each.HasField("g") or each.graphs or any(t.data_location == onnx.TensorProto.EXTERNAL for t in tensors):
            raise ValueError(f"{each.name!r} is a graph or a tensor in another file")
    if alone.op_type in _QUANTIZING:  # onnx evaluates the newer ones only; they do all that the older ones do
        alone.domain, opset = "", max(opset, 21)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in alone.output if name]
    graph = helper.make_graph([alone], "one node", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def _size(model: Any, feeds: dict[str, np.ndarray]) -> int | None:
    """How many numbers a model of one node computes, by shape inference; None if unknown or not numbers."""
    import onnx

    known = onnx.ModelProto()
    known.CopyFrom(model)
    small = (onnx.numpy_helper.from_array(a, name) for name, a in feeds.items() if a.size <= _SMALL)
    known.graph.initializer.extend(small)
    inferred = onnx.shape_inference.infer_shapes(known, strict_mode=True, data_prop=True)
    total = 0
    for output in inferred.graph.output:
        tensor = output.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
        if not tensor.HasField("shape") or min(sizes, default=0) < 0 or tensor.elem_type == onnx.TensorProto.STRING:
            return None
        total += math.prod(sizes)
    return total


def _read(scope: Scope, name: str) -> np.ndarray:
    """One of the model's own tensors."""
    array = _array(scope, name, scope.tensors[name])
    scope.model.elements_left += _TIMES * array.size
    return array


def _array(scope: Scope, name: str, tensor: Any) -> np.ndarray:
    """A tensor's numbers."""
    import onnx

    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        tensor = _external(scope, name, tensor)
    try:
        array = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"model: {name}: damaged ({_short(error)})") from error
    if array.size != math.prod(tensor.dims):
        _checks.reject(f"model: {name}", f"shape {tuple(tensor.dims)}", array.shape)
    if array.dtype.kind in "OSU":
        _checks.reject(f"model: {name}", "a tensor of numbers", "strings")
    return array


def _external(scope: Scope, name: str, tensor: Any) -> Any:
    """The tensor, with its numbers read from a file in the model's folder."""
    import onnx
    from onnx.helper import tensor_dtype_to_np_dtype

    where, folder = f"model: {name}", scope.model.folder
    if folder is None:
        _checks.reject(where, "a tensor in the model (onnx.load_external_data_for_model)", "one in another file")
    entries = {entry.key: text(entry.value) for entry in tensor.external_data}
    location = entries.get("location", "").replace("\0", "")
    folder = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(folder, location))
    if not Path(path).is_relative_to(folder) or not os.path.isfile(path):
        _checks.reject(where, "a file in the model's folder (no link to another)", repr(location))
    try:
        offset, itemsize = int(entries.get("offset", 0)), np.dtype(tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
        length = min(int(entries.get("length", 2**63)), math.prod(tensor.dims) * itemsize)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: damaged ({_short(error)})") from error
    if offset < 0 or not 0 <= length <= os.path.getsize(path) - offset:
        _checks.reject(where, f"{length} bytes from {offset} on in {location!r}", f"{os.path.getsize(path)} in all")
    with open(path, "rb") as file:
        file.seek(offset)
        return onnx.TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=file.read(length))


def _label(node: Any) -> str:
    return f"{node.op_type} {node.name or next(iter(node.output), '')!r}"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
