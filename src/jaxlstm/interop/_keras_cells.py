"""The tensors of one recurrent cell of Keras: kernel, recurrent_kernel and bias.

The gates of a GRU are packed z, r, h. Those of an LSTM are packed i, f, c, o, the order used here.
"""

import re
from typing import Any

import numpy as np

from jaxlstm._cell import Cell
from jaxlstm.cells import GRUCell, GRUParams, LSTMParams, RNNParams
from jaxlstm.interop import _tensors
from jaxlstm.interop._tensors import Scope

_GATES = {"lstm_cell": 4, "gru_cell": 3, "simple_rnn_cell": 1}  # by the names that Keras gives to cells
_GRU_ORDER = (1, 0, 2)  # z r h <-> r z n: its own inverse


def read(scope: Scope, reset_after: bool | None) -> Any:
    """Params of one cell."""
    names = ["kernel", "recurrent_kernel"] + ["bias"] * ("bias" in scope.tensors)
    _tensors.check_names(scope, names, "a recurrent layer of Keras")
    size, packed = _tensors.check_matrix(scope, "recurrent_kernel")
    known = _GATES.get(re.sub(r"_\d+$", "", scope.name))
    gates = _tensors.gate_count(scope, "recurrent_kernel", packed, size, (known,) if known else (4, 3, 1))
    features, _ = _tensors.check_matrix(scope, "kernel")
    _tensors.check_shapes(scope, {"kernel": (features, packed)})
    if gates > 1 and "bias" in scope.tensors and scope.tensors["bias"].shape == (2 * packed,):
        scope = _from_cudnn(scope, gates)
    w_ih, w_hh, b = scope.tensors["kernel"], scope.tensors["recurrent_kernel"], scope.tensors.get("bias")
    if gates == 3:
        b, b_hn = _read_gru_bias(scope, packed, reset_after)
        w_ih, w_hh = (_tensors.reorder(w, _GRU_ORDER) for w in (w_ih, w_hh))
        return _tensors.make_params(GRUParams, w_ih=w_ih, w_hh=w_hh, b=b, b_hn=b_hn)
    if b is not None:
        _tensors.check_shapes(scope, {"bias": (packed,)})
    kind = LSTMParams if gates == 4 else RNNParams
    return _tensors.make_params(kind, w_ih=w_ih, w_hh=w_hh, b=b)


def write(cell: Cell, params: Any) -> dict[str, np.ndarray]:
    """Tensors of one cell, in Keras's order."""
    tensors = {"kernel": params.w_ih, "recurrent_kernel": params.w_hh}
    if params.b is not None:
        tensors["bias"] = params.b
    if isinstance(cell, GRUCell):
        if params.b is not None and params.b_hn is not None:
            tensors["bias"] = np.stack(_tensors.split_gru_bias(params.b, params.b_hn))
        tensors = {name: _tensors.reorder(array, _GRU_ORDER) for name, array in tensors.items()}
    return tensors


def _from_cudnn(scope: Scope, gates: int) -> Scope:
    """Turn the tensors of a CuDNNLSTM or CuDNNGRU into those of an LSTM or of a GRU with reset_after.

    The numbers of each gate's matrix are those of its transpose, row after row. The bias is two biases, concatenated.
    """
    arrays = dict(scope.tensors)
    for name in ("kernel", "recurrent_kernel"):
        parts = np.split(arrays[name], gates, axis=1)
        arrays[name] = np.concatenate([part.reshape(part.shape[::-1]).T for part in parts], axis=1)
    both = arrays["bias"].reshape(2, -1)
    arrays["bias"] = both if gates == 3 else both[0] + both[1]
    return scope._replace(tensors=arrays)


def _read_gru_bias(scope: Scope, packed: int, reset_after: bool | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(b, b_hn). b_hn is None for a GRU that resets before the matmul."""
    bias = scope.tensors.get("bias")
    if bias is None:
        if reset_after is None:
            _tensors.reject(
                "reset_after", f"True or False for the GRU {scope.path!r}, which only a bias would show", None
            )
        return None, None
    shapes = {True: (2, packed), False: (packed,)}
    if reset_after is None and bias.shape not in shapes.values():
        _tensors.reject(f"{scope.path}bias", f"shape {shapes[True]} or {shapes[False]}", bias.shape)
    elif reset_after is not None and bias.shape != shapes[reset_after]:
        _tensors.reject(f"{scope.path}bias", f"shape {shapes[reset_after]} for reset_after={reset_after}", bias.shape)
    bias = _tensors.reorder(bias, _GRU_ORDER)
    return _tensors.merge_gru_biases(*bias) if bias.ndim == 2 else (bias, None)
