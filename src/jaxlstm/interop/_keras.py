"""Weights of Keras's LSTM, GRU and SimpleRNN layers and cells, of Bidirectional, and of CuDNNLSTM and CuDNNGRU."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._layers import Layer
from jaxlstm._network import Network
from jaxlstm._stack import Stack
from jaxlstm._step import Params
from jaxlstm.cells import GRUCell, LSTMCell, LSTMParams, RNNCell, RNNParams
from jaxlstm.interop import _keras_cells, _keras_files, _nest, _select, _tensors
from jaxlstm.interop._activations import KERAS, Activation
from jaxlstm.interop._keras_config import KerasConfig
from jaxlstm.interop._select import Dialect, LayerName
from jaxlstm.interop._tensors import Scope

_OLD_DEFAULT = (2, 3)  # before this version, hard_sigmoid was the default of recurrent_activation
_MERGES = {"concat": "concat", "sum": "sum", "mul": "mul", "ave": "mean"}


def from_keras(
    weights: Mapping[str, Any] | str | os.PathLike[str],
    *,
    prefix: str = "",
    layers: Sequence[LayerName] | None = None,
    activation: str | Activation | None = None,
    recurrent_activation: str | Activation | None = None,
    reset_after: bool | None = None,
    merge_mode: str | None = None,
) -> tuple[Network, Params]:
    """Read Keras's recurrent layers, alone or out of a larger model, from arrays or from a file.

        w_ih = kernel    w_hh = recurrent_kernel    b = bias                     GRU: gates z, r, h
        b_r, b_z = the sums of the two rows    b_n, b_hn = the rows apart        GRU with reset_after

    A layer without biases gives a cell with ``bias=False``. CuDNNLSTM and CuDNNGRU of Keras 2 are told by their biases.
    .keras files and whole models in .h5 files say which options their layers have. Other files and dicts hold weights
    alone: the last four arguments then say what no weight tells. They hold for all layers that are read, and for files
    too if given. Before Keras 2.3 the default was ``recurrent_activation="keras2_hard_sigmoid"``.

    Args:
      weights: ``{v.path: v for v in model.weights}``, of a layer, a cell or a model; or the path of a .keras,
        .weights.h5 or .h5 file of any version of Keras (``pip install 'jaxlstm[keras-files]'``; Keras is not needed).
      prefix: where the layers are in a larger model, such as ``"encoder/lstm"``. What comes before, such as the model's
        name, can be left out if only one layer's path ends like this.
      layers: the names of several layers, bottom first, such as ``("lstm", "bidirectional")``: each reads the outputs
        of the one before. Only their tensors are read. A pair of names (forward, backward) is a `Bidirectional`.
      activation: a name or a function; None means "tanh" for LSTM and GRU. For a SimpleRNN it must be given.
      recurrent_activation: a name or a function; None means "sigmoid". "hard_sigmoid" has the slope 1/6 of Keras 3,
        "keras2_hard_sigmoid" the 0.2 of earlier versions.
      reset_after: of a GRU without biases, which would tell.
      merge_mode: "concat" (the default), "sum", "mul" or "ave" of a Bidirectional.

    Returns:
      ``(network, params)``: a `Layer`, a `Bidirectional`, or a `Stack`. Dropout is not read. A layer with
      go_backwards=True is a ``Layer(..., reverse=True)``, whose outputs are in the order of xs; Keras reverses them.

    Raises:
      ValueError, TypeError: if a tensor is missing, unexpected, or of the wrong shape or dtype; the message names it.
        Without a choice among several layers, the message lists them.
      FileNotFoundError: if there is no such file.
      ImportError: if weights is a file and the package h5py is missing.

    >>> import numpy as np
    >>> from jaxlstm.interop import from_keras
    >>> shapes = {"kernel": (3, 12), "recurrent_kernel": (4, 12), "bias": (2, 12)}
    >>> weights = {f"gru/gru_cell/{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
    >>> from_keras(weights)[0]
    Layer(cell=GRUCell(hidden_size=4))
    """
    given = {"activation": activation, "recurrent_activation": recurrent_activation, "reset_after": reset_after}
    for name in ("activation", "recurrent_activation"):
        if given[name] is not None:
            _activation(name, given[name])
    if merge_mode is not None:
        _merge(merge_mode)
    if reset_after is not None:
        _checks.check_flag("reset_after", reset_after)
    if not isinstance(weights, str | os.PathLike):
        return _read_network(weights, KerasConfig(), prefix, layers, given, merge_mode)
    with _keras_files.opened(weights) as (tensors, config):
        return _read_network(tensors, config, prefix, layers, given, merge_mode)


def to_keras(
    network: Network | Cell,
    params: Params,
    *,
    prefix: str = "",
    layers: Sequence[LayerName] | None = None,
) -> dict[str, np.ndarray]:
    """Write the weights of Keras's recurrent layers: the inverse of `from_keras`.

    They come back bit for bit, except for the two rows of a GRU's bias: the sum of z's and of r's is in the first row,
    and the second is zero there. Cells with ``bias=False`` have no bias. The Keras layers must be made with the
    network's options, such as use_bias, activations and merge_mode.

    Args:
      network: a `Layer`, a `Bidirectional`, or a `Stack` of either; or a cell.
      params: its params.
      prefix: where the layers are in a larger model.
      layers: the layers' names, as for `from_keras`; a `Stack` needs them.

    Returns:
      Arrays by their paths, in Keras's order: ``layer.set_weights(list(to_keras(...).values()))``.

    Raises:
      ValueError, TypeError: if params do not fit the network, or Keras has no such network.

    >>> from jaxlstm.interop import to_keras
    >>> network = jl.Layer(jl.LSTMCell(4))
    >>> list(to_keras(network, network.init(jax.random.key(0), 3), prefix="lstm"))
    ['lstm/lstm_cell/kernel', 'lstm/lstm_cell/recurrent_kernel', 'lstm/lstm_cell/bias']
    """
    return _nest.write_network(network, params, prefix, layers, _DIALECT, _keras_cells.write)


def _find_directions(children: list[str]) -> tuple[str, str] | None:
    """Bidirectional's layers, which it names forward_x and backward_y."""
    forward, backward = ([name for name in children if name.startswith(start)] for start in ("forward_", "backward_"))
    return (forward[0], backward[0]) if len(forward) == len(backward) == 1 and len(children) == 2 else None


def _layer_name(cell: Cell) -> str:
    """Keras's name for the first layer of this kind."""
    return "lstm" if isinstance(cell, LSTMCell) else "gru" if isinstance(cell, GRUCell) else "simple_rnn"


_DIALECT = Dialect(
    "/",
    "{v.path: v for v in model.weights}, or the path of a .keras, .weights.h5 or .h5 file",
    is_cell=lambda scope: any("/" not in name for name in scope.tensors),
    is_recurrent=lambda tensors: len(getattr(tensors.get("recurrent_kernel"), "shape", ())) == 2,
    find_directions=_find_directions,
    directions=lambda cell: (f"forward_{_layer_name(cell)}", f"backward_{_layer_name(cell)}"),
    in_layer=lambda cell: f"{_layer_name(cell)}_cell",
    names_are_cells=False,
    optional_bias=True,
    ignored=r"(^|/)seed_generator",
)


def _read_network(
    weights: Mapping[str, Any],
    config: KerasConfig,
    prefix: str,
    layers: Sequence[LayerName] | None,
    given: dict[str, Any],
    merge_mode: str | None,
) -> tuple[Network, Params]:
    """Read the network. An option that is not given is taken from the file's configuration."""

    def read(scope: Scope) -> tuple[Layer, Params]:
        told = config.options(scope.path)
        options = {name: told.get(name) if value is None else value for name, value in given.items()}
        params = _keras_cells.read(scope, options["reset_after"])
        if config.version is not None and config.version < _OLD_DEFAULT and options["recurrent_activation"] is None:
            _check_old_default(scope, params, config)
        return Layer(_cell(scope, params, options), reverse=told.get("go_backwards") is True), params

    def merge(path: str) -> str:
        return _merge(merge_mode or config.merge_mode(path) or "concat")

    scope = _select.all_tensors(weights, _DIALECT)
    scope = scope._replace(tensors={re.sub(r":\d+$", "", name): value for name, value in scope.tensors.items()})
    network, params = _nest.read_network(scope, prefix, layers, _DIALECT, read, merge)
    if isinstance(network, Stack) and any(isinstance(layer, Layer) and layer.reverse for layer in network.layers):
        expected = "a layer with go_backwards=True to be read alone, since Keras reverses its outputs"
        _checks.reject("layers", expected, layers)
    return network, params


def _check_old_default(scope: Scope, params: Any, config: KerasConfig) -> None:
    """Ask for recurrent_activation if an old Keras wrote the file, whose default was hard_sigmoid."""
    cudnn = scope.tensors.get("bias", params.w_hh).shape == (2 * params.w_hh.shape[1],)  # always sigmoid
    if not isinstance(params, RNNParams) and not cudnn:
        version = ".".join(map(str, config.version or ()))
        expected = f"'keras2_hard_sigmoid', the default of Keras {version}, which wrote this file, or what was used"
        _checks.reject("recurrent_activation", expected, None)


def _merge(merge_mode: Any) -> str:
    """Our name for a merge_mode."""
    if not isinstance(merge_mode, str) or merge_mode not in _MERGES:
        _tensors.reject("merge_mode", " or ".join(map(repr, _MERGES)), repr(merge_mode))
    return _MERGES[merge_mode]


def _activation(name: str, activation: Any) -> Activation:
    """The function of this name, or the function given."""
    if callable(activation):
        _checks.check_function(name, activation)
        return cast(Activation, activation)
    if not isinstance(activation, str) or activation not in KERAS:
        _tensors.reject(name, f"a function or one of {', '.join(map(repr, KERAS))}", _checks.describe(activation))
    return KERAS[activation]


def _cell(scope: Scope, params: Any, options: dict[str, Any]) -> Cell:
    """The cell that these params are of."""
    size, bias = params.w_hh.shape[0], params.b is not None
    if isinstance(params, RNNParams) and options["activation"] is None:
        _tensors.reject("activation", f"that of the SimpleRNN {scope.path!r}, which weights do not show", None)
    activation_fn = _activation("activation", options["activation"] or "tanh")
    if isinstance(params, RNNParams):
        return RNNCell(size, activation_fn=activation_fn, bias=bias)
    gate_fn = _activation("recurrent_activation", options["recurrent_activation"] or "sigmoid")
    if isinstance(params, LSTMParams):
        return LSTMCell(size, bias=bias, gate_fn=gate_fn, activation_fn=activation_fn)
    reset_after = params.b_hn is not None if bias else options["reset_after"]
    return GRUCell(size, bias=bias, reset_after=reset_after, gate_fn=gate_fn, activation_fn=activation_fn)
