"""Weights of torch's nn.LSTM, nn.GRU and nn.RNN, and of its single cells.

torch packs the gates in the same order, transposes the matrices, and has two biases where one would do.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._network import Network
from jaxlstm._stack import Stack
from jaxlstm._step import Params
from jaxlstm.interop import _nest, _safetensors, _select, _tensors, _torch_module
from jaxlstm.interop._arguments import check_network
from jaxlstm.interop._select import Dialect
from jaxlstm.interop._tensors import Scope

_DIALECT = Dialect(
    ".",
    "module.state_dict(), a dict of arrays by the same names, or the path of a safetensors file",
    is_cell=lambda scope: any(name.startswith("weight_hh") for name in scope.tensors),
    is_recurrent=lambda tensors: any(name.startswith("weight_hh") for name in tensors),
)


def from_torch(
    weights: Mapping[str, Any] | str | os.PathLike[str],
    *,
    prefix: str = "",
    layers: Sequence[str] | None = None,
    nonlinearity: str | None = None,
) -> tuple[Network, Params]:
    """Read an nn.LSTM, nn.GRU, nn.RNN or one of their cells, alone or out of a larger model.

        w_ih = weight_ih^T    w_hh = weight_hh^T    w_hr = weight_hr^T    b = bias_ih + bias_hh

    The two biases of a GRU's n stay apart: b_n = bias_ih_n, b_hn = bias_hh_n. Layers, directions, projection, biases
    and dtype follow from the names and shapes. A module without biases gives cells with ``bias=False``.

    Args:
      weights: ``model.state_dict()``, or a dict of arrays by the same names, nested or flat; or the path of a
        safetensors file. A file of torch.save is read by ``torch.load(path, weights_only=True)``.
      prefix: where the module is in a larger model, such as ``"encoder.rnn"``. What comes before, such as ``module.``
        or ``_orig_mod.``, can be left out if only one module's path ends like this.
      layers: the names of several modules, bottom first, such as ``("lstm1", "lstm2")``: each reads the outputs of the
        one before. Only the tensors of the chosen modules are read.
      nonlinearity: "tanh" or "relu" for an nn.RNN or nn.RNNCell, since no weight tells; otherwise None.

    Returns:
      ``(network, params)``: a `Layer`, a `Bidirectional`, or a `Stack`; several modules make a `Stack` of theirs.
      torch's dropout is not read. A single cell is a `Layer`, and ``network.cell`` is the cell.

    Raises:
      ValueError, TypeError: if a tensor is missing, unexpected, or of the wrong shape or dtype; the message names it.
        Without a choice among several modules, the message lists them.
      FileNotFoundError: if there is no such file.
      ImportError: if weights is a file and the package safetensors is missing.

    >>> import numpy as np
    >>> from jaxlstm.interop import from_torch
    >>> shapes = {"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4), "bias_ih_l0": (16,), "bias_hh_l0": (16,)}
    >>> network, params = from_torch({name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    >>> network
    Layer(cell=LSTMCell(hidden_size=4))
    >>> float(params.b[0])
    2.0
    """
    if isinstance(weights, str | os.PathLike):
        _check_not_pickled(weights)
        with _safetensors.opened(weights) as file:
            return from_torch(_safetensors.lazy_tensors(file), prefix=prefix, layers=layers, nonlinearity=nonlinearity)

    def read(scope: Scope) -> tuple[Network, Params]:
        return _torch_module.read(scope, nonlinearity)

    _check_layers(layers)
    return _nest.read_network(_select.all_tensors(weights, _DIALECT), prefix, layers, _DIALECT, read)


def to_torch(
    network: Network | Cell, params: Params, *, prefix: str = "", layers: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Write the state dict of an nn.LSTM, nn.GRU or nn.RNN, or of a single cell: the inverse of `from_torch`.

    The weights come back bit for bit. Of two biases that were added, the sum goes into bias_ih and zeros into bias_hh;
    bias_hh_n of a GRU is b_hn. Cells with ``bias=False`` have no biases in torch either, unless others of the module
    have some: then they get zeros.

    Args:
      network: a `Layer`, a `Bidirectional`, or a `Stack` of equal ones; or a cell, whose tensors are named as those of
        nn.LSTMCell, nn.GRUCell or nn.RNNCell.
      params: its params.
      prefix: where the module is in a larger model.
      layers: the modules' names, as for `from_torch`, if the network is a `Stack` of several modules.

    Returns:
      NumPy arrays by torch's names, in its order. ``torch.from_dlpack(jax.numpy.asarray(array))`` makes a tensor of any
      dtype; ``torch.from_numpy(array)`` does not know bfloat16.

    Raises:
      ValueError, TypeError: if params do not fit the network, or torch has no such network.

    >>> from jaxlstm.interop import to_torch
    >>> cell = jl.GRUCell(4)
    >>> list(to_torch(cell, cell.init(jax.random.key(0), 3)))
    ['weight_ih', 'weight_hh', 'bias_ih', 'bias_hh']
    """
    path = _tensors.path_of(prefix, ".")
    if layers is None:
        return {path + name: np.array(array, order="C") for name, array in _torch_module.write(network, params).items()}
    _check_layers(layers)
    parts = network.layers if isinstance(network, Stack) and len(layers) > 1 else (network,)
    if len(layers) != len(parts):
        _checks.reject("layers", f"{len(parts)} names", layers)
    check_network(network, params)
    params = params if len(parts) > 1 else (params,)
    tensors = {}
    for layer, part, one in zip(layers, parts, params, strict=True):
        tensors |= to_torch(part, one, prefix=path + layer)
    return tensors


def _check_not_pickled(path: str | os.PathLike[str]) -> None:
    """A file of torch.save holds a pickle, which can run code: only torch should open it."""
    with open(path, "rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04" or start[:1] == b"\x80":
        got = "a zip archive or a pickle, as torch.save writes: pass torch.load(path, weights_only=True)"
        _tensors.reject(os.fspath(path), "a safetensors file", got)


def _check_layers(layers: Sequence[str] | None) -> None:
    """Names of modules, of which torch has both directions in one."""
    if layers is not None and len(_select.check_layers(layers)) != len(layers):
        _checks.reject("layers", "names of modules", layers)
