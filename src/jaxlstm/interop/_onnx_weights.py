"""A cell as an ONNX operator: which one, its attributes and its weights."""

from typing import Any, NamedTuple

import numpy as np

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._step import Params
from jaxlstm.cells import GRUCell, LSTMCell, LSTMVariantCell, RecurrentDropout, RNNCell
from jaxlstm.interop._activations import OnnxFunction, numbers_of, to_onnx_function
from jaxlstm.interop._onnx_operators import OPERATORS
from jaxlstm.interop._tensors import fill_biases


class Direction(NamedTuple):
    """One cell as one direction of a node; `path` leads to its carry."""

    cell: Cell
    params: Params
    path: tuple[int, ...]
    reverse: bool
    op_type: str
    options: dict[str, Any]  # attributes other than functions and direction
    functions: list[OnnxFunction]


def direction(cell: Cell, params: Params, path: tuple[int, ...], reverse: bool) -> Direction:
    """A cell in ONNX's terms.

    Raises:
      ValueError, TypeError: if ONNX has no such cell; the message names the option.
    """
    while type(cell) is RecurrentDropout:  # which without a key is the cell inside
        cell = cell.cell
    op_type, options, functions = _operator(cell)
    clips = {function.clip for function in functions}
    if clips != {None}:
        if op_type == "LSTM" or len(clips) > 1:
            _checks.reject(
                "clip", "an option of LSTMVariantCell, or the same in all functions of another cell", functions
            )
        options["clip"] = clips.pop()
    return Direction(cell, params, path, reverse, op_type, options, functions)


def alike(one: Direction, other: Direction) -> bool:
    """Whether both fit into one node."""

    def shape(one: Direction) -> tuple[Any, ...]:
        return one.op_type, one.cell.hidden_size, one.options, _has_peepholes(one)

    return shape(one) == shape(other)


def attributes(directions: list[Direction]) -> dict[str, Any]:
    """The attributes of a node with these directions; functions only if they are not the defaults."""
    first = directions[0]
    way = "bidirectional" if len(directions) == 2 else "reverse" if first.reverse else "forward"
    found = {"direction": way, "hidden_size": first.cell.hidden_size, **first.options}
    functions = [function for one in directions for function in one.functions]
    names = [function.name for function in functions]
    if names != list(OPERATORS[first.op_type].functions) * len(directions):
        found["activations"] = names
    for number in ("alpha", "beta"):
        if values := [getattr(f, number) for f in functions if number in numbers_of(f.name)]:
            found[f"activation_{number}"] = values
    return found


def weights(directions: list[Direction]) -> dict[str, np.ndarray]:
    """W, R and, if there are any, biases B and peepholes P."""
    found = {
        "W": [_pack(one, one.params.w_ih).T for one in directions],
        "R": [_pack(one, one.params.w_hh).T for one in directions],
    }
    if any(one.params.b is not None for one in directions):
        found["B"] = [_biases(one) for one in directions]
    if _has_peepholes(directions[0]):
        found["P"] = [_peepholes(one) for one in directions]
    return {place: np.stack(arrays) for place, arrays in found.items()}


def _operator(cell: Cell) -> tuple[str, dict[str, Any], list[OnnxFunction]]:
    """The operator, its attributes, and its functions f, g, h."""
    if type(cell) is RNNCell:
        return "RNN", {}, _functions(cell, "activation_fn")
    if type(cell) is GRUCell:
        return "GRU", {"linear_before_reset": int(cell.reset_after)}, _functions(cell, "gate_fn", "activation_fn")
    if type(cell) is LSTMCell:
        return "LSTM", {}, _functions(cell, "gate_fn", "activation_fn", "activation_fn")
    if type(cell) is not LSTMVariantCell:
        _checks.reject("cell", "an LSTMCell, GRUCell, RNNCell, LSTMVariantCell or RecurrentDropout of one", cell)
    for name, without in {"layer_norm": False, "projection_size": None}.items():
        if getattr(cell, name) != without:
            _checks.reject(name, f"{without}, since ONNX has none", getattr(cell, name))
    options = {"input_forget": 1} if cell.coupled else {}
    options |= {} if cell.clip is None else {"clip": float(cell.clip)}
    return "LSTM", options, _functions(cell, "gate_fn", "activation_fn", "activation_fn")


def _functions(cell: Cell, *names: str) -> list[OnnxFunction]:
    return [to_onnx_function(name, getattr(cell, name)) for name in names]


def _pack(one: Direction, array: Any) -> np.ndarray:
    """Gates in ONNX's order; with coupled gates, zeros for f, which ONNX does not read."""
    order = OPERATORS[one.op_type].gates
    if one.options.get("input_forget"):
        i, g, o = np.split(np.asarray(array), 3, axis=-1)
        gates = [i, np.zeros_like(i), g, o]
    else:
        gates = np.split(np.asarray(array), len(order), axis=-1)
    return np.concatenate([gates[place] for place in np.argsort(order)], axis=-1)


def _biases(one: Direction) -> np.ndarray:
    """ONNX's two biases: ours, then zeros or a GRU's b_hn."""
    params = fill_biases(one.cell, one.params)
    b = _pack(one, params.b)
    second = np.zeros_like(b)
    if getattr(params, "b_hn", None) is not None:
        second[-one.cell.hidden_size :] = params.b_hn
    return np.concatenate([b, second])


def _has_peepholes(one: Direction) -> bool:
    return getattr(one.params, "p", None) is not None


def _peepholes(one: Direction) -> np.ndarray:
    """Ours are i, f, o, or i, o if coupled; ONNX's are i, o, f."""
    blocks = np.split(np.asarray(one.params.p), 2 if one.options.get("input_forget") else 3)
    i, *f, o = blocks
    return np.concatenate([i, o, *(f or [np.zeros_like(i)])])
