"""The tensors of one nn.LSTM, nn.GRU or nn.RNN of torch, with all its layers and directions, or of one of its cells."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._layers import Bidirectional, Layer
from jaxlstm._network import Network
from jaxlstm._stack import Stack
from jaxlstm._step import Params
from jaxlstm.cells import (
    GRUCell,
    GRUParams,
    LSTMCell,
    LSTMParams,
    LSTMVariantCell,
    LSTMVariantParams,
    RNNCell,
    RNNParams,
)
from jaxlstm.interop import _tensors
from jaxlstm.interop._tensors import Scope

_NONLINEARITIES = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def read(scope: Scope, nonlinearity: str | None) -> tuple[Network, Params]:
    """Read all layers and directions of one module."""
    suffixes = _suffixes(scope)
    cell, input_size = _cell(scope, suffixes[0], nonlinearity)
    _check(scope, suffixes, cell, input_size)
    params = [_read_cell(scope, suffix, cell) for suffix in suffixes]
    if not any(suffix.endswith("_reverse") for suffix in suffixes):
        layers, nested = [Layer(cell)] * len(suffixes), params
    else:
        layers = [Bidirectional(cell)] * (len(suffixes) // 2)
        nested = list(zip(params[::2], params[1::2], strict=True))
    return (layers[0], nested[0]) if len(layers) == 1 else (Stack(*layers), tuple(nested))


def write(network: Network | Cell, params: Params) -> dict[str, np.ndarray]:
    """The tensors of one module. It has biases if one of the cells has."""
    cells = _cells(network)
    for cell in cells.values():
        _check_cell(cell, next(iter(cells.values())))
    bias = any(_has_bias(cell) for cell in cells.values())
    tensors = {}
    for (suffix, cell), one in zip(cells.items(), _tensors.params_per_cell(network, params), strict=True):
        written = _write_cell(cell, _tensors.fill_biases(cell, one) if bias else one)
        tensors |= {name + suffix: array for name, array in written.items()}
    return tensors


def _has_bias(cell: Any) -> bool:
    return cell.bias


def _suffixes(scope: Scope) -> list[str]:
    """The suffix of each cell's tensors, bottom first, forward before backward. A single cell has an empty one."""
    found = {name[match.start() :] for name in scope.tensors if (match := re.search(r"_l\d{1,4}(_reverse)?$", name))}
    if not found:
        return [""]
    depth = 1 + max(int(suffix[2:].partition("_")[0]) for suffix in found)
    ends = ("", "_reverse") if any(suffix.endswith("_reverse") for suffix in found) else ("",)
    return [f"_l{layer}{end}" for layer in range(depth) for end in ends]


def _names(scope: Scope) -> list[str]:
    """The names of one cell's tensors."""
    names = ["weight_ih", "weight_hh"]
    if any(name.startswith("bias") for name in scope.tensors):
        names += ["bias_ih", "bias_hh"]
    return names + ["weight_hr"] * any(name.startswith("weight_hr") for name in scope.tensors)


def _cell(scope: Scope, suffix: str, nonlinearity: str | None) -> tuple[Cell, int]:
    """The cell of one layer and direction, and its input size."""
    for name in ("weight_ih", "weight_hh"):
        if name + suffix not in scope.tensors:
            _tensors.check_names(scope, [name + suffix for name in _names(scope)], "torch's LSTM, GRU or RNN")
    bias = "bias_ih" in _names(scope)
    _, input_size = _tensors.check_matrix(scope, f"weight_ih{suffix}")
    rows, size = _tensors.check_matrix(scope, f"weight_hh{suffix}")
    if f"weight_hr{suffix}" in scope.tensors:
        projection_size, hidden_size = _tensors.check_matrix(scope, f"weight_hr{suffix}")
        gates, cell = 4, LSTMVariantCell(hidden_size, projection_size=projection_size, bias=bias)
    else:
        gates = _tensors.gate_count(scope, f"weight_hh{suffix}", rows, size)
        cell = LSTMCell(size, bias=bias) if gates == 4 else GRUCell(size, bias=bias)
    if (gates == 1) != (nonlinearity is not None):
        kind = "'tanh' or 'relu' for an RNN" if gates == 1 else "None for an LSTM or a GRU"
        _tensors.reject("nonlinearity", kind, repr(nonlinearity))
    if gates == 1:
        if nonlinearity not in _NONLINEARITIES:
            _checks.reject("nonlinearity", "'tanh' or 'relu'", repr(nonlinearity))
        cell = RNNCell(size, activation_fn=_NONLINEARITIES[nonlinearity], bias=bias)
    return cell, input_size


