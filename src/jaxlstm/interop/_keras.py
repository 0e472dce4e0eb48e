"""Weights of Keras's LSTM, GRU and SimpleRNN layers and cells, and of Bidirectional.

Its matrices are [in, out] as here; the gates of a GRU are packed z, r, h, and those of an LSTM i, f, c, o, which is the
order used here. A GRU with reset_after has a bias of two rows.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._network import Network
from jaxlstm._step import Params
from jaxlstm.cells import GRUCell, GRUParams, LSTMCell, LSTMParams, RNNCell, RNNParams
from jaxlstm.interop import _nest, _tensors
from jaxlstm.interop._activations import KERAS, Activation
from jaxlstm.interop._nest import Dialect, LayerName
from jaxlstm.interop._tensors import Scope

_GATES = {"lstm_cell": 4, "gru_cell": 3, "simple_rnn_cell": 1}  # by the names that Keras gives to cells
_GRU_ORDER = (1, 0, 2)  # z r h <-> r z n: its own inverse
_MERGES = {"concat": "concat", "sum": "sum", "mul": "mul", "ave": "mean"}


def from_keras(
    weights: Mapping[str, Any],
    *,
    prefix: str = "",
    layers: Sequence[LayerName] | None = None,
    activation: str | Activation | None = None,
    recurrent_activation: str | Activation = "sigmoid",
    reset_after: bool | None = None,
    merge_mode: str = "concat",
) -> tuple[Network, Params]:
    """Read Keras's recurrent layers.

        w_ih = kernel    w_hh = recurrent_kernel    b = bias                     GRU: gates z, r, h
        b_r, b_z = the sums of the two rows    b_n, b_hn = the rows apart        GRU with reset_after

    Units and biases (without, zeros) are told by the shapes, and the reset form of a GRU by its bias. What no weight
    tells are the other arguments, with Keras's names; they hold for all layers read at once.

    Args:
      weights: ``{v.path: v for v in layer.weights}``, of a layer, a cell or a model.
      prefix: where the layers are in a larger model, such as ``"sequential/lstm_3"``. All below it must be theirs.
      layers: of several layers the names, bottom first, such as ``("lstm", "bidirectional")``.
      activation: a name or a function; None means "tanh" for LSTM and GRU. A SimpleRNN's must be given.
      recurrent_activation: a name or a function. "hard_sigmoid" has the slope 1/6 of Keras 3, "keras2_hard_sigmoid" the
        0.2 of the versions before.
      reset_after: of a GRU without biases; told by the biases otherwise.
      merge_mode: of Bidirectional: "concat", "sum", "mul" or "ave".

    Returns:
      ``(network, params)``: a `Layer`, a `Bidirectional`, or a `Stack`. Dropout and go_backwards are not read.

    Raises:
      ValueError, TypeError: if a tensor is missing, too many or of another shape, rank or dtype; the message names it.

    >>> import numpy as np
    >>> from jaxlstm.interop import from_keras
    >>> shapes = {"kernel": (3, 12), "recurrent_kernel": (4, 12), "bias": (2, 12)}
    >>> weights = {f"gru/gru_cell/{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
    >>> from_keras(weights)[0]
    Layer(cell=GRUCell(hidden_size=4), reverse=False)
    """
    gate_fn = _activation("recurrent_activation", recurrent_activation)
    activation_fn = None if activation is None else _activation("activation", activation)
    if merge_mode not in _MERGES:
        _checks.reject("merge_mode", " or ".join(map(repr, _MERGES)), repr(merge_mode))
    if reset_after is not None:
        _checks.check_flag("reset_after", reset_after)

    def read(scope: Scope) -> tuple[Cell, Params]:
        params = _read(scope, reset_after)
        return _cell(scope, params, gate_fn, activation_fn), params

    scope = _tensors.read_scope(weights, prefix, "/")
    return _nest.read_network(scope, layers, _DIALECT, read, _MERGES[merge_mode])


def to_keras(
    network: Network | Cell,
    params: Params,
    *,
    prefix: str = "",
    layers: Sequence[LayerName] | None = None,
    bias: bool = True,
) -> dict[str, np.ndarray]:
    """Write the weights of Keras's recurrent layers.

    The inverse of `from_keras`, bit for bit but for the two rows of a GRU's bias that were added: here all is in the
    first row, and the second is zero for z and r. What no weight tells, such as activations and merge_mode, the Keras
    layers must be given as the network has it.

    Args:
      network: a `Layer`, a `Bidirectional`, or a `Stack` of either; or a cell.
      params: its params.
      prefix: put before the names, with a slash.
      layers: the layers' names, as for `from_keras`; a `Stack` needs them.
      bias: whether the layers have biases. True writes zeros for a cell with bias=False. False needs params whose
        biases are zero or None.

    Returns:
      Arrays by their paths, in Keras's order: ``layer.set_weights(list(to_keras(...).values()))``.

    Raises:
      ValueError, TypeError: if params do not fit the network, or Keras has no such network.

    >>> from jaxlstm.interop import to_keras
    >>> network = jl.Layer(jl.LSTMCell(4))
    >>> list(to_keras(network, network.init(jax.random.key(0), 3), prefix="lstm"))
    ['lstm/lstm_cell/kernel', 'lstm/lstm_cell/recurrent_kernel', 'lstm/lstm_cell/bias']
    """
    _checks.check_flag("bias", bias)

    def write(cell: Cell, params: Any) -> dict[str, np.ndarray]:
        return _write(cell, params, bias)

    return _nest.write_network(network, params, prefix, layers, _DIALECT, write)


def _find_directions(children: list[str]) -> tuple[str, str] | None:
    """forward_x and backward_y, which is how Bidirectional names its layers."""
    forward, backward = ([name for name in children if name.startswith(start)] for start in ("forward_", "backward_"))
    return (forward[0], backward[0]) if len(forward) == len(backward) == 1 and len(children) == 2 else None


def _layer_name(cell: Cell) -> str:
    """What Keras calls the first layer of this kind."""
    return "lstm" if isinstance(cell, LSTMCell) else "gru" if isinstance(cell, GRUCell) else "simple_rnn"


_DIALECT = Dialect(
    "/",
    is_cell=lambda scope: any("/" not in name for name in scope.tensors),
    find_directions=_find_directions,
    directions=lambda cell: (f"forward_{_layer_name(cell)}", f"backward_{_layer_name(cell)}"),
    in_layer=lambda cell: f"{_layer_name(cell)}_cell",
    names_are_cells=False,
)


def _activation(name: str, activation: str | Activation) -> Activation:
    """The function of this name, or the function given."""
    if callable(activation):
        _checks.check_function(name, activation)
        return activation
    if not isinstance(activation, str) or activation not in KERAS:
        _checks.reject(name, f"a function or one of {', '.join(map(repr, KERAS))}", _checks.describe(activation))
    return KERAS[activation]


def _cell(scope: Scope, params: Any, gate_fn: Activation, activation_fn: Activation | None) -> Cell:
    """The cell that these params are of."""
    size = params.w_hh.shape[0]
    if isinstance(params, RNNParams):
        if activation_fn is None:
            _checks.reject("activation", f"that of the SimpleRNN {scope.path!r}, which no weight tells", None)
        return RNNCell(size, activation_fn=activation_fn)
    functions = {"gate_fn": gate_fn, "activation_fn": activation_fn or jnp.tanh}
    if isinstance(params, GRUParams):
        return GRUCell(size, reset_after=params.b_hn is not None, **functions)
    return LSTMCell(size, **functions)


def _read(scope: Scope, reset_after: bool | None) -> Any:
    """Params of one cell."""
    names = ["kernel", "recurrent_kernel"] + ["bias"] * ("bias" in scope.tensors)
    _tensors.check_names(scope, names, "a recurrent layer of Keras")
    size, packed = _tensors.check_matrix(scope, "recurrent_kernel")
    known = _GATES.get(re.sub(r"_\d+$", "", scope.name))
    gates = _tensors.gate_count(scope, "recurrent_kernel", packed, size, (known,) if known else (4, 3, 1))
    features, _ = _tensors.check_matrix(scope, "kernel")
    _tensors.check_shapes(scope, {"kernel": (features, packed)})
    w_ih, w_hh = scope.tensors["kernel"], scope.tensors["recurrent_kernel"]
    if gates == 3:
        b, b_hn = _read_gru_bias(scope, w_hh, reset_after)
        w_ih, w_hh = (_tensors.reorder(w, _GRU_ORDER) for w in (w_ih, w_hh))
        return _tensors.make_params(GRUParams, w_ih=w_ih, w_hh=w_hh, b=b, b_hn=b_hn)
    b = scope.tensors.get("bias", np.zeros(packed, w_hh.dtype))
    _tensors.check_shapes(scope._replace(tensors={"bias": b}), {"bias": (packed,)})
    kind = LSTMParams if gates == 4 else RNNParams
    return _tensors.make_params(kind, w_ih=w_ih, w_hh=w_hh, b=b)


def _read_gru_bias(scope: Scope, w_hh: np.ndarray, reset_after: bool | None) -> tuple[np.ndarray, np.ndarray | None]:
    """(b, b_hn), the latter None for a GRU that resets before the matmul."""
    packed = w_hh.shape[-1]
    shapes = {True: (2, packed), False: (packed,)}
    bias = scope.tensors.get("bias")
    if bias is None:
        if reset_after is None:
            _checks.reject("reset_after", f"True or False for the GRU {scope.path!r}, which has no bias to tell", None)
        bias = np.zeros(shapes[reset_after], w_hh.dtype)
    if reset_after is None and bias.shape not in shapes.values():
        _checks.reject(f"{scope.path}bias", f"shape {shapes[True]} or {shapes[False]}", bias.shape)
    elif reset_after is not None and bias.shape != shapes[reset_after]:
        _checks.reject(f"{scope.path}bias", f"shape {shapes[reset_after]} for reset_after={reset_after}", bias.shape)
    bias = _tensors.reorder(bias, _GRU_ORDER)
    return _tensors.merge_gru_biases(*bias) if bias.ndim == 2 else (bias, None)


def _write(cell: Cell, params: Any, bias: bool) -> dict[str, np.ndarray]:
    """Tensors of one cell, in Keras's order."""
    tensors = {"kernel": params.w_ih, "recurrent_kernel": params.w_hh, "bias": params.b}
    if isinstance(cell, GRUCell):
        if params.b_hn is not None:
            tensors["bias"] = np.stack(_tensors.split_gru_bias(params.b, params.b_hn))
        tensors = {name: _tensors.reorder(array, _GRU_ORDER) for name, array in tensors.items()}
    if not bias:
        _tensors.check_zeros("params: biases", tensors.pop("bias"), "for bias=False")
    return tensors
