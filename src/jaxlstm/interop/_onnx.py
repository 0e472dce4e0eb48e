"""The LSTM, GRU and RNN nodes of an ONNX model as networks of ours."""

import os
from collections import Counter
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxlstm import _checks
from jaxlstm._layers import Bidirectional, BidirectionalCarry, Layer
from jaxlstm._network import Network
from jaxlstm._step import Carry, Params
from jaxlstm.interop._onnx_cells import carries, cells, params
from jaxlstm.interop._onnx_constants import constants
from jaxlstm.interop._onnx_node import Node, read_node
from jaxlstm.interop._onnx_operators import OPERATORS


class OnnxLayer(NamedTuple):
    """One node: a `Layer` or a `Bidirectional` with its params, and what else the model says of it.

    ``carry`` and ``lengths`` are there if they are constants of the model, else None. ``inputs`` names what the node
    reads at run time, such as ``{"X": "x", "initial_h": "h_0"}``. ``batch_first`` is the node's layout=1: the model has
    the batch ahead of the time in X; the network has the time first, as always.
    """

    network: Network
    params: Params
    carry: Carry | None
    lengths: Int[Array, "B"] | None
    batch_first: bool
    inputs: dict[str, str]


def from_onnx(model_or_path: Any) -> dict[str, OnnxLayer]:
    """Read the LSTM, GRU and RNN nodes of an ONNX model.

    The two biases of ONNX become one, their sum (a GRU with linear_before_reset keeps the one of n). With input_forget,
    f's weights are dropped, since f = 1 - i. Layers that read each other's outputs make a network:
    ``Stack(*(layer.network for layer in layers.values()))``, with the params ``tuple(layer.params for ...)``.

    Args:
      model_or_path: an `onnx.ModelProto`, or the path of a file with one.

    Returns:
      The nodes in the order of the graph, by their names, or by that of their first output where a name is missing or
      not their own. Weights may be any constants of the graph, also cut and joined by nodes.

    Raises:
      ValueError: if the file is damaged, the model holds no such node, or one says what our cells cannot do (two
        different functions for g and h); the message names the node and the input or attribute.
      FileNotFoundError: if there is no such file.
      ImportError: if the package onnx is missing.

    >>> from jaxlstm.interop import from_onnx, to_onnx
    >>> cell = jl.GRUCell(hidden_size=4)
    >>> model = to_onnx(cell, cell.init(jax.random.key(0), input_size=3))
    >>> layers = from_onnx(model)
    >>> layers["GRU"].network
    Layer(cell=GRUCell(hidden_size=4), reverse=False)
    """
    model = _load(model_or_path)
    nodes = [node for node in model.graph.node if _is_recurrent(node)]
    if not nodes:
        inside = any(_is_recurrent(node) for node in _nested(model))
        got = "them inside of other nodes or functions" if inside else f"none of {len(model.graph.node)} nodes"
        _checks.reject("model", "LSTM, GRU or RNN nodes in its graph", got)
    held = constants(model, {name for node in nodes for name in node.input[1:]})
    names = _names(nodes)
    return {name: _layer(read_node(name, node, held)) for name, node in zip(names, nodes, strict=True)}


def _layer(node: Node) -> OnnxLayer:
    """A node as a network, and the rest of it."""
    forward, *backward = cells(node)
    weights, states = params(node), carries(node)
    if backward:
        network: Network = Bidirectional(forward, None if backward[0] == forward else backward[0])
        carry = BidirectionalCarry(*states) if states else None
    else:
        network = Layer(forward, reverse=node.attributes["direction"] == "reverse")
        carry = states[0] if states else None
    lengths = node.held.get("sequence_lens")
    return OnnxLayer(
        network=network,
        params=weights if backward else weights[0],
        carry=carry,
        lengths=None if lengths is None else jnp.asarray(lengths),
        batch_first=bool(node.attributes["layout"]),
        inputs={place: name for place, name in node.inputs.items() if place not in node.held},
    )


def _load(model_or_path: Any) -> Any:
    onnx = library()
    if isinstance(model_or_path, onnx.ModelProto):
        return model_or_path
    if not isinstance(model_or_path, (str, os.PathLike)):
        _checks.reject("model_or_path", "an onnx.ModelProto or a path", _checks.describe(model_or_path), TypeError)
    path = os.fspath(model_or_path)
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model(path, format="protobuf")
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise ValueError(f"{path}: damaged, or not an ONNX model ({error})") from error


def _is_recurrent(node: Any) -> bool:
    return node.op_type in OPERATORS and node.domain in ("", "ai.onnx")


def _nested(model: Any) -> list[Any]:
    """The nodes of functions, and of the graphs that the graph's nodes hold, one level deep: enough for a message."""
    graphs = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    return [node for graph in (*graphs, *model.functions) for node in graph.node]


def _names(nodes: list[Any]) -> list[str]:
    """A name for each node: its own, or else that of its first output."""
    counts = Counter(node.name for node in nodes)
    names = [
        node.name if node.name and counts[node.name] == 1 else next(filter(None, node.output), "") for node in nodes
    ]
    if len(set(names)) < len(names) or "" in names:
        _checks.reject("model", "nodes of different names or outputs", names)
    return names


def library() -> Any:
    """The package onnx, which only these files need."""
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError("ONNX models need the package onnx: pip install 'jaxlstm[onnx]'") from error
    return onnx
