"""Reads and checks the inputs and attributes of one recurrent node of an ONNX model."""

from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import _checks
from jaxlstm.interop._onnx_constants import is_zero, value, why_not_constant
from jaxlstm.interop._onnx_operators import OPERATORS, QUANTIZED
from jaxlstm.interop._onnx_scope import Scope, text

_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
_DEFAULTS: dict[str, Any] = {
    "activation_alpha": [],
    "activation_beta": [],
    "activations": None,
    "clip": None,
    "direction": "forward",
    "hidden_size": None,
    "layout": 0,
    "input_forget": 0,
    "linear_before_reset": 0,
}


class Node(NamedTuple):
    """A node: attributes with their defaults, names of its run-time inputs and its outputs, and constant inputs."""

    name: str
    op_type: str
    attributes: dict[str, Any]
    inputs: dict[str, str]
    outputs: dict[str, str]
    held: dict[str, np.ndarray]

    @property
    def directions(self) -> int:
        """1 or 2."""
        return _DIRECTIONS[self.attributes["direction"]]

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.held["R"].shape[-1]

    @property
    def coupled(self) -> bool:
        """f = 1 - i."""
        return bool(self.attributes["input_forget"])

    def reject(self, what: str, expected: object, got: object) -> NoReturn:
        """Raise a ValueError that names this node."""
        _checks.reject(f"model: {self.op_type} {self.name!r}: {what}", expected, got)


def read_node(name: str, proto: Any, scope: Scope) -> Node:
    """A node, with all inputs and attributes checked. Initial states that are zero are left out."""
    operator = OPERATORS[proto.op_type]
    outputs = {place: text(given) for place, given in zip(operator.outputs, proto.output, strict=False) if given}
    node = Node(name, proto.op_type, {}, {}, outputs, {})
    node = node._replace(attributes=_attributes(node, scope.resolve(proto)))
    for place, given in zip(operator.inputs, proto.input, strict=False):
        if not given or (place.startswith("initial_") and is_zero(scope, given)):
            continue
        cause = None if place == "X" else why_not_constant(scope, given)
        if place == "X" or (cause and place in ("sequence_lens", "initial_h", "initial_c")):
            node.inputs[place] = text(given)
        elif cause:
            node.reject(place, "a constant of the model", f"{given!r}, which comes from {cause}")
        else:
            node.held[place] = value(scope, given)
    if node.op_type == QUANTIZED:
        node.held.update({place: _dequantize(node, place) for place in ("W", "R")})
        node = node._replace(op_type="LSTM")
    _check_weights(node)
    _check_states(node)
    return node


def _dequantize(node: Node, place: str) -> np.ndarray:
    """W or R as float32 [directions, G, in], of integers [directions, in, G] with scales per direction or column."""
    names = (place, f"{place}_scale", f"{place}_zero_point")
    if missing := [name for name in names if name not in node.held]:
        node.reject(missing[0], "a constant of the model", "none")
    quantized, scale, zero = parts = [node.held[name] for name in names]
    directions, *_, columns = (0, *quantized.shape)[-3:]
    if (
        quantized.dtype not in (np.int8, np.uint8)
        or quantized.ndim != 3
        or scale.dtype != np.float32
        or scale.shape not in ((directions,), (directions, columns))
        or (zero.shape, zero.dtype) != (scale.shape, quantized.dtype)
    ):
        expected = "int8 or uint8 [directions, in, 4H] with a scale and a zero point for each direction or column"
        node.reject(place, expected, ", ".join(map(_checks.describe, parts)))
    scale, zero = (array.reshape(directions, 1, -1) for array in (scale, zero))
    return ((quantized.astype(np.float32) - zero) * scale).swapaxes(1, 2)


def _attributes(node: Node, proto: Any) -> dict[str, Any]:
    """All attributes, with defaults where the node has none."""
    import onnx

    others = {name for operator in OPERATORS.values() for name in operator.attributes}
    known = set(_DEFAULTS) - others | set(OPERATORS[node.op_type].attributes)
    found = dict(_DEFAULTS)
    for attribute in proto.attribute:
        if attribute.name not in known:
            node.reject("attributes", f"some of {', '.join(sorted(known))}", repr(attribute.name))
        kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
        if kind != _KINDS.get(attribute.name, "INT"):
            node.reject(attribute.name, f"an attribute of kind {_KINDS.get(attribute.name, 'INT')}", kind)
        found[attribute.name] = _value(onnx.helper.get_attribute_value(attribute))
    for name, values in {"direction": tuple(_DIRECTIONS), "layout": (0, 1)}.items():
        if found[name] not in values:
            node.reject(name, f"one of {', '.join(map(str, values))}", repr(found[name]))
    return found


_KINDS = {"activation_alpha": "FLOATS", "activation_beta": "FLOATS", "activations": "STRINGS", "clip": "FLOAT"}
_KINDS |= {"direction": "STRING"}


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, (int, float)) else [_value(item) for item in value]


def _check_weights(node: Node) -> None:
    """Check the shapes of W, R, B and P, and that they share one dtype."""
    for place in ("W", "R"):
        if place not in node.held:
            node.reject(place, "a constant of the model", "none")
    w, r = node.held["W"], node.held["R"]
    floating = jnp.issubdtype(w.dtype, jnp.floating) and w.dtype.itemsize > 1
    if not floating or jax.dtypes.canonicalize_dtype(w.dtype) != w.dtype:
        node.reject("W", "floating-point numbers of 16 or 32 bits (of 64 with jax_enable_x64)", w.dtype)
    if r.ndim != 3 or w.ndim != 3 or not r.shape[-1] or not w.shape[-1]:
        node.reject("W and R", "arrays [directions, gates * H, in]", f"shapes {w.shape} and {r.shape}")
    size, directions = node.hidden_size, node.directions
    gates = len(OPERATORS[node.op_type].gates)
    shapes = {
        "W": (directions, gates * size, w.shape[-1]),
        "R": (directions, gates * size, size),
        "B": (directions, 2 * gates * size),
        "P": (directions, 3 * size),
    }
    for place, array in ((place, node.held[place]) for place in shapes if place in node.held):
        if array.shape != shapes[place] or array.dtype != w.dtype:
            node.reject(place, f"{w.dtype}{list(shapes[place])}", _checks.describe(array))
    if node.attributes["hidden_size"] not in (None, size):
        node.reject("hidden_size", f"{size}, as in R", node.attributes["hidden_size"])


def _check_states(node: Node) -> None:
    """Check constant initial states and lengths: shapes, dtypes, and that they share one batch size."""
    batch_sizes = []
    if (lengths := node.held.get("sequence_lens")) is not None:
        if lengths.ndim != 1 or lengths.dtype != np.int32 or (lengths < 0).any():
            node.reject("sequence_lens", "int32 [batch], none negative", _checks.describe(lengths))
        batch_sizes.append(lengths.size)
    directions, size, dtype = node.directions, node.hidden_size, node.held["W"].dtype
    for place, array in ((place, node.held[place]) for place in ("initial_h", "initial_c") if place in node.held):
        batch = array.size // (directions * size)
        shape = (batch, directions, size) if node.attributes["layout"] else (directions, batch, size)
        if array.shape != shape or array.dtype != dtype:
            node.reject(place, f"{dtype}{list(shape)}, of any batch size", _checks.describe(array))
        batch_sizes.append(batch)
    if len(set(batch_sizes)) > 1:
        node.reject("sequence_lens, initial_h and initial_c", "one batch size", batch_sizes)
