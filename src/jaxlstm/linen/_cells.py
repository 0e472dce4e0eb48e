"""Which cells of Flax linen the core can run, and how their params lie in the core's."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen
from jaxtyping import Array

from jaxlstm._cell import Cell
from jaxlstm._step import Params
from jaxlstm._wrappers._cells import ResidualRNNCell
from jaxlstm._wrappers._sequence import is_static
from jaxlstm.cells import GRUCell, GRUParams, LSTMCell, LSTMParams, MGUCell, MGUParams, RNNCell, RNNParams

Gates = Mapping[str, Mapping[str, Array]]  # {"ii": {"kernel": ...}, "hi": {"kernel": ..., "bias": ...}, ...}


class CoreForm(NamedTuple):
    """How one of Flax's cells runs on the core."""

    names: frozenset[str]  # of its params
    pack: Callable[[Any, Gates], tuple[Cell, Params]]  # the module and its params -> the core's cell and params


def core_form(cell: linen.RNNCellBase) -> CoreForm | None:
    """How the core runs this cell; None for one that it does not know, a subclass of Flax's cells included."""
    functions = [getattr(cell, name) for name in ("gate_fn", "activation_fn") if hasattr(cell, name)]
    return _CORE_FORMS.get(type(cell)) if all(map(_is_plain, functions)) else None


def starts_at_zero(cell: Any) -> bool:
    """Whether the cell's carry begins as zeros."""
    return getattr(cell, "carry_init", None) is linen.initializers.zeros_init()


def _is_plain(function: object) -> bool:
    return is_static(function) and not isinstance(function, linen.Module)


def _lstm(cell: linen.LSTMCell | linen.OptimizedLSTMCell, gates: Gates) -> tuple[Cell, Params]:
    w_hh = _beside(gates, "hi hf hg ho", "kernel")
    params = LSTMParams(
        w_ih=_beside(gates, "ii if ig io", "kernel"), w_hh=w_hh, b=_beside(gates, "hi hf hg ho", "bias")
    )
    return LSTMCell(w_hh.shape[0], gate_fn=cell.gate_fn, activation_fn=cell.activation_fn), params


def _gru(cell: linen.GRUCell, gates: Gates) -> tuple[Cell, Params]:
    w_hh = _beside(gates, "hr hz hn", "kernel")
    params = GRUParams(
        w_ih=_beside(gates, "ir iz in", "kernel"),
        w_hh=w_hh,
        b=_beside(gates, "ir iz in", "bias"),
        b_hn=gates["hn"]["bias"],
    )
    return GRUCell(w_hh.shape[0], gate_fn=cell.gate_fn, activation_fn=cell.activation_fn), params


def _mgu(cell: linen.MGUCell, gates: Gates) -> tuple[Cell, Params]:
    w_hh = _beside(gates, "hf hn", "kernel")
    params = MGUParams(
        w_ih=_beside(gates, "if in", "kernel"),
        w_hh=w_hh,
        b=_beside(gates, "if in", "bias"),
        b_hn=gates["hn"]["bias"] if cell.reset_gate else None,
    )
    options = {"reset_gate": cell.reset_gate, "gate_fn": cell.gate_fn, "activation_fn": cell.activation_fn}
    return MGUCell(w_hh.shape[0], **options), params


def _simple(cell: linen.SimpleCell, gates: Gates) -> tuple[Cell, Params]:
    params = RNNParams(w_ih=gates["i"]["kernel"], w_hh=gates["h"]["kernel"], b=gates["i"]["bias"])
    kind = ResidualRNNCell if cell.residual else RNNCell
    return kind(params.w_hh.shape[0], activation_fn=cell.activation_fn), params


def _beside(gates: Gates, names: str, what: str) -> Array:
    """Kernels or biases of these gates, side by side."""
    return jnp.concatenate([gates[name][what] for name in names.split()], axis=-1)


_LSTM = CoreForm(frozenset(["ii", "if", "ig", "io", "hi", "hf", "hg", "ho"]), _lstm)
_CORE_FORMS = {
    linen.LSTMCell: _LSTM,
    linen.OptimizedLSTMCell: _LSTM,
    linen.GRUCell: CoreForm(frozenset(["ir", "iz", "in", "hr", "hz", "hn"]), _gru),
    linen.MGUCell: CoreForm(frozenset(["if", "in", "hf", "hn"]), _mgu),
    linen.SimpleCell: CoreForm(frozenset(["i", "h"]), _simple),
}
