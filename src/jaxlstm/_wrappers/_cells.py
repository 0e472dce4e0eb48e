"""Cells of the core that only the Flax modules need: Flax's options, and a carry that is learned."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxlstm import _checks, _init
from jaxlstm._types import Carry, Cell, Key, Params, RNNCarry, cast
from jaxlstm.cells import GRUParams, RNNCell
from jaxlstm.cells._gru import gru_transition


class ResidualRNNCell(RNNCell):
    """h_t = activation_fn(W_ih x_t + W_hh h_{t-1} + b + h_{t-1}), Flax's ``SimpleCell(residual=True)``.

    >>> from jaxlstm._wrappers._cells import ResidualRNNCell
    >>> cell = ResidualRNNCell(4)
    >>> carry, ys = jl.unroll(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 3)))
    >>> ys.shape
    (5, 4)
    """

    def recur(self, params: Params, carry: RNNCarry) -> Array:
        """zh = h @ w_hh + h."""
        return super().recur(params, carry) + carry.h


@dataclass(frozen=True, repr=False)
class MGUCell(Cell):
    """Minimal gated unit (Zhou et al. 2016), as Flax has it.

        f_t = sigma(W_if x_t + b_f + W_hf h_{t-1})
        n_t = tanh(W_in x_t + b_n + f_t * (W_hn h_{t-1} + b_hn))        reset_gate=True
        n_t = tanh(W_in x_t + b_n + W_hn h_{t-1})                       reset_gate=False
        h_t = (1 - f_t) * n_t + f_t * h_{t-1}                           the output y_t

    Its params are those of a GRU without r: ``w_ih [I, 2H]``, ``w_hh [H, 2H]``, ``b [2H]``, packed f, n, and ``b_hn``.

    >>> from jaxlstm._wrappers._cells import MGUCell
    >>> cell = MGUCell(4)
    >>> carry, ys = jl.unroll(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 3)))
    >>> ys.shape
    (5, 4)
    """

    hidden_size: int
    _: KW_ONLY
    reset_gate: bool = True
    gate_fn: Callable[[Array], Array] = jax.nn.sigmoid
    activation_fn: Callable[[Array], Array] = jnp.tanh

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> GRUParams:
        """Draw initial params for inputs of `input_size` features; biases start at zero."""
        _checks.check_init(key, input_size, dtype)
        size = self.hidden_size
        w_ih_key, w_hh_key = jax.random.split(key)
        return GRUParams(
            w_ih=_init.pack(_init.glorot(w_ih_key, (2, input_size, size), dtype)),
            w_hh=_init.pack(_init.orthogonal(w_hh_key, (2, size, size), dtype)),
            b=jnp.zeros(2 * size, dtype),
            b_hn=jnp.zeros(size, dtype) if self.reset_gate else None,
        )

    def recur(self, params: GRUParams, carry: RNNCarry) -> Array:
        """zh = h @ w_hh, with b_hn on n."""
        zh = carry.h @ params.w_hh
        return zh if params.b_hn is None else zh + jnp.concatenate([jnp.zeros_like(params.b_hn), params.b_hn])

    def transition(self, params: GRUParams, zx: Array, zh: Array, carry: RNNCarry) -> RNNCarry:
        """The gate f, the candidate n, and h between n and the old h."""
        (zx_f, zx_n), (zh_f, zh_n) = jnp.split(zx, 2, axis=-1), jnp.split(zh, 2, axis=-1)
        f = self.gate_fn(zx_f + zh_f)
        n = self.activation_fn(zx_n + (f * zh_n if self.reset_gate else zh_n))
        return gru_transition(f, n, carry.h)


class LearnedCarryParams(NamedTuple):
    """The params of the cell inside, and the carry that a sequence starts from, without batch axes."""

    cell: Params
    initial_carry: Carry


@dataclass(frozen=True, repr=False)
class LearnedCarry(Cell):
    """A cell whose first carry is a parameter, the same for every sequence; it starts from the cell's own.

    >>> from jaxlstm._wrappers._cells import LearnedCarry
    >>> cell = LearnedCarry(jl.LSTMCell(4))
    >>> params = cell.init(jax.random.key(0), input_size=3)
    >>> params.initial_carry.c.shape, cell.init_carry(params, (2,)).c.shape
    ((4,), (2, 4))
    """

    cell: Cell

    @property
    def hidden_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """H of the cell inside."""
        return self.cell.hidden_size

    @property
    def output_size(self) -> int:
        """Features of the y of the cell inside."""
        return self.cell.output_size

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> LearnedCarryParams:
        """The params of the cell inside, and its first carry."""
        params = self.cell.init(key, input_size, dtype=dtype)
        return LearnedCarryParams(cell=params, initial_carry=cast(self.cell.init_carry(params), dtype))

    def init_carry(
        self, params: LearnedCarryParams, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None
    ) -> Carry:
        """The carry learned, for each sequence."""
        like = self.cell.init_carry(params.cell, batch_shape, dtype=dtype)
        return jax.tree.map(
            lambda leaf, like: jnp.broadcast_to(leaf, like.shape).astype(like.dtype), params.initial_carry, like
        )

    def project(self, params: LearnedCarryParams, x: Array) -> Array:
        """zx of the cell inside."""
        return self.cell.project(params.cell, x)

    def recur(self, params: LearnedCarryParams, carry: Carry, *noise: Any) -> Array:
        """zh of the cell inside."""
        return self.cell.recur(params.cell, carry, *noise)

    def transition(self, params: LearnedCarryParams, zx: Array, zh: Array, carry: Carry, *noise: Any) -> Carry:
        """The carry after a step of the cell inside."""
        return self.cell.transition(params.cell, zx, zh, carry, *noise)

    def readout(self, params: LearnedCarryParams, carry: Carry) -> Array:
        """y of the cell inside."""
        return self.cell.readout(params.cell, carry)

    def draw(self, key: Key, time: Array, carry: Carry) -> Any:
        """What the cell inside draws."""
        return self.cell.draw(key, time, carry)
