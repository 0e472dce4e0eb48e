"""Regularisers of the recurrence as cells around any other cell: zoneout, and dropout with one mask a sequence.

They have the params and the carry of the cell inside, and may be nested in either order. What they draw depends on the
key and the absolute time of the step, so a sequence may be cut anywhere. Without a key they draw nothing.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool

from jaxlstm import _checks
from jaxlstm._cell import C, Cell, P
from jaxlstm._dtypes import cast
from jaxlstm._random import Key
from jaxlstm._wrapper import CellWrapper
from jaxlstm.cells._gru import GRUCell


class ZoneoutNoise(NamedTuple):
    """Which units of h and c keep their old values (None: no unit does), and what the cell inside drew."""

    h: Bool[Array, "*batch H"] | None
    c: Bool[Array, "*batch H"] | None
    inner: Any


@dataclass(frozen=True, repr=False)
class Zoneout(CellWrapper[P, C]):
    """Zoneout (Krueger et al. 2016, section 3): in training, units chosen at random keep their old values.

        h_t = d * h_{t-1} + (1 - d) * h~_t        h~_t: the h of the cell inside after the step
        d   = 1 with probability h, else 0        in training, with a key
        d   = h                                   in evaluation, without one

    The same for c, with its own draw. As in the paper, h~_t of an LSTM comes from the new c before its zoneout.

    Args:
      cell: any cell.
      h: the probability that a unit of h keeps its old value.
      c: the probability that a unit of c keeps its old value. It must be 0 for a cell without a c, and for an sLSTM or
        mLSTM, whose memory is c exp(m).

    Raises:
      ValueError, TypeError: if an option has no meaning, or (from `init_carry`) the carry has no such part.

    >>> cell = jl.Zoneout(jl.LSTMCell(4), h=0.05, c=0.5)
    >>> params = cell.init(jax.random.key(0), input_size=3)
    >>> carry, ys = jl.unroll(cell, params, jnp.ones((5, 3)), key=jax.random.key(1))
    >>> ys.shape
    (5, 4)
    """

    cell: Cell[P, C]
    _: KW_ONLY
    h: int | float = 0.0
    c: int | float = 0.0

    def __post_init__(self) -> None:
        _checks.check_cell(self.cell, Cell)
        for name in ("h", "c"):
            self._set(**{name: _checks.check_rate(name, getattr(self, name))})

    def init_carry(self, params: P, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> C:
        """The carry of the cell inside. It must have the parts that the options name."""
        carry = super().init_carry(params, batch_shape, dtype=dtype)
        for name in ("h", "c"):
            rate = getattr(self, name)
            if rate and not hasattr(carry, name):
                _checks.reject(name, f"0 for {self.cell}, whose carry has no {name}", rate)
        if self.c and hasattr(carry, "m"):
            _checks.reject("c", f"0 for {self.cell}, whose memory is c exp(m)", self.c)
        return carry

    def draw(self, key: Key, time: Array, carry: Any) -> ZoneoutNoise:
        """The units that keep their old values at this time."""
        h_key, c_key, inner_key = jax.random.split(key, 3)
        return ZoneoutNoise(
            h=jax.random.bernoulli(jax.random.fold_in(h_key, time), self.h, carry.h.shape) if self.h else None,
            c=jax.random.bernoulli(jax.random.fold_in(c_key, time), self.c, carry.c.shape) if self.c else None,
            inner=self.cell.draw(inner_key, time, carry),
        )

    def inner_noise(self, noise: ZoneoutNoise) -> Any:
        """What the cell inside drew."""
        return noise.inner

    def transition(self, params: P, z: Any, carry: C, noise: ZoneoutNoise | None = None) -> C:
        """The carry after a step of the cell inside, with the old values where units keep them."""
        after: Any = super().transition(params, z, carry, noise)
        for name in ("h", "c"):
            if rate := getattr(self, name):
                kept = None if noise is None else getattr(noise, name)
                value = zoneout(getattr(carry, name), getattr(after, name), rate, kept)
                after = after._replace(**{name: value})
        return after


class DropoutNoise(NamedTuple):
    """Which units of h `recur` sees, and what the cell inside drew."""

    seen: Bool[Array, "*batch H"]
    inner: Any


@dataclass(frozen=True, repr=False)
class RecurrentDropout(CellWrapper[P, C]):
    """Variational dropout of the recurrence (Gal & Ghahramani 2016, equation 7): one mask for the whole sequence.

        zh_t = W_hh (m * h_{t-1}) / (1 - rate)        m: 0 with probability rate, else 1, the same for all t

    Without a key, zh_t = W_hh h_{t-1}. The mask depends on the key alone. Each sequence of a batch has its own, and a
    reset does not change it.

    Args:
      cell: any cell whose carry has h and whose `recur` holds all matmuls of h, so no GRU with reset_after=False.
      rate: the probability that a unit of h is zero in the recurrence.

    Raises:
      ValueError, TypeError: if an option has no meaning. From `init_carry`: if the carry has no h, or no gate reads
        it, as in a `MinGRUCell`.

    >>> cell = jl.RecurrentDropout(jl.GRUCell(4), 0.25)
    >>> params = cell.init(jax.random.key(0), input_size=3)
    >>> carry, ys = jl.unroll(cell, params, jnp.ones((5, 3)), key=jax.random.key(1))
    >>> ys.shape
    (5, 4)
    """

    cell: Cell[P, C]
    rate: int | float

    def __post_init__(self) -> None:
        _checks.check_cell(self.cell, Cell)
        self._set(rate=_checks.check_rate("rate", self.rate))
        inside: Any = self.cell
        while isinstance(inside, CellWrapper):
            inside = inside.cell
        if isinstance(inside, GRUCell) and not inside.reset_after:
            _checks.reject("cell", "a cell with all matmuls of h in recur (a GRU: reset_after=True)", self.cell)

    def init_carry(self, params: P, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> C:
        """The carry of the cell inside. It must have an h, which `recur` reads."""
        carry: Any = super().init_carry(params, batch_shape, dtype=dtype)
        if not hasattr(carry, "h"):
            _checks.reject("cell", "a cell whose carry has h", self.cell)
        if not jax.tree.leaves(jax.eval_shape(self.cell.recur, cast(params, carry.h.dtype), carry)):
            _checks.reject("cell", "a cell whose recur reads h", self.cell)
        return carry

    def draw(self, key: Key, time: Array, carry: Any) -> DropoutNoise:
        """The units seen: the same at all times."""
        seen_key, inner_key = jax.random.split(key)
        return DropoutNoise(
            seen=jax.random.bernoulli(seen_key, 1.0 - self.rate, carry.h.shape),
            inner=self.cell.draw(inner_key, time, carry),
        )

    def inner_noise(self, noise: DropoutNoise) -> Any:
        """What the cell inside drew."""
        return noise.inner

    def recur(self, params: P, carry: Any, noise: DropoutNoise | None = None) -> Any:
        """zh of the cell inside, with some units of h zero."""
        if noise is not None:
            carry = carry._replace(h=drop(carry.h, self.rate, noise.seen))
        return super().recur(params, carry, noise)


def zoneout(old: Array, new: Array, rate: int | float, kept: Bool[Array, "..."] | None) -> Array:
    """The old value where it is kept, else the new. Without a draw the expectation, rate * old + (1 - rate) * new."""
    if kept is None:
        return rate * old + (1 - rate) * new
    return jnp.where(kept, old, new)


def drop(h: Array, rate: int | float, seen: Bool[Array, "..."]) -> Array:
    """h / (1 - rate) where it is seen, else 0: its expectation is h."""
    return jnp.where(seen, h / (1 - rate), jnp.zeros_like(h))
