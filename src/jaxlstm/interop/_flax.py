"""Weights of Flax, linen and nnx: LSTMCell, OptimizedLSTMCell, GRUCell and SimpleCell.

The matrices are [in, out], as here. Some cells have one for each gate, others pack them in the order used here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._layers import Layer
from jaxlstm._network import Network
from jaxlstm._step import Params
from jaxlstm.cells import GRUCell, GRUParams, LSTMCell, LSTMParams, RNNCell, RNNParams
from jaxlstm.interop import _nest, _select, _tensors
from jaxlstm.interop._select import Dialect, LayerName
from jaxlstm.interop._tensors import Scope

_LAYOUTS = ("linen", "nnx", "nnx_optimized")
_GATES = {  # at the input and at h, each in the order that is used here
    "LSTMCell": ("ii", "if", "ig", "io", "hi", "hf", "hg", "ho"),
    "LSTMCell of nnx": ("ii", "if_", "ig", "io", "hi", "hf", "hg", "ho"),
    "GRUCell": ("ir", "iz", "in", "hr", "hz", "hn"),
    "SimpleCell": ("i", "h"),
}
_BIASES = {
    "LSTMCell": ("hi", "hf", "hg", "ho"),
    "LSTMCell of nnx": ("hi", "hf", "hg", "ho"),
    "GRUCell": ("ir", "iz", "in", "hn"),
    "SimpleCell": ("i",),
}
_NAMES = {kind: {f"{g}/kernel" for g in _GATES[kind]} | {f"{g}/bias" for g in _BIASES[kind]} for kind in _GATES} | {
    "packed LSTMCell": {"dense_i/kernel", "dense_h/kernel", "dense_h/bias"},
    "packed GRUCell or SimpleCell": {"dense_i/kernel", "dense_h/kernel", "dense_i/bias"},
}
_RECURRENT = ({"dense_h/kernel"}, {"hf/kernel"}, {"hn/kernel"}, {"i/kernel", "h/kernel"})  # what tells a cell
_DIRECTIONS = ("forward_rnn", "backward_rnn")
_DIALECT = Dialect(
    "/",
    "the dict variables['params'] of linen, or nnx.to_pure_dict(nnx.state(module, nnx.Param))",
    is_cell=lambda scope: any(name.count("/") == 1 for name in scope.tensors),
    is_recurrent=lambda tensors: any(names <= set(tensors) for names in _RECURRENT),
    find_directions=lambda children: _DIRECTIONS if set(children) == set(_DIRECTIONS) else None,
    find_sequence=lambda children: _nest.find_numbered(children) or _nest.find_numbered(children, "layers_"),
    directions=lambda cell: _DIRECTIONS,
    in_layer=lambda cell: "cell",
    ignored=r"(^|/)rngs/",
)


def from_flax(
    weights: Mapping[Any, Any],
    *,
    prefix: str = "",
    layers: Sequence[LayerName] | None = None,
    gate_fn: Callable[[Array], Array] = jax.nn.sigmoid,
    activation_fn: Callable[[Array], Array] | None = None,
) -> tuple[Network, Params]:
    """Read Flax's recurrent cells, linen's or nnx's, alone or out of a larger model.

    linen: a matrix for each gate, with LSTM biases at h (hi, hf, hg, ho) and GRU biases at x (ir, iz, in) and hn.
    nnx: the same for its LSTMCell (but ``if_``); all others are packed in dense_i and dense_h. Its GRUCell has no b_hn,
    which is zero here. A SimpleCell with ``residual=True`` is no network of this library, and no weight shows it.

    Args:
      weights: linen's ``variables["params"]``, or of an nnx module ``nnx.to_pure_dict(nnx.state(module, nnx.Param))``.
      prefix: where the cells are in a larger model, such as ``"encoder/rnn"``. What comes before, such as ``params``,
        can be left out if only one place ends like this.
      layers: the paths of several cells or of what holds them, bottom first, such as ``("rnn_0", "rnn_1")``: each reads
        the outputs of the one before. Only their tensors are read. A pair of paths (forward, backward) is a
        `Bidirectional`. One cell alone, Flax's Bidirectional and Sequential need no names.
      gate_fn: the cells' gate_fn, if it is not their default.
      activation_fn: the cells' activation_fn; None means tanh for LSTM and GRU. For a SimpleCell it must be given.

    Returns:
      ``(network, params)``: a `Layer`, a `Bidirectional` that concatenates (Flax's default), or a `Stack`.

    Raises:
      ValueError, TypeError: if a tensor is missing, unexpected, or of the wrong shape or dtype; the message names it.
        Without a choice among several layers, the message lists them.

    >>> import numpy as np
    >>> from jaxlstm.interop import from_flax
    >>> w, b = np.ones((4, 12), np.float32), np.zeros(12, np.float32)
    >>> network, params = from_flax({"cell": {"dense_i": {"kernel": w, "bias": b}, "dense_h": {"kernel": w}}})
    >>> network
    Layer(cell=GRUCell(hidden_size=4))
    """
    _checks.check_function("gate_fn", gate_fn)
    if activation_fn is not None:
        _checks.check_function("activation_fn", activation_fn)

    def read(scope: Scope) -> tuple[Layer, Params]:
        params = _read(scope)
        return Layer(_cell(scope, params, gate_fn, activation_fn)), params

    return _nest.read_network(_select.all_tensors(weights, _DIALECT), prefix, layers, _DIALECT, read)


def to_flax(
    network: Network | Cell,
    params: Params,
    *,
    layout: str,
    prefix: str = "",
    layers: Sequence[LayerName] | None = None,
) -> dict[str, Any]:
    """Write the params of Flax's recurrent cells: the inverse of `from_flax`, bit for bit.

    The Flax modules must be made with the network's options, such as activations and merge_fn. Flax's cells always have
    biases: those of a cell with ``bias=False`` are zeros.

    Args:
      network: a `Layer` (Flax's RNN), a `Bidirectional` or a `Stack` (Flax's Sequential); or a cell.
      params: its params.
      layout: "linen"; "nnx", whose LSTM is nnx.LSTMCell; or "nnx_optimized", whose LSTM is nnx.OptimizedLSTMCell.
      prefix: where the cells are in a larger model, its parts separated by slashes.
      layers: the cells' paths, as for `from_flax`; None means those in Flax's RNN, Bidirectional and Sequential.

    Returns:
      Nested dicts, for linen's ``apply({"params": ...})`` and for ``nnx.replace_by_pure_dict``.

    Raises:
      ValueError, TypeError: if params do not fit the network, or Flax has no such cell (nnx: a GRU with b_hn not zero).

    >>> from jaxlstm.interop import to_flax
    >>> layer = jl.Layer(jl.GRUCell(4))
    >>> weights = to_flax(layer, layer.init(jax.random.key(0), 3), layout="linen")
    >>> sorted(weights["cell"])
    ['hn', 'hr', 'hz', 'in', 'ir', 'iz']
    """
    if layout not in _LAYOUTS:
        _checks.reject("layout", " or ".join(map(repr, _LAYOUTS)), repr(layout))
    dialect = _DIALECT._replace(number=("layers_{}" if layout == "linen" else "layers/{}").format)

    def write(cell: Cell, params: Any) -> dict[str, np.ndarray]:
        return _write(cell, params, layout)

    named = _nest.write_network(network, params, prefix, layers, dialect, write)
    nested: dict[Any, Any] = {}
    for name, array in named.items():
        *path, leaf = name.split("/")
        node = nested
        for part in path:
            node = node.setdefault(int(part) if part.isdecimal() and layout != "linen" else part, {})
        node[leaf] = array
    return nested


def _cell(scope: Scope, params: Any, gate_fn: Callable[..., Array], activation_fn: Callable[..., Array] | None) -> Cell:
    """The cell that these params are of."""
    size = params.w_hh.shape[0]
    if isinstance(params, RNNParams):
        if activation_fn is None:
            _tensors.reject("activation_fn", f"that of the SimpleCell {scope.path!r}, which weights do not show", None)
        return RNNCell(size, activation_fn=activation_fn)
    make = LSTMCell if isinstance(params, LSTMParams) else GRUCell
    return make(size, gate_fn=gate_fn, activation_fn=activation_fn or jnp.tanh)


def _read(scope: Scope) -> Any:
    """Params of one cell: of the kind that has most of its names."""
    kind = max(_NAMES, key=lambda kind: len(_NAMES[kind] & scope.tensors.keys()))
    _tensors.check_names(scope, sorted(_NAMES[kind]), f"Flax's {kind}")
    if kind.startswith("packed"):
        return _read_packed(scope)
    at_x, at_h = ([name for name in _GATES[kind] if name[0] == start] for start in "ih")
    size, _ = _tensors.check_matrix(scope, f"{at_h[0]}/kernel")
    features, _ = _tensors.check_matrix(scope, f"{at_x[0]}/kernel")
    shapes = {"i": (features, size), "h": (size, size)}
    _tensors.check_shapes(
        scope, {name: shapes[name[0]] if name.endswith("kernel") else (size,) for name in sorted(_NAMES[kind])}
    )

    def pack(names: list[str], leaf: str) -> np.ndarray:
        return np.concatenate([scope.tensors[f"{name}/{leaf}"] for name in names], axis=-1)

    w_ih, w_hh = pack(at_x, "kernel"), pack(at_h, "kernel")
    if kind == "GRUCell":
        return _tensors.make_params(
            GRUParams, w_ih=w_ih, w_hh=w_hh, b=pack(at_x, "bias"), b_hn=scope.tensors["hn/bias"]
        )
    if kind == "SimpleCell":
        return _tensors.make_params(RNNParams, w_ih=w_ih, w_hh=w_hh, b=pack(at_x, "bias"))
    return _tensors.make_params(LSTMParams, w_ih=w_ih, w_hh=w_hh, b=pack(at_h, "bias"))


def _read_packed(scope: Scope) -> Any:
    """Params of nnx cells with dense_i and dense_h; the side of the bias tells an LSTM."""
    size, packed = _tensors.check_matrix(scope, "dense_h/kernel")
    bias = "dense_h/bias" if "dense_h/bias" in scope.tensors else "dense_i/bias"
    gates = _tensors.gate_count(scope, "dense_h/kernel", packed, size, (4,) if bias.startswith("dense_h") else (3, 1))
    features, _ = _tensors.check_matrix(scope, "dense_i/kernel")
    _tensors.check_shapes(scope, {"dense_i/kernel": (features, packed), bias: (packed,)})
    w_ih, w_hh, b = (scope.tensors[name] for name in ("dense_i/kernel", "dense_h/kernel", bias))
    if gates == 3:
        return _tensors.make_params(GRUParams, w_ih=w_ih, w_hh=w_hh, b=b, b_hn=np.zeros(size, b.dtype))
    kind = LSTMParams if gates == 4 else RNNParams
    return _tensors.make_params(kind, w_ih=w_ih, w_hh=w_hh, b=b)


def _write(cell: Cell, params: Any, layout: str) -> dict[str, np.ndarray]:
    """Tensors of one cell."""
    if isinstance(cell, GRUCell) and not cell.reset_after:
        _checks.reject("network", "GRU cells with reset_after=True, as Flax has them", cell)
    lstm, gru = isinstance(cell, LSTMCell), isinstance(cell, GRUCell)
    if layout == "nnx_optimized" or (layout == "nnx" and not lstm):
        if gru:
            _tensors.check_zeros("params.b_hn", params.b_hn, "for nnx.GRUCell, which has none")
        tensors = {"dense_i/kernel": params.w_ih, "dense_h/kernel": params.w_hh}
        return {**tensors, "dense_h/bias" if lstm else "dense_i/bias": params.b}
    kind = "GRUCell" if gru else "SimpleCell" if not lstm else "LSTMCell of nnx" if layout == "nnx" else "LSTMCell"
    at_x, at_h = ([name for name in _GATES[kind] if name[0] == start] for start in "ih")
    tensors = _unpack(at_x, "kernel", params.w_ih) | _unpack(at_h, "kernel", params.w_hh)
    tensors |= _unpack(at_h if lstm else at_x, "bias", params.b)
    return {**tensors, "hn/bias": params.b_hn} if gru else tensors


def _unpack(gates: list[str], leaf: str, packed: np.ndarray) -> dict[str, np.ndarray]:
    """A tensor for each gate."""
    parts = np.split(packed, len(gates), axis=-1)
    return {f"{gate}/{leaf}": part for gate, part in zip(gates, parts, strict=True)}
