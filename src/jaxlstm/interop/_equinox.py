"""Weights of Equinox's LSTMCell and GRUCell: gates packed as here, matrices transposed."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._layers import Layer
from jaxlstm._network import Network
from jaxlstm._step import Params
from jaxlstm.cells import GRUCell, GRUParams, LSTMCell, LSTMParams
from jaxlstm.interop import _nest, _select, _tensors
from jaxlstm.interop._select import Dialect, LayerName
from jaxlstm.interop._tensors import Scope

_DIALECT = Dialect(
    ".",
    "a module, or a dict of arrays by their paths in it",
    is_cell=lambda scope: any("." not in name for name in scope.tensors),
    is_recurrent=lambda tensors: "weight_hh" in tensors,
    find_sequence=_nest.find_numbered,
    number=str,
    optional_bias=True,
)


def from_equinox(
    weights: Any, *, prefix: str = "", layers: Sequence[LayerName] | None = None
) -> tuple[Network, Params]:
    """Read Equinox's LSTMCell and GRUCell, alone or out of a larger module.

        w_ih = weight_ih^T    w_hh = weight_hh^T    b = bias    b_hn = bias_n

    A cell without biases gives one with ``bias=False``.

    Args:
      weights: a module, or a dict of arrays by their paths in it, such as ``"cells.0.weight_ih"``.
      prefix: where the cells are in a larger module, such as ``"encoder.cells"``. What comes before can be left out if
        only one place ends like this.
      layers: the paths of several cells, bottom first: each reads the outputs of the one before. Only their tensors are
        read. A pair of paths (forward, backward) is a `Bidirectional`. A list of cells alone needs no names.

    Returns:
      ``(network, params)``: a `Layer`, or what `layers` says.

    Raises:
      ValueError, TypeError: if a tensor is missing, unexpected, or of the wrong shape or dtype; the message names it.
        Without a choice among several layers, the message lists them.

    >>> import numpy as np
    >>> from jaxlstm.interop import from_equinox
    >>> shapes = {"weight_ih": (16, 3), "weight_hh": (16, 4), "bias": (16,)}
    >>> network, params = from_equinox({name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    >>> network
    Layer(cell=LSTMCell(hidden_size=4))
    """
    if not hasattr(weights, "shape"):  # a tree, in which dicts can hold modules
        leaves = jax.tree_util.tree_leaves_with_path(weights)
        named = [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]
        weights = dict(named)
        if len(weights) < len(named):
            _tensors.reject("weights", "different names", f"{len(named)} tensors with {len(weights)} names")
    return _nest.read_network(_select.all_tensors(weights, _DIALECT), prefix, layers, _DIALECT, _read)


def to_equinox(
    network: Network | Cell,
    params: Params,
    *,
    prefix: str = "",
    layers: Sequence[LayerName] | None = None,
) -> dict[str, np.ndarray]:
    """Write the arrays of Equinox's cells: the inverse of `from_equinox`, bit for bit.

    Cells with ``bias=False`` have no biases in Equinox either.

    Args:
      network: a `Layer`, a `Bidirectional` or a `Stack`, or a cell.
      params: its params.
      prefix: where the cells are in a larger module.
      layers: the cells' paths, as for `from_equinox`; None numbers the layers of a `Stack`, as a list does.

    Returns:
      Arrays by their paths, for ``equinox.tree_at``.

    Raises:
      ValueError, TypeError: if params do not fit the network, or Equinox has no such cell.

    >>> from jaxlstm.interop import to_equinox
    >>> cell = jl.GRUCell(4)
    >>> list(to_equinox(cell, cell.init(jax.random.key(0), 3)))
    ['weight_ih', 'weight_hh', 'bias', 'bias_n']
    """
    return _nest.write_network(network, params, prefix, layers, _DIALECT, _write)


def _read(scope: Scope) -> tuple[Layer, Params]:
    """One cell."""
    biases = [name for name in ("bias", "bias_n") if name in scope.tensors]
    if "weight_hh" not in scope.tensors:
        _tensors.check_names(scope, ["weight_ih", "weight_hh", *biases], "Equinox's LSTMCell or GRUCell")
    rows, size = _tensors.check_matrix(scope, "weight_hh")
    gates = _tensors.gate_count(scope, "weight_hh", rows, size, (3, 4))
    shapes = {"weight_hh": (rows, size), "bias": (rows,), "bias_n": (size,)}
    names = ["weight_ih", "weight_hh"]
    if biases:
        names += ["bias"] if gates == 4 else ["bias", "bias_n"]
    _tensors.check_names(scope, names, "Equinox's LSTMCell" if gates == 4 else "Equinox's GRUCell")
    shapes["weight_ih"] = (rows, _tensors.check_matrix(scope, "weight_ih")[1])
    _tensors.check_shapes(scope, {name: shapes[name] for name in names})

    tensors = scope.tensors
    arrays = {"w_ih": tensors["weight_ih"].T, "w_hh": tensors["weight_hh"].T, "b": tensors.get("bias")}
    if gates == 4:
        return Layer(LSTMCell(size, bias=bool(biases))), _tensors.make_params(LSTMParams, **arrays)
    arrays["b_hn"] = tensors.get("bias_n")
    return Layer(GRUCell(size, bias=bool(biases))), _tensors.make_params(GRUParams, **arrays)


def _write(cell: Cell, params: Any) -> dict[str, np.ndarray]:
    """Tensors of one cell."""
    reset_after = getattr(cell, "reset_after", True)
    if not isinstance(cell, LSTMCell | GRUCell) or not _nest.is_usual(cell) or not reset_after:
        _checks.reject("network", "LSTM or GRU (reset_after) cells with sigmoid and tanh, as Equinox has them", cell)
    tensors = {"weight_ih": params.w_ih.T, "weight_hh": params.w_hh.T}
    if params.b is None:
        return tensors
    return tensors | {"bias": params.b} | ({"bias_n": params.b_hn} if isinstance(cell, GRUCell) else {})
