"""Flax nnx's cells, which here make zeros without random numbers, and how their params lie in the core's."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jaxtyping import Array

from jaxlstm import _checks
from jaxlstm import cells as core
from jaxlstm._cell import Cell, RNNCarry
from jaxlstm._static import Static
from jaxlstm._step import Params
from jaxlstm._wrappers._cells import ResidualRNNCell
from jaxlstm._wrappers._sequence import is_static


class _ZerosNeedNoKey:
    """For a cell of Flax: `initialize_carry` takes random numbers only if it draws something."""

    carry_init: Any

    __getstate__, __setstate__ = Static.__getstate__, Static.__setstate__  # for pickle: functions by name

    def initialize_carry(self, input_shape: tuple[int, ...], rngs: Any = None, carry_init: Any = None) -> Any:
        """The carry before the first step, as in Flax; where it is zeros, `rngs` is not used and may be left out."""
        given = {} if carry_init is None else {"carry_init": carry_init}  # flax before 0.12 has no such argument
        if carry_init is None and _is_zeros(self.carry_init):
            rngs = nnx.Rngs(0)  # which Flax asks for
        return super().initialize_carry(input_shape, rngs, **given)  # pyright: ignore[reportAttributeAccessIssue]


class LSTMCell(_ZerosNeedNoKey, nnx.LSTMCell):
    """`flax.nnx.LSTMCell`, whose `initialize_carry` needs no rngs to make zeros.

    >>> from flax import nnx
    >>> from jaxlstm.nnx import LSTMCell
    >>> cell = LSTMCell(3, 4, rngs=nnx.Rngs(0))
    >>> (c, h), y = cell(cell.initialize_carry((2, 3)), jnp.ones((2, 3)))
    >>> y.shape
    (2, 4)
    """


class OptimizedLSTMCell(_ZerosNeedNoKey, nnx.OptimizedLSTMCell):
    """`flax.nnx.OptimizedLSTMCell`, whose `initialize_carry` needs no rngs to make zeros."""


class SimpleCell(_ZerosNeedNoKey, nnx.SimpleCell):
    """`flax.nnx.SimpleCell`, whose `initialize_carry` needs no rngs to make zeros."""


class GRUCell(_ZerosNeedNoKey, nnx.GRUCell):
    """`flax.nnx.GRUCell`, whose `initialize_carry` needs no rngs to make zeros, and with a b_hn if asked for.

        n_t = tanh(W_in x_t + b_in + r_t * (W_hn h_{t-1} + b_hn))

    Flax documents b_hn and does not have it, so its cell cannot hold torch's weights.

    Args:
      in_features: I, the features of the inputs.
      hidden_features: H, the features of h.
      b_hn: whether to have that bias, in a param of this name; without it, params are Flax's.
      rngs: for the params; b_hn draws after them.
      options: the other arguments of ``flax.nnx.GRUCell``: gate_fn, activation_fn, kernel_init, recurrent_kernel_init,
        bias_init, dtype, param_dtype, ...

    >>> from flax import nnx
    >>> from jaxlstm.nnx import GRUCell
    >>> cell = GRUCell(3, 4, b_hn=True, rngs=nnx.Rngs(0))
    >>> cell.b_hn.shape
    (4,)
    """

    def __init__(
        self, in_features: int, hidden_features: int, *, b_hn: bool = False, rngs: nnx.Rngs, **options: Any
    ) -> None:
        _checks.check_flag("b_hn", b_hn)
        super().__init__(in_features, hidden_features, rngs=rngs, **options)
        bias_init = options.get("bias_init", nnx.initializers.zeros_init())
        self.b_hn = nnx.Param(bias_init(rngs.params(), (hidden_features,), self.param_dtype)) if b_hn else None

    def __call__(self, carry: Any, inputs: Any) -> tuple[Any, Any]:
        """One step, as in Flax, with b_hn if it is there."""
        if self.b_hn is None:
            return super().__call__(carry, inputs)
        zx, zh = self.dense_i(inputs), self.dense_h(carry)
        zh = zh.at[..., -self.hidden_features :].add(self.b_hn[...].astype(zh.dtype))
        cell, params = _gru(self)
        h = cell.transition(params, cell.combine(zx, zh), RNNCarry(h=carry)).h
        return h, h


def starts_at_zero(cell: Any) -> bool:
    """Whether the cell is one of Flax's or of these, and its carry begins as zeros."""
    return type(cell) in _CORE_FORMS and _is_zeros(cell.carry_init)


