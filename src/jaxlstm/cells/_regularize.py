"""Regularisers of the recurrence as cells around any other cell: zoneout, and dropout with one mask a sequence.

A wrapper has the params and the carry of the cell inside. They may be nested in either order. What they draw depends
on the key and the absolute time of the step, so that a sequence may be cut anywhere; without a key they draw nothing.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool

from jaxlstm import _checks
from jaxlstm._types import Carry, Cell, Key, Params
from jaxlstm.cells._gates import gates_of
from jaxlstm.cells._gru import GRUCell


class _Wrapper(Cell):
    """All that a cell does, done by the cell inside; `noise` is None or has a field `inner` for what that drew."""

    cell: Cell

    @property
    def hidden_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """H of the cell inside."""
        return self.cell.hidden_size

    @property
    def output_size(self) -> int:
        """Features of the y of the cell inside."""
        return self.cell.output_size

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> Params:
        """The params of the cell inside."""
        return self.cell.init(key, input_size, dtype=dtype)

    def init_carry(self, params: Params, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> Carry:
        """The carry of the cell inside."""
        return self.cell.init_carry(params, batch_shape, dtype=dtype)

    def project(self, params: Params, x: Array) -> Array:
        """zx of the cell inside."""
        return self.cell.project(params, x)

    def recur(self, params: Params, carry: Carry, noise: Any = None) -> Array:
        """zh of the cell inside."""
        return self.cell.recur(params, carry, *_inner(noise))

    def transition(self, params: Params, zx: Array, zh: Array, carry: Carry, noise: Any = None) -> Carry:
        """The carry after a step of the cell inside."""
        return self.cell.transition(params, zx, zh, carry, *_inner(noise))

    def gates(self, params: Params, zx: Array, zh: Array, carry: Carry, noise: Any = None) -> Any:
        """The gates of the cell inside, or None if it names none."""
        return gates_of(self.cell, params, zx, zh, carry, *_inner(noise))

    def readout(self, params: Params, carry: Carry) -> Array:
        """y of the cell inside."""
        return self.cell.readout(params, carry)


class ZoneoutNoise(NamedTuple):
    """Which units of h and of c keep their old values, None for none, and what the cell inside drew."""

    h: Bool[Array, "*batch H"] | None
    c: Bool[Array, "*batch H"] | None
    inner: Any


@dataclass(frozen=True, repr=False)
class Zoneout(_Wrapper):
    """Zoneout (Krueger et al. 2016, section 3): in training, units chosen at random keep their old values.

        h_t = d * h_{t-1} + (1 - d) * h~_t        h~_t is what the cell inside makes of h_{t-1}, and d is
                                                  with a key 1 with probability h, else 0; without one h itself

    and c likewise, from a draw of its own. As in the paper, h~_t of an LSTM comes from the new c before its zoneout.

    Args:
      cell: any cell.
      h: the probability that a unit of h keeps its old value.
      c: the same for c, of a cell that has it.

    Raises:
      ValueError, TypeError: if an option has no meaning, or the carry no such part (when it is made).

    >>> cell = jl.Zoneout(jl.LSTMCell(4), h=0.05, c=0.5)
    >>> params = cell.init(jax.random.key(0), input_size=3)
    >>> carry, ys = jl.unroll(cell, params, jnp.ones((5, 3)), key=jax.random.key(1))
    >>> ys.shape
    (5, 4)
    """

    cell: Cell
    _: KW_ONLY
    h: int | float = 0.0
    c: int | float = 0.0

    def __post_init__(self) -> None:
        _checks.check_cell(self.cell, Cell)
        for name in ("h", "c"):
            _checks.check_rate(name, getattr(self, name))
            object.__setattr__(self, name, float(getattr(self, name)))  # of NumPy they would widen what they meet

    def init_carry(self, params: Params, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> Carry:
        """The carry of the cell inside, which has the parts that the options name."""
        carry = super().init_carry(params, batch_shape, dtype=dtype)
        for name in ("h", "c"):
            rate = getattr(self, name)
            if rate and not hasattr(carry, name):
                _checks.reject(name, f"0 for {self.cell}, whose carry has no {name}", rate)
        return carry

    def draw(self, key: Key, time: Array, carry: Carry) -> ZoneoutNoise:
        """The units that keep their old values at this time."""
        h_key, c_key, inner_key = jax.random.split(key, 3)
        return ZoneoutNoise(
            h=jax.random.bernoulli(jax.random.fold_in(h_key, time), self.h, carry.h.shape) if self.h else None,
            c=jax.random.bernoulli(jax.random.fold_in(c_key, time), self.c, carry.c.shape) if self.c else None,
            inner=self.cell.draw(inner_key, time, carry),
        )

    def transition(
        self, params: Params, zx: Array, zh: Array, carry: Carry, noise: ZoneoutNoise | None = None
    ) -> Carry:
        """The carry after a step of the cell inside, and the old one where units keep it."""
        after = super().transition(params, zx, zh, carry, noise)
        for name in ("h", "c"):
            if rate := getattr(self, name):
                kept = None if noise is None else getattr(noise, name)
                value = zoneout(getattr(carry, name), getattr(after, name), rate, kept)
                after = after._replace(**{name: value})
        return after


class DropoutNoise(NamedTuple):
    """Which units of h the recurrence sees, and what the cell inside drew."""

    seen: Bool[Array, "*batch H"]
    inner: Any


@dataclass(frozen=True, repr=False)
class RecurrentDropout(_Wrapper):
    """Variational dropout of the recurrence (Gal & Ghahramani 2016, equation 7): one mask for the whole sequence.

        zh_t = W_hh (m * h_{t-1}) / (1 - rate)        m is 0 with probability rate, else 1, and the same for all t

    Without a key, zh_t = W_hh h_{t-1}. The mask belongs to the key: each sequence of a batch has its own, which a reset
    does not change.

    Args:
      cell: any cell whose carry has h and whose `recur` holds all matmuls of h: so no GRU with reset_after=False.
      rate: the probability that the recurrence does not see a unit of h.

    Raises:
      ValueError, TypeError: if an option has no meaning, or the carry no h (when it is made).

    >>> cell = jl.RecurrentDropout(jl.GRUCell(4), 0.25)
    >>> params = cell.init(jax.random.key(0), input_size=3)
    >>> carry, ys = jl.unroll(cell, params, jnp.ones((5, 3)), key=jax.random.key(1))
    >>> ys.shape
    (5, 4)
    """

    cell: Cell
    rate: int | float

    def __post_init__(self) -> None:
        _checks.check_cell(self.cell, Cell)
        _checks.check_rate("rate", self.rate)
        object.__setattr__(self, "rate", float(self.rate))
        inside = self.cell
        while isinstance(inside, _Wrapper):
            inside = inside.cell
        if isinstance(inside, GRUCell) and not inside.reset_after:
            _checks.reject("cell", "a cell with all matmuls of h in recur (a GRU: reset_after=True)", self.cell)

    def init_carry(self, params: Params, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> Carry:
        """The carry of the cell inside, which has an h."""
        carry = super().init_carry(params, batch_shape, dtype=dtype)
        if not hasattr(carry, "h"):
            _checks.reject("cell", "a cell whose carry has h", self.cell)
        return carry

    def draw(self, key: Key, time: Array, carry: Carry) -> DropoutNoise:
        """The units seen: the same at all times."""
        seen_key, inner_key = jax.random.split(key)
        return DropoutNoise(
            seen=jax.random.bernoulli(seen_key, 1.0 - self.rate, carry.h.shape),
            inner=self.cell.draw(inner_key, time, carry),
        )

    def recur(self, params: Params, carry: Carry, noise: DropoutNoise | None = None) -> Array:
        """zh of the cell inside, which sees some units of h."""
        if noise is not None:
            carry = carry._replace(h=drop(carry.h, self.rate, noise.seen))
        return super().recur(params, carry, noise)


def zoneout(old: Array, new: Array, rate: int | float, kept: Bool[Array, "..."] | None) -> Array:
    """The old value where it is kept, else the new; without a draw, its expectation rate * old + (1 - rate) * new."""
    if kept is None:
        return rate * old + (1 - rate) * new
    return jnp.where(kept, old, new)


def drop(h: Array, rate: int | float, seen: Bool[Array, "..."]) -> Array:
    """h / (1 - rate) where it is seen, else 0: h itself on average."""
    return jnp.where(seen, h / (1 - rate), jnp.zeros_like(h))


def _inner(noise: Any) -> tuple[Any, ...]:
    """An argument more for a cell inside that drew something."""
    return () if noise is None or noise.inner is None else (noise.inner,)
