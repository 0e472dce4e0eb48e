"""The cells, params and initial carries of an ONNX node, one of each per direction."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxlstm._cell import Cell, RNNCarry
from jaxlstm._step import Carry, Params
from jaxlstm.cells import (
    GRUCell,
    GRUParams,
    LSTMCarry,
    LSTMCell,
    LSTMParams,
    LSTMVariantCell,
    LSTMVariantParams,
    RNNCell,
    RNNParams,
)
from jaxlstm.interop._activations import OnnxFunction, from_onnx_function, numbers_of
from jaxlstm.interop._onnx_node import Node
from jaxlstm.interop._onnx_operators import OPERATORS
from jaxlstm.interop._tensors import merge_gru_biases

# As of the ONNX operators with these names. For the others onnxruntime has other defaults, so they must be given.
_DEFAULTS = {"Elu": {"alpha": 1.0}, "HardSigmoid": {"alpha": 0.2, "beta": 0.5}, "LeakyRelu": {"alpha": 0.01}}


def cells(node: Node) -> tuple[Cell, ...]:
    """The cell of each direction."""
    functions = _functions(node)
    each = len(functions) // node.directions
    return tuple(_cell(node, *functions[start : start + each]) for start in range(0, len(functions), each))


def params(node: Node) -> tuple[Params, ...]:
    """The params of each direction."""
    return tuple(_params(node, direction) for direction in range(node.directions))


def carries(node: Node) -> tuple[Carry, ...]:
    """The initial carry of each direction; empty if it is zeros or only known at run time."""
    states = ("initial_h", "initial_c")
    held = [place for place in states if place in node.held]
    if not held:
        return ()
    if fed := [place for place in states if place in node.inputs]:
        node.reject("initial_h and initial_c", "both constants or neither", f"{held[0]} constant and {fed[0]} not")
    return tuple(_carry(node, direction) for direction in range(node.directions))


def _cell(node: Node, *functions: OnnxFunction) -> Cell:
    """The cell of one direction. Its activation functions are f, g and, for an LSTM, h."""
    size, clip, bias = node.hidden_size, node.attributes["clip"], "B" in node.held
    if clip is not None and not (clip > 0 and np.isfinite(clip)):
        node.reject("clip", "a positive number", clip)
    if node.op_type == "LSTM":
        f, g, h = functions
        if g != h:
            node.reject("activations", "one function for g and h, as our cells have", f"{g.name} and {h.name}")
        options: dict[str, Any] = {
            "gate_fn": from_onnx_function(f),
            "activation_fn": from_onnx_function(g),
            "bias": bias,
        }
        if "P" not in node.held and not node.coupled and clip is None:
            return LSTMCell(size, **options)
        return LSTMVariantCell(size, peephole="P" in node.held, coupled=node.coupled, clip=clip, **options)
    clipped = [from_onnx_function(dataclasses.replace(function, clip=clip)) for function in functions]
    if node.op_type == "GRU":
        reset_after = bool(node.attributes["linear_before_reset"])
        return GRUCell(size, reset_after=reset_after, gate_fn=clipped[0], activation_fn=clipped[1], bias=bias)
    return RNNCell(size, activation_fn=clipped[0], bias=bias)


def _params(node: Node, direction: int) -> Params:
    """One direction's params: W, R, B and P in our gate order, matrices transposed, biases summed."""
    gates = [gate for place, gate in enumerate(OPERATORS[node.op_type].gates) if not (node.coupled and place == 1)]
    w_ih, w_hh = (_pack(node.held[place][direction], gates, node.hidden_size).T for place in ("W", "R"))
    b, b_hn = _biases(node, direction, gates)
    weights: dict[str, Any] = {"w_ih": jnp.asarray(w_ih), "w_hh": jnp.asarray(w_hh), "b": b}
    if node.op_type == "GRU":
        return GRUParams(**weights, b_hn=b_hn)
    if node.op_type == "RNN":
        return RNNParams(**weights)
    if isinstance(cells(node)[direction], LSTMCell):
        return LSTMParams(**weights)
    return LSTMVariantParams(**weights, p=_peepholes(node, direction))


def _pack(array: np.ndarray, gates: list[int], size: int) -> np.ndarray:
    """The blocks of H rows of these gates, joined."""
    return np.concatenate([array[gate * size : (gate + 1) * size] for gate in gates])


def _biases(node: Node, direction: int, gates: list[int]) -> tuple[Array | None, Array | None]:
    """b, the sum of ONNX's two biases, and a GRU's b_hn; None where there is none."""
    if "B" not in node.held:
        return None, None
    b_w, b_r = (_pack(b, gates, node.hidden_size) for b in np.split(node.held["B"][direction], 2))
    if not (node.op_type == "GRU" and node.attributes["linear_before_reset"]):
        return jnp.asarray(b_w + b_r), None
    b, b_hn = merge_gru_biases(b_w, b_r)
    return jnp.asarray(b), jnp.asarray(b_hn)


def _peepholes(node: Node, direction: int) -> Array | None:
    """P, which ONNX packs as i, o, f, in our order i, f, o; with input_forget, i, o."""
    if "P" not in node.held:
        return None
    return jnp.asarray(_pack(node.held["P"][direction], [0, 1] if node.coupled else [0, 2, 1], node.hidden_size))


def _carry(node: Node, direction: int) -> Carry:
    """One direction's initial carry; a state that the node lacks is zero."""
    axis = 1 if node.attributes["layout"] else 0
    states = {p: np.take(node.held[p], direction, axis) for p in ("initial_h", "initial_c") if p in node.held}
    zeros = np.zeros_like(next(iter(states.values())))
    h = jnp.asarray(states.get("initial_h", zeros))
    if node.op_type != "LSTM":
        return RNNCarry(h=h)
    return LSTMCarry(h=h, c=jnp.asarray(states.get("initial_c", zeros)))


def _functions(node: Node) -> list[OnnxFunction]:
    """The functions of all directions. Those that take an alpha or a beta get the node's, in order."""
    names = node.attributes["activations"]
    defaults = OPERATORS[node.op_type].functions * node.directions
    if names is None:
        names = list(defaults)
    if len(names) != len(defaults):
        node.reject("activations", f"{len(defaults)} functions", names)
    left = {number: list(node.attributes[f"activation_{number}"]) for number in ("alpha", "beta")}
    functions = []
    for name in names:
        numbers = {}
        for number in numbers_of(name):
            default = _DEFAULTS.get(name, {}).get(number)
            numbers[number] = left[number].pop(0) if left[number] else default
            if numbers[number] is None:
                node.reject(f"activation_{number}", f"a number for {name}, which has no common default", "none")
        functions.append(_function(node, name, numbers))
    for number, rest in left.items():
        if rest:
            node.reject(f"activation_{number}", "one number for each function that takes one", f"{len(rest)} more")
    return functions


def _function(node: Node, name: str, numbers: dict[str, float]) -> OnnxFunction:
    try:
        return OnnxFunction(name, **numbers)
    except (ValueError, TypeError) as error:
        node.reject("activations", "functions of ONNX with finite numbers", f"{name!r} ({error})")