def _check(scope: Scope, suffixes: list[str], cell: Cell, input_size: int) -> None:
    """Check all names and shapes, which follow from those of the first layer."""
    names = _names(scope)
    what = f"{len(suffixes)} of {cell}"
    _tensors.check_names(scope, [name + suffix for suffix in suffixes for name in names], what)
    out, size = cell.output_size, cell.hidden_size
    rows = size * (4 if isinstance(cell, LSTMCell | LSTMVariantCell) else 3 if isinstance(cell, GRUCell) else 1)
    directions = 2 if suffixes[-1].endswith("_reverse") else 1
    for index, suffix in enumerate(suffixes):
        features = input_size if index < directions else directions * out
        shapes = {"weight_ih": (rows, features), "weight_hh": (rows, out), "weight_hr": (out, size)}
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        _tensors.check_shapes(scope, {name + suffix: shapes[name] for name in names})


def _read_cell(scope: Scope, suffix: str, cell: Cell) -> Params:
    """Params of one cell."""
    tensors = scope.tensors
    weights = {"w_ih": tensors[f"weight_ih{suffix}"].T, "w_hh": tensors[f"weight_hh{suffix}"].T}
    b, b_hn = None, None
    if _has_bias(cell):
        b_ih, b_hh = tensors[f"bias_ih{suffix}"], tensors[f"bias_hh{suffix}"]
        b, b_hn = _tensors.merge_gru_biases(b_ih, b_hh) if isinstance(cell, GRUCell) else (b_ih + b_hh, None)
    if isinstance(cell, GRUCell):
        return _tensors.make_params(GRUParams, **weights, b=b, b_hn=b_hn)
    if isinstance(cell, LSTMVariantCell):
        return _tensors.make_params(LSTMVariantParams, **weights, b=b, w_hr=tensors[f"weight_hr{suffix}"].T)
    return _tensors.make_params(LSTMParams if isinstance(cell, LSTMCell) else RNNParams, **weights, b=b)


def _write_cell(cell: Cell, params: Any) -> dict[str, np.ndarray]:
    """Tensors of one cell, in torch's order."""
    tensors = {"weight_ih": params.w_ih.T, "weight_hh": params.w_hh.T}
    if params.b is not None:
        b_ih, b_hh = params.b, np.zeros_like(params.b)
        if isinstance(cell, GRUCell):
            b_ih, b_hh = _tensors.split_gru_bias(params.b, params.b_hn)
        tensors |= {"bias_ih": b_ih, "bias_hh": b_hh}
    if getattr(params, "w_hr", None) is not None:
        tensors["weight_hr"] = params.w_hr.T
    return tensors


def _cells(network: Network | Cell) -> dict[str, Cell]:
    """The cells by the suffixes of their tensors."""
    if isinstance(network, Cell):
        return {"": network}
    layers = network.layers if isinstance(network, Stack) else (network,)
    both = isinstance(layers[0], Bidirectional)
    cells = {}
    for index, layer in enumerate(layers):
        if both and isinstance(layer, Bidirectional) and layer.merge == "concat":
            cells |= {f"_l{index}": layer.cell, f"_l{index}_reverse": layer.backward_cell or layer.cell}
        elif not both and isinstance(layer, Layer) and not layer.reverse:
            cells[f"_l{index}"] = layer.cell
        else:
            expected = "Bidirectional(..., merge='concat')" if both else "Layer(..., reverse=False)"
            _checks.reject("network", f"{expected} in every layer, which is what torch has", layer)
    return cells


def _check_cell(cell: Cell, first: Cell) -> None:
    """Check that torch has such a cell, and that it is like the first."""
    if _kind(cell) is None:
        _checks.reject("network", "LSTM, GRU (reset_after) or RNN (tanh, relu) cells as torch has them", cell)
    if _kind(cell) != _kind(first):
        _checks.reject("network", f"cells like the first, {first}", cell)


def _kind(cell: Cell) -> tuple[Any, ...] | None:
    """What two cells of one torch module have in common, or None if torch has no such cell."""
    if type(cell) not in (LSTMCell, LSTMVariantCell, GRUCell, RNNCell):  # a subclass may compute anything
        return None
    sizes = (cell.hidden_size, cell.output_size)
    match cell:
        case LSTMVariantCell(peephole=False, coupled=False, layer_norm=False, clip=None) | LSTMCell():
            usual = cell.gate_fn is jax.nn.sigmoid and cell.activation_fn is jnp.tanh
            return ("LSTM", getattr(cell, "projection_size", None), *sizes) if usual else None
        case GRUCell(reset_after=True, gate_fn=jax.nn.sigmoid, activation_fn=jnp.tanh):
            return ("GRU", *sizes)
        case RNNCell() if cell.activation_fn in _NONLINEARITIES.values():
            return ("RNN", cell.activation_fn, *sizes)
    return None
