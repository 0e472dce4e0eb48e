"""Writes networks as ONNX models with LSTM, GRU and RNN nodes."""

from typing import Any

import jax
import numpy as np

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._dtypes import compute_dtype
from jaxlstm._layers import Bidirectional, Layer
from jaxlstm._network import Network
from jaxlstm._stack import Stack
from jaxlstm._step import Params
from jaxlstm.interop._arguments import check_network
from jaxlstm.interop._onnx_graph import Graph
from jaxlstm.interop._onnx_operators import OPERATORS, library
from jaxlstm.interop._onnx_weights import Direction, alike, attributes, direction, weights

_MERGES = {"sum": "Sum", "mean": "Mean", "mul": "Mul"}  # concat has an axis


def to_onnx(network: Network | Cell, params: Params, *, lengths: bool = False, carry: bool = False) -> Any:
    """Write a network as an ONNX model, for evaluation: dropout is left out.

        inputs   xs [steps, batch, I], lengths [batch] int32, initial_carry.<place>.h and .c [batch, H]
        outputs  ys [steps, batch, O], final_carry.<place>.h and .c [batch, H]

    Steps and batch are dynamic. The place of a cell is its path in the carry, as in ``final_carry.0.1.h``: the index of
    a Stack's layer, 0 forward and 1 backward in a Bidirectional. ONNX's second bias is zero, but for a GRU's b_hn. A
    node whose cells all have bias=False has no B.

    Args:
      network: a Layer, a Bidirectional (merged by name), a Stack or a cell; of LSTMCell, GRUCell, RNNCell,
        LSTMVariantCell (without projection and layer norm) and RecurrentDropout.
      params: its params, in float16, float32 or float64; onnxruntime runs the first two.
      lengths: whether the model takes the lengths of ragged sequences. onnxruntime gives a final carry of zeros for a
        length of 0, where `apply` gives the initial one.
      carry: whether the model takes the initial carry; otherwise it is zeros.

    Returns:
      The `onnx.ModelProto`, checked; ``onnx.save(model, path)`` writes it.

    Raises:
      ValueError, TypeError: if params do not fit, or ONNX's nodes cannot do what an option asks; the message names it.
      ImportError: if the package onnx is missing.

    >>> from jaxlstm.interop import to_onnx
    >>> network = jl.Bidirectional(jl.GRUCell(hidden_size=4))
    >>> model = to_onnx(network, network.init(jax.random.key(0), input_size=3), lengths=True)
    >>> [value.name for value in model.graph.output]
    ['final_carry.0.h', 'final_carry.1.h', 'ys']
    """
    onnx = library()
    input_size = check_network(network, params)
    _checks.check_flag("lengths", lengths)
    _checks.check_flag("carry", carry)
    dtype = compute_dtype(params)
    if dtype not in (np.float16, np.float32, np.float64):
        _checks.reject("params", "float16, float32 or float64", dtype)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)
    graph = Graph(onnx, np.dtype(dtype), lengths, carry)
    xs = graph.input("xs", dtype, ("steps", "batch", input_size))
    if lengths:
        graph.input("lengths", np.int32, ("batch",))
    ys = _network(graph, Layer(network) if isinstance(network, Cell) else network, params, xs, ())
    graph.output("ys", ys, ("steps", "batch", network.output_size))
    model = graph.model()
    onnx.checker.check_model(model, full_check=True)
    return model


def _network(graph: Graph, network: Network, params: Params, xs: str, path: tuple[int, ...]) -> str:
    """Add a network that reads xs. Returns the name of its ys."""
    if type(network) is Stack:
        for index, layer in enumerate(network.layers):
            xs = _network(graph, layer, params[index], xs, (*path, index))
        return xs
    if type(network) is Layer:
        (ys,) = _recurrent(graph, [direction(network.cell, params, path, network.reverse)], xs)
        return ys
    if type(network) is Bidirectional:
        return _bidirectional(graph, network, params, xs, path)
    return _checks.reject("network", "layers of this library", _checks.describe(network), TypeError)


def _bidirectional(graph: Graph, network: Bidirectional, params: Params, xs: str, path: tuple[int, ...]) -> str:
    """Add one node, or two if the directions differ in more than weights and functions, and the merge."""
    cells = network.cell, network.backward_cell or network.cell
    both = [direction(cell, params[i], (*path, i), reverse=bool(i)) for i, cell in enumerate(cells)]
    nodes = [both] if alike(*both) else [[one] for one in both]
    ys = [name for node in nodes for name in _recurrent(graph, node, xs)]
    if network.merge == "concat":
        return graph.node("Concat", ys, axis=2)
    if network.merge not in _MERGES:
        _checks.reject("merge", f"'concat' or one of {', '.join(_MERGES)}", _checks.describe(network.merge))
    return graph.node(_MERGES[network.merge], ys)  # type: ignore[index]


def _recurrent(graph: Graph, directions: list[Direction], xs: str) -> list[str]:
    """Add one node with one or two directions. Returns the names of each direction's ys."""
    op_type = directions[0].op_type
    path = directions[0].path if len(directions) == 1 else directions[0].path[:-1]
    name = ".".join((op_type, *map(str, path)))
    states = [place.removeprefix("initial_") for place in OPERATORS[op_type].inputs if place.startswith("initial_")]
    given = {place: graph.constant(f"{name}.{place}", array) for place, array in weights(directions).items()}
    given |= {"X": xs} | ({"sequence_lens": "lengths"} if graph.lengths else {})
    if graph.carry:
        given |= {f"initial_{state}": _initial(graph, directions, state) for state in states}
    places = [given.get(place, "") for place in OPERATORS[op_type].inputs]
    ys, *finals = graph.nodes(op_type, places, 1 + len(states), name=name, **attributes(directions))
    for state, final in zip(states, finals, strict=True):
        for one, value in zip(directions, graph.unstack(final, 0, len(directions)), strict=True):
            graph.output(_carry_name("final", one, state), value, ("batch", one.cell.hidden_size))
    return graph.unstack(ys, 1, len(directions))


def _initial(graph: Graph, directions: list[Direction], state: str) -> str:
    """Add inputs for the directions' initial states, joined to the one array that a node takes."""
    names = [
        graph.input(_carry_name("initial", one, state), graph.dtype, ("batch", one.cell.hidden_size))
        for one in directions
    ]
    return graph.stack(names)


def _carry_name(which: str, one: Direction, state: str) -> str:
    return ".".join((f"{which}_carry", *map(str, one.path), state))
