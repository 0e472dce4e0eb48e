"""A cell whose carries can be asked for their gradients."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxlstm._types import Carry, Cell, Key, Params
from jaxlstm.inspect._flat import size_of, unflatten


@dataclass(frozen=True)
class NudgedCell(Cell):
    """A cell that adds to its carry, after each step, what stands behind the input: zeros, whose gradient is asked."""

    cell: Cell
    input_size: int

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> Params:
        """The params of the cell inside, whose inputs have fewer features."""
        return self.cell.init(key, self.input_size, dtype=dtype)

    def init_carry(self, params: Params, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> Carry:
        """The carry of the cell inside."""
        return self.cell.init_carry(params, batch_shape, dtype=dtype)

    def project(self, params: Params, x: Array) -> Array:
        """zx of the cell inside, and behind it the nudge."""
        x, nudge = jnp.split(x, [self.input_size], axis=-1)
        return jnp.concatenate([self.cell.project(params, x), nudge], axis=-1)

    def recur(self, params: Params, carry: Carry) -> Array:
        """zh of the cell inside."""
        return self.cell.recur(params, carry)

    def transition(self, params: Params, zx: Array, zh: Array, carry: Carry) -> Carry:
        """The carry after a step of the cell inside, nudged."""
        zx, nudge = jnp.split(zx, [zx.shape[-1] - size_of(carry)], axis=-1)
        after = self.cell.transition(params, zx, zh, carry)
        return jax.tree.map(jnp.add, after, unflatten(nudge, carry))

    def readout(self, params: Params, carry: Carry) -> Array:
        """y of the cell inside."""
        return self.cell.readout(params, carry)
