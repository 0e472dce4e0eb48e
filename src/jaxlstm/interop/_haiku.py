"""Weights of Haiku's LSTM, GRU and VanillaRNN.

Its LSTM packs the gates i, g, f, o in one matmul of [x, h] and adds 1 to f in every step; here the 1 is in b. Its GRU
packs z, r, a, and its z is one minus the z here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._layers import Layer
from jaxlstm._network import Network
from jaxlstm._step import Params
from jaxlstm.cells import GRUCell, GRUParams, LSTMCell, LSTMParams, RNNCell, RNNParams
from jaxlstm.interop import _nest, _select, _tensors
from jaxlstm.interop._select import Dialect, LayerName
from jaxlstm.interop._tensors import Scope

_LSTM_ORDER = (0, 2, 1, 3)  # i g f o <-> i f g o, and below z r a <-> r z n: both are their own inverses
_GRU_ORDER = (1, 0, 2)
_DIALECT = Dialect(
    "/",
    "the dict of params that init gave",
    is_cell=lambda scope: any("/" not in name or name.startswith("linear/") for name in scope.tensors),
    is_recurrent=lambda tensors: {"w_i", "w_h"} <= set(tensors) or _is_core(tensors.get("linear/w"), tensors),
)


def from_haiku(
    weights: Mapping[str, Any], *, prefix: str = "", layers: Sequence[LayerName] | None = None
) -> tuple[Network, Params]:
    """Read Haiku's hk.LSTM, hk.GRU or hk.VanillaRNN, alone or out of a larger model.

        LSTM         w = [w_ih; w_hh] with gates i, g, f, o        b_f = b_f of Haiku + 1
        GRU          w_i, w_h, b with gates z, r, a                 z of Haiku = 1 - z, so its weights change sign
        VanillaRNN   linear: w_ih, b    linear_1: w_hh, b or none   the two b are added; the activation is relu

    Args:
      weights: the params that ``init`` gave, such as ``{"lstm/linear": {"w": ..., "b": ...}}``.
      prefix: where the cores are in a larger model, such as ``"encoder/~/lstm"``. What comes before can be left out if
        only one place ends like this.
      layers: the names of several cores, bottom first, such as ``("lstm", "lstm_1")``: each reads the outputs of the
        one before. Only their tensors are read. A pair of names (forward, backward) is a `Bidirectional`.

    Returns:
      ``(network, params)``: a `Layer`, or what `layers` says. The GRU has ``reset_after=False``.

    Raises:
      ValueError, TypeError: if a tensor is missing, unexpected, or of the wrong shape or dtype; the message names it.
        Without a choice among several layers, the message lists them.

    >>> import numpy as np
    >>> from jaxlstm.interop import from_haiku
    >>> weights = {"lstm/linear": {"w": np.ones((7, 16), np.float32), "b": np.zeros(16, np.float32)}}
    >>> network, params = from_haiku(weights)
    >>> network, float(params.b[4])
    (Layer(cell=LSTMCell(hidden_size=4)), 1.0)
    """
    return _nest.read_network(_select.all_tensors(weights, _DIALECT), prefix, layers, _DIALECT, _read)


def to_haiku(
    network: Network | Cell,
    params: Params,
    *,
    prefix: str = "",
    layers: Sequence[LayerName] | None = None,
    double_bias: bool = True,
) -> dict[str, dict[str, np.ndarray]]:
    """Write Haiku's params: the inverse of `from_haiku`.

    Weights come back bit for bit, biases except for what was added: b_f - 1 may differ from Haiku's b_f in its last
    bit, and a VanillaRNN has the sum of its two biases in linear and zeros in linear_1. Haiku's cores always have
    biases. For a cell with ``bias=False`` they are zeros, but -1 for the f of an LSTM, since Haiku adds 1.

    Args:
      network: a `Layer`, a `Bidirectional` or a `Stack`, or a cell.
      params: its params.
      prefix: where the cores are in a larger model.
      layers: the cores' names, as for `from_haiku`.
      double_bias: as of hk.VanillaRNN: whether linear_1 has a bias too.

    Returns:
      Haiku's params, for ``apply``.

    Raises:
      ValueError, TypeError: if params do not fit the network, or Haiku has no such core.

    >>> from jaxlstm.interop import to_haiku
    >>> cell = jl.LSTMCell(4)
    >>> weights = to_haiku(cell, cell.init(jax.random.key(0), 3), prefix="lstm")
    >>> {module: list(arrays) for module, arrays in weights.items()}
    {'lstm/linear': ['w', 'b']}
    """
    _checks.check_flag("double_bias", double_bias)

    def write(cell: Cell, params: Any) -> dict[str, np.ndarray]:
        return _write(cell, params, double_bias)

    nested: dict[str, dict[str, np.ndarray]] = {}
    for name, array in _nest.write_network(network, params, prefix, layers, _DIALECT, write).items():
        module, _, leaf = name.rpartition("/")
        nested.setdefault(module, {})[leaf] = array
    return nested


def _is_core(w: Any, tensors: Mapping[str, Any]) -> bool:
    """Whether these are an LSTM's or a VanillaRNN's by names and shapes. The names alone are those of any hk.Linear."""
    shape = getattr(w, "shape", ())
    if len(shape) != 2:
        return False
    if "linear_1/w" in tensors:
        return getattr(tensors["linear_1/w"], "shape", None) == (shape[1], shape[1])
    return shape[1] % 4 == 0 and shape[0] > shape[1] // 4


def _read(scope: Scope) -> tuple[Layer, Params]:
    """One core, told by the names of its tensors."""
    rnn = scope.name.startswith("vanilla_rnn")  # as Haiku calls it, or an RNN without its linear_1 passed for an LSTM
    if rnn or any(name.startswith("linear_1/") for name in scope.tensors):
        return _read_rnn(scope)
    return _read_lstm(scope) if any(name.startswith("linear/") for name in scope.tensors) else _read_gru(scope)


def _read_lstm(scope: Scope) -> tuple[Layer, Params]:
    _tensors.check_names(scope, ["linear/w", "linear/b"], "hk.LSTM")
    rows, columns = _tensors.check_matrix(scope, "linear/w")
    size = columns // 4
    if columns % 4 or rows <= size:
        expected = "shape (I + H, 4H)"
        _tensors.reject(f"{scope.path}linear/w", expected, f"shape {(rows, columns)}")
    _tensors.check_shapes(scope, {"linear/b": (columns,)})
    w, b = (_tensors.reorder(scope.tensors[name], _LSTM_ORDER) for name in ("linear/w", "linear/b"))
    params = _tensors.make_params(LSTMParams, w_ih=w[:-size], w_hh=w[-size:], b=_add_to_forget(b, 1))
    return Layer(LSTMCell(size)), params


def _read_gru(scope: Scope) -> tuple[Layer, Params]:
    _tensors.check_names(scope, ["w_i", "w_h", "b"], "hk.GRU")
    size, _ = _tensors.check_matrix(scope, "w_h")
    shapes = {"w_h": (size, 3 * size), "w_i": (_tensors.check_matrix(scope, "w_i")[0], 3 * size), "b": (3 * size,)}
    _tensors.check_shapes(scope, shapes)
    w_ih, w_hh, b = (_flip_z(_tensors.reorder(scope.tensors[name], _GRU_ORDER)) for name in ("w_i", "w_h", "b"))
    params = _tensors.make_params(GRUParams, w_ih=w_ih, w_hh=w_hh, b=b, b_hn=None)
    return Layer(GRUCell(size, reset_after=False)), params


def _read_rnn(scope: Scope) -> tuple[Layer, Params]:
    names = ["linear/w", "linear/b", "linear_1/w"] + ["linear_1/b"] * ("linear_1/b" in scope.tensors)
    _tensors.check_names(scope, names, "hk.VanillaRNN")
    size, _ = _tensors.check_matrix(scope, "linear_1/w")
    shapes = {"linear_1/w": (size, size), "linear/w": (_tensors.check_matrix(scope, "linear/w")[0], size)}
    shapes |= {name: (size,) for name in names if name.endswith("b")}
    _tensors.check_shapes(scope, shapes)
    w_ih, b, w_hh, *more = (scope.tensors[name] for name in names)
    params = _tensors.make_params(RNNParams, w_ih=w_ih, w_hh=w_hh, b=b + more[0] if more else b)
    return Layer(RNNCell(size, activation_fn=jax.nn.relu)), params


def _write(cell: Cell, params: Any, double_bias: bool) -> dict[str, np.ndarray]:
    """Tensors of one core."""
    if isinstance(cell, LSTMCell) and _nest.is_usual(cell):
        w = _tensors.reorder(np.concatenate([params.w_ih, params.w_hh]), _LSTM_ORDER)
        return {"linear/w": w, "linear/b": _tensors.reorder(_add_to_forget(params.b, -1), _LSTM_ORDER)}
    if isinstance(cell, GRUCell) and not cell.reset_after and _nest.is_usual(cell):
        tensors = {"w_i": params.w_ih, "w_h": params.w_hh, "b": params.b}
        return {name: _tensors.reorder(_flip_z(array), _GRU_ORDER) for name, array in tensors.items()}
    if not isinstance(cell, RNNCell) or cell.activation_fn is not jax.nn.relu:
        _checks.reject("network", "LSTM, GRU (reset_after=False) or RNN (relu) cells as Haiku has them", cell)
    tensors = {"linear/w": params.w_ih, "linear/b": params.b, "linear_1/w": params.w_hh}
    return tensors | ({"linear_1/b": np.zeros_like(params.b)} if double_bias else {})


def _add_to_forget(b: np.ndarray, amount: int) -> np.ndarray:
    """b, packed i, f, g, o, with the amount added to f."""
    i, f, g, o = np.split(b, 4)
    return np.concatenate([i, f + np.asarray(amount, b.dtype), g, o])


def _flip_z(packed: np.ndarray) -> np.ndarray:
    """The other sign for z, packed r, z, n: sigma(-a) = 1 - sigma(a)."""
    r, z, n = np.split(packed, 3, axis=-1)
    return np.concatenate([r, -z, n], axis=-1)
