"""All that a cell computes on its way through a sequence, seen through `unroll` itself.

A cell is wrapped in one whose carry also holds what the last step had, and whose output is all of that. `unroll` runs
it as it runs any cell, so masks, resets and the order of every operation are its own, and so are the numbers.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxlstm import _checks
from jaxlstm._types import Carry, Cell, Key, Params, at_least_float32, cast, cast_like, compute_dtype, fit
from jaxlstm._unroll import unroll
from jaxlstm.cells._gates import gates_of


class Trace(NamedTuple):
    """A run, time first, in the named tuples of its cell; all zeros at the steps that do not count, as ys are."""

    ys: Float[Array, "T *batch O"]  # the outputs, as from unroll
    carry: Carry  # after each step: LSTMCarry(h, c) or RNNCarry(h) of [T, *batch, H]
    before: Carry  # that each step started from, after a reset
    gates: Any  # Gates(i, f, g, o), GRUGates(r, z, n), or None for a cell that names none


def trace(
    cell: Cell,
    params: Params,
    xs: ArrayLike,
    carry: Carry | None = None,
    *,
    lengths: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    reverse: bool = False,
    key: Key | None = None,
    start: ArrayLike = 0,
) -> tuple[Carry, Trace]:
    """Run a cell over a sequence as `unroll` does, and show every gate, candidate and carry.

    The arguments are those of `unroll`, and so are the numbers. For layers on top of each other, the ``ys`` of one
    trace are the xs of the next.

    Args:
      cell: the recurrence. Gates have names if it has a method `gates`, which its `transition` calls.
      params: its params.
      xs: inputs ``[T, *batch, I]``.
      carry: the carry before the first step; None means the cell's own.
      lengths: integers ``[*batch]``: only the first steps count.
      mask: bool ``[T, *batch]``: False skips the step.
      reset: bool ``[T, *batch]``: True where a new sequence begins.
      reverse: run from the last step to the first.
      key: a PRNG key for cells that draw at random in training; None means evaluation.
      start: the absolute time of ``xs[0]``.

    Returns:
      ``(carry, trace)``: the carry after the last step, and a `Trace`.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from jaxlstm.inspect import trace
    >>> cell = jl.LSTMCell(4)
    >>> carry, seen = trace(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 2, 3)))
    >>> seen.gates.f.shape, seen.carry.c.shape
    ((5, 2, 4), (5, 2, 4))
    >>> gates = seen.gates
    >>> bool(jnp.allclose(seen.carry.c, gates.f * seen.before.c + gates.i * gates.g))
    True
    """
    _checks.check_cell(cell, Cell)
    xs = _checks.float_array("xs", xs, 2, "[T, *batch, I]")
    params, initial = fit(cell, params, xs.shape[1:-1], xs.shape[-1], xs.dtype, "xs")
    if carry is not None:
        carry = _checks.like_template("carry", carry, initial, f"for xs of shape {xs.shape}")
    traced = TracedCell(cell, xs.shape[-1])
    seen = traced.init_carry(params, xs.shape[1:-1], dtype=compute_dtype(params, xs.dtype))
    if carry is not None:
        seen = seen._replace(carry=cast_like(carry, initial))
    options = {"lengths": lengths, "mask": mask, "reset": reset, "reverse": reverse, "key": key, "start": start}
    after, packed = unroll(traced, params, xs, seen, **options)
    y = jax.eval_shape(cell.readout, params, initial)
    ys, seen = unpack(packed, (jax.ShapeDtypeStruct(y.shape, compute_dtype(params, xs.dtype)), seen))
    return after.carry, Trace(ys, **seen._asdict())


class Seen(NamedTuple):
    """The carry of a traced cell: the cell's own, and what its last step had."""

    carry: Carry
    before: Carry
    gates: Any


@dataclass(frozen=True)
class TracedCell(Cell):
    """A cell whose output is all that its step had, side by side, in at least float32."""

    cell: Cell
    input_size: int

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> Params:
        """The params of the cell inside."""
        return self.cell.init(key, input_size, dtype=dtype)

    def init_carry(self, params: Params, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> Seen:
        """The carry of the cell inside; nothing seen yet."""
        carry = self.cell.init_carry(params, batch_shape, dtype=dtype)
        dtype = compute_dtype(params) if dtype is None else jnp.dtype(dtype)
        x = jax.ShapeDtypeStruct((*batch_shape, self.input_size), dtype)
        gates = jax.eval_shape(self._gates, cast(params, dtype), x, carry)
        before, gates = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (carry, gates))
        return Seen(carry, before, gates)

    def project(self, params: Params, x: Array) -> Array:
        """zx of the cell inside."""
        return self.cell.project(params, x)

    def recur(self, params: Params, carry: Seen, *noise: Any) -> Array:
        """zh of the cell inside."""
        return self.cell.recur(params, carry.carry, *noise)

    def transition(self, params: Params, zx: Array, zh: Array, carry: Seen, *noise: Any) -> Seen:
        """The carry after a step of the cell inside, the one before, and the gates between."""
        args = params, zx, zh, carry.carry, *noise
        return Seen(self.cell.transition(*args), carry.carry, gates_of(self.cell, *args))

    def readout(self, params: Params, carry: Seen) -> Array:
        """y of the cell inside and all of the carry."""
        return pack((self.cell.readout(params, carry.carry), carry))

    def draw(self, key: Key, time: Array, carry: Seen) -> Any:
        """What the cell inside draws."""
        return self.cell.draw(key, time, carry.carry)

    def _gates(self, params: Params, x: Array, carry: Carry) -> Any:
        zx, zh = self.cell.project(params, x), self.cell.recur(params, carry)
        wide = at_least_float32(zx.dtype)
        return gates_of(self.cell, *cast((params, zx, zh, carry), wide))


def pack(tree: Any) -> Array:
    """The leaves side by side on the last axis, as `unroll` takes one array for an output."""
    leaves = jax.tree.leaves(tree)
    wide = at_least_float32(leaves[0].dtype)
    return jnp.concatenate([leaf.astype(wide) for leaf in leaves], axis=-1)


def unpack(packed: Array, like: Any) -> Any:
    """The leaves again, each in the dtype that it came from."""
    leaves, structure = jax.tree.flatten(like)
    edges = np.cumsum([leaf.shape[-1] for leaf in leaves])[:-1]
    parts = jnp.split(packed, edges, axis=-1)
    return structure.unflatten([part.astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)])
