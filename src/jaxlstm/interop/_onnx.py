"""Reads the LSTM, GRU and RNN nodes of an ONNX model as networks of ours."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxlstm import _checks
from jaxlstm._layers import Bidirectional, BidirectionalCarry, Layer
from jaxlstm._network import Network
from jaxlstm._step import Carry, Params
from jaxlstm.interop._onnx_cells import carries, cells, params
from jaxlstm.interop._onnx_node import Node, read_node
from jaxlstm.interop._onnx_operators import is_recurrent, library
from jaxlstm.interop._onnx_scope import model_scope, text, walk

_LONGEST = 600  # characters of a message; names in a model can have any length


class OnnxLayer(NamedTuple):
    """One node: a `Layer` or a `Bidirectional` with its params, and what else the model says about it.

    ``carry`` and ``lengths`` are None unless they are constants of the model. ``batch_first`` is the node's layout=1:
    in the model X has the batch first; the network has time first, as always. ``inputs`` names what the node reads at
    run time, such as ``{"X": "x", "initial_h": "h_0"}``, and ``outputs`` what it returns, such as
    ``{"Y": "y", "Y_h": "h_n"}``. An initial state that is neither in ``carry`` nor in ``inputs`` is zero.
    """

    network: Network
    params: Params
    carry: Carry | None
    lengths: Int[Array, "B"] | None
    batch_first: bool
    inputs: dict[str, str]
    outputs: dict[str, str]


def from_onnx(model_or_path: Any) -> dict[str, OnnxLayer]:
    """Read the LSTM, GRU and RNN nodes of an ONNX model, nested ones included.

    ONNX's two biases become one, their sum; a GRU with linear_before_reset keeps n's second one apart. A node without
    B gives cells with bias=False. With input_forget, f's weights are dropped, since f = 1 - i. The integer weights of a
    DynamicQuantizeLSTM become float32; onnxruntime quantises its inputs too, so its outputs differ in the second
    decimal.

    Layers that read each other's outputs make a network: ``Stack(*(layer.network for layer in layers.values()))``, with
    the params ``tuple(layer.params for layer in layers.values())``.

    Args:
      model_or_path: an `onnx.ModelProto`, or the path of a file with one. Weights in other files (external data) are
        read from the model's own folder only.

    Returns:
      The nodes by name, in the order of the graph. A node without a name of its own has that of its first output.
      Inside If, Loop, Scan or a function, the path comes first: ``If_0/then_branch/LSTM``. Weights may be anything that
      the model computes from constants, such as dequantised integers.

    Raises:
      ValueError: if the file is damaged, the model has no such node, or a node cannot be read, because its weights are
        not constant or our cells lack an option (different functions for g and h). The message names the node, the
        input or attribute, and the reason.
      OSError: if the file cannot be opened.
      TypeError: if the argument is neither a model nor a path.
      ImportError: if the package onnx is missing.

    >>> from jaxlstm.interop import from_onnx, to_onnx
    >>> cell = jl.GRUCell(hidden_size=4)
    >>> model = to_onnx(cell, cell.init(jax.random.key(0), input_size=3))
    >>> layers = from_onnx(model)
    >>> layers["GRU"].network
    Layer(cell=GRUCell(hidden_size=4))
    """
    try:
        model, folder = _load(model_or_path)
        return _layers(model, folder)
    except ValueError as error:
        if len(message := str(error)) <= _LONGEST:
            raise
        raise ValueError(f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 3 :]}") from None


def _layers(model: Any, folder: Path | None) -> dict[str, OnnxLayer]:
    """Every recurrent node as a layer, by its path."""
    layers, others, count = {}, [], 0
    for name, scope, node in walk(model_scope(model, folder)):
        count += 1
        if is_recurrent(node):
            if not name or name in layers:
                _checks.reject("model", "nodes of different names or outputs", f"{name!r} twice")
            layers[name] = _layer(read_node(name, node, scope))
        elif any(kind in text(node.op_type) for kind in ("LSTM", "GRU", "RNN")):
            others.append(f"{text(node.op_type)} {name!r}")
    if not layers:
        but = f", only {', '.join(others[:3])}, which cannot be read" if others else ""
        got = f"none among {count} nodes, nested graphs and functions included{but}"
        _checks.reject("model", "LSTM, GRU or RNN nodes (not written out in other operators)", got)
    return layers


def _layer(node: Node) -> OnnxLayer:
    """A node as a network, with what else it says."""
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
        inputs=node.inputs,
        outputs=node.outputs,
    )


def _load(model_or_path: Any) -> tuple[Any, Path | None]:
    """The model, and the folder of its file."""
    onnx = library()
    if isinstance(model_or_path, onnx.ModelProto):
        return model_or_path, None
    if not isinstance(model_or_path, (str, os.PathLike)):
        _checks.reject("model_or_path", "an onnx.ModelProto or a path", _checks.describe(model_or_path), TypeError)
    path = Path(model_or_path)
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model(path, format="protobuf", load_external_data=False), path.parent
    except (DecodeError, ValueError) as error:
        raise ValueError(f"{path}: damaged, or not an ONNX model ({error})") from error
