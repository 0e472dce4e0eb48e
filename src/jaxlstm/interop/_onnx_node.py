"""One recurrent node of an ONNX model: its inputs and attributes, read and checked."""

from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import _checks
from jaxlstm.interop._onnx_operators import OPERATORS

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
    """A node's own words: its attributes with their defaults, the names of its inputs, and those that are constants."""

    name: str
    op_type: str
    attributes: dict[str, Any]
    inputs: dict[str, str]
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


def read_node(name: str, proto: Any, constants: dict[str, np.ndarray]) -> Node:
    """A node with all its inputs and attributes checked."""
    places = OPERATORS[proto.op_type].inputs
    inputs = {place: given for place, given in zip(places, proto.input, strict=False) if given}
    held = {place: constants[given] for place, given in inputs.items() if given in constants and place != "X"}
    node = Node(name, proto.op_type, {}, inputs, held)
    node = node._replace(attributes=_attributes(node, proto))
    _check_weights(node)
    _check_states(node)
    return node


def _attributes(node: Node, proto: Any) -> dict[str, Any]:
    """All attributes, those that are not given with their defaults."""
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
    """W, R, B and P are constants of the shapes and of the one dtype that they must have."""
    for place in ("W", "R", "B", "P"):
        if place not in node.held and (place in node.inputs or place in "WR"):
            got = f"{node.inputs[place]!r}, known at run time" if place in node.inputs else "none"
            node.reject(place, "a constant of the model", got)
    w, r = node.held["W"], node.held["R"]
    if not jnp.issubdtype(w.dtype, jnp.floating) or jax.dtypes.canonicalize_dtype(w.dtype) != w.dtype:
        node.reject("W", "floating-point numbers (64-bit ones need jax_enable_x64)", w.dtype)
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
    for place, value in ((place, node.held[place]) for place in shapes if place in node.held):
        if value.shape != shapes[place] or value.dtype != w.dtype:
            node.reject(place, f"{w.dtype}{list(shapes[place])}", _checks.describe(value))
    if node.attributes["hidden_size"] not in (None, size):
        node.reject("hidden_size", f"{size}, as in R", node.attributes["hidden_size"])


def _check_states(node: Node) -> None:
    """Initial states and lengths, if constants, are arrays over one batch."""
    batch_sizes = []
    if (lengths := node.held.get("sequence_lens")) is not None:
        if lengths.ndim != 1 or lengths.dtype != np.int32 or (lengths < 0).any():
            node.reject("sequence_lens", "int32 [batch], none negative", _checks.describe(lengths))
        batch_sizes.append(lengths.size)
    directions, size, dtype = node.directions, node.hidden_size, node.held["W"].dtype
    for place, value in ((place, node.held[place]) for place in ("initial_h", "initial_c") if place in node.held):
        batch = value.size // (directions * size)
        shape = (batch, directions, size) if node.attributes["layout"] else (directions, batch, size)
        if value.shape != shape or value.dtype != dtype:
            node.reject(place, f"{dtype}{list(shape)}, of any batch size", _checks.describe(value))
        batch_sizes.append(batch)
    if len(set(batch_sizes)) > 1:
        node.reject("sequence_lens, initial_h and initial_c", "one batch size", batch_sizes)