def core_form(cell: Any) -> tuple[Cell, Params, Any] | None:
    """The core's cell and params for this one, and its dtype; None for one not known, a subclass included."""
    pack = _CORE_FORMS.get(type(cell))
    if pack is None:
        return None
    functions = [getattr(cell, name) for name in ("gate_fn", "activation_fn") if hasattr(cell, name)]
    linears = [value for value in vars(cell).values() if isinstance(value, nnx.Module)]
    plain = all(map(is_static, functions)) and all(_is_plain(linear, cell.dtype) for linear in linears)
    return (*pack(cell), cell.dtype) if plain else None


def _is_zeros(carry_init: Any) -> bool:
    return carry_init in (None, nnx.initializers.zeros_init())


def _is_plain(linear: Any, dtype: Any) -> bool:
    """Whether this computes x @ kernel + bias and nothing else; a user may have put in another module."""
    default = {"precision": None, "dot_general": jax.lax.dot_general, "preferred_element_type": None, "dtype": dtype}
    if type(linear) is not nnx.Linear or any(getattr(linear, name, value) != value for name, value in default.items()):
        return False
    return linear.promote_dtype is promote_dtype


def _lstm(cell: Any) -> tuple[Cell, Params]:
    inputs, hidden = (cell.ii, cell.if_, cell.ig, cell.io), (cell.hi, cell.hf, cell.hg, cell.ho)
    params = core.LSTMParams(
        w_ih=_beside(*(linear.kernel for linear in inputs)),
        w_hh=_beside(*(linear.kernel for linear in hidden)),
        b=_beside(*(linear.bias for linear in hidden)),
    )
    return core.LSTMCell(cell.hidden_features, gate_fn=cell.gate_fn, activation_fn=cell.activation_fn), params


def _optimized_lstm(cell: Any) -> tuple[Cell, Params]:
    params = core.LSTMParams(w_ih=cell.dense_i.kernel[...], w_hh=cell.dense_h.kernel[...], b=cell.dense_h.bias[...])
    return core.LSTMCell(cell.hidden_features, gate_fn=cell.gate_fn, activation_fn=cell.activation_fn), params


def _gru(cell: Any) -> tuple[Cell, Params]:
    b, b_hn = cell.dense_i.bias[...], getattr(cell, "b_hn", None)
    params = core.GRUParams(
        w_ih=cell.dense_i.kernel[...],
        w_hh=cell.dense_h.kernel[...],
        b=b,
        b_hn=jnp.zeros(cell.hidden_features, b.dtype) if b_hn is None else b_hn[...],
    )
    return core.GRUCell(cell.hidden_features, gate_fn=cell.gate_fn, activation_fn=cell.activation_fn), params


def _simple(cell: Any) -> tuple[Cell, Params]:
    params = core.RNNParams(w_ih=cell.dense_i.kernel[...], w_hh=cell.dense_h.kernel[...], b=cell.dense_i.bias[...])
    kind = ResidualRNNCell if cell.residual else core.RNNCell
    return kind(cell.hidden_features, activation_fn=cell.activation_fn), params


def _beside(*params: Any) -> Array:
    return jnp.concatenate([param[...] for param in params], axis=-1)


_CORE_FORMS = {
    nnx.LSTMCell: _lstm,
    LSTMCell: _lstm,
    nnx.OptimizedLSTMCell: _optimized_lstm,
    OptimizedLSTMCell: _optimized_lstm,
    nnx.GRUCell: _gru,
    GRUCell: _gru,
    nnx.SimpleCell: _simple,
    SimpleCell: _simple,
}
