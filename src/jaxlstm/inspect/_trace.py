"""All that a cell computes on its way through a sequence, seen through `unroll` itself.

`unroll` shows one array a step, what `readout` gives. So a cell is run once as it is, and once for each part of its
carry, with a readout that shows that part: each time through the loop that any cell has, whose numbers these are. The
gates then follow for all steps at once, from the carry that each step was given.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float

from jaxlstm._scan import select
from jaxlstm._types import Carry, Cell, Key, Params, at_least_float32, cast, cast_like, compute_dtype, fit
from jaxlstm._unroll import unroll, valid_steps
from jaxlstm.cells._gates import gates_of


class Trace(NamedTuple):
    """A run, time first, in the named tuples of its cell: what is ``[*batch, H]`` at a step is ``[T, *batch, H]``."""

    ys: Float[Array, "T *batch O"]  # the outputs; zeros at steps that do not count
    carry: Carry  # after each step; held at steps that do not count
    before: Carry  # the carry that each step was given, after a reset
    gates: Any  # Gates(i, f, g, o), GRUGates(r, z, n), or None for a cell that names none; zeros as in ys


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
) -> tuple[Carry, Trace]:
    """Run a cell over a sequence as `unroll` does, and show every gate, candidate and carry.

    The arguments are those of `unroll` without a key: the cell is seen as it is in evaluation. For layers on top of
    each other, the ``ys`` of one trace are the xs of the next.

    Args:
      cell: the recurrence. Its gates have names if it has a method `gates`, which its `transition` calls.
      params: its params.
      xs: inputs ``[T, *batch, I]``.
      carry: the carry before the first step; None means the cell's own.
      lengths: integers ``[*batch]``: only the first steps count.
      mask: bool ``[T, *batch]``: False skips the step.
      reset: bool ``[T, *batch]``: True where a new sequence begins.
      reverse: run from the last step to the first.

    Returns:
      ``(carry, trace)``: the carry after the last step, and a `Trace`. That carry and the ys are those of `unroll`, bit
      for bit where both are jitted; the carries of all steps are what the same loop reads out.

    Raises:
      ValueError, TypeError: if an argument does not fit; the message names it.

    >>> from jaxlstm.inspect import trace
    >>> cell = jl.LSTMCell(4)
    >>> carry, seen = trace(cell, cell.init(jax.random.key(0), input_size=3), jnp.ones((5, 2, 3)))
    >>> gates = seen.gates
    >>> gates.f.shape, seen.carry.c.shape
    ((5, 2, 4), (5, 2, 4))
    >>> bool(jnp.allclose(seen.carry.c, gates.f * seen.before.c + gates.i * gates.g))
    True
    """
    run = partial(unroll, lengths=lengths, mask=mask, reset=reset, reverse=reverse)
    last, ys = run(cell, params, xs, carry)
    parts, structure = jax.tree.flatten(last)
    parts = [run(ShowingCell(cell, part), params, xs, carry)[1] for part in range(len(parts))]

    xs = jnp.asarray(xs)
    steps, *batch, input_size = xs.shape
    params, initial = fit(cell, params, tuple(batch), input_size, xs.dtype, "xs")
    first = initial if carry is None else cast_like(jax.tree.map(jnp.asarray, carry), initial)
    valid = valid_steps(steps, tuple(batch), lengths=lengths, mask=mask)
    valid = jnp.ones((steps, *batch), bool) if valid is None else valid
    reset = jnp.zeros_like(valid) if reset is None else jnp.asarray(reset)
    carries, before = _hold(structure.unflatten(parts), valid, reset, initial, first, reverse=reverse)
    return last, Trace(ys, carries, before, _gates(cell, params, xs, before, valid))


@dataclass(frozen=True)
class ShowingCell(Cell):
    """A cell whose output is a part of its carry: which one, in the order of its leaves."""

    cell: Cell
    part: int

    def init(self, key: Key, input_size: int, *, dtype: DTypeLike = jnp.float32) -> Params:
        """The params of the cell inside."""
        return self.cell.init(key, input_size, dtype=dtype)

    def init_carry(self, params: Params, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike | None = None) -> Carry:
        """The carry of the cell inside."""
        return self.cell.init_carry(params, batch_shape, dtype=dtype)

    def project(self, params: Params, x: Array) -> Array:
        """zx of the cell inside."""
        return self.cell.project(params, x)

    def recur(self, params: Params, carry: Carry) -> Array:
        """zh of the cell inside."""
        return self.cell.recur(params, carry)

    def transition(self, params: Params, zx: Array, zh: Array, carry: Carry) -> Carry:
        """The carry after a step of the cell inside."""
        return self.cell.transition(params, zx, zh, carry)

    def readout(self, params: Params, carry: Carry) -> Array:
        """The part of the carry."""
        return jax.tree.leaves(carry)[self.part]


@partial(jax.jit, static_argnames="reverse")
def _hold(
    after: Carry,
    valid: Bool[Array, "T *batch"],
    reset: Bool[Array, "T *batch"],
    initial: Carry,
    first: Carry,
    *,
    reverse: bool,
) -> tuple[Carry, Carry]:
    """The carries after and before each step, held and reset: of what `unroll` gives, which has zeros there."""
    edges = jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])]) if reverse else reset

    def step(carry: Carry, now: tuple[Carry, Array, Array]) -> tuple[Carry, tuple[Carry, Carry]]:
        after, valid, edge = now
        before = select(edge, initial, carry)
        carry = select(valid, after, before)
        return carry, (carry, before)

    return jax.lax.scan(step, first, (after, valid, edges), reverse=reverse)[1]


@partial(jax.jit, static_argnames="cell")
def _gates(
    cell: Cell, params: Params, xs: Float[Array, "T *batch I"], before: Carry, valid: Bool[Array, "T *batch"]
) -> Any:
    """The gates of every step that counts, zeros elsewhere."""
    dtype = compute_dtype(params, xs.dtype)
    params = cast(params, dtype)

    def gates(x: Array, before: Carry) -> Any:
        zx, zh = cell.project(params, x), cell.recur(params, before)
        return gates_of(cell, *cast((params, zx, zh, before), at_least_float32(dtype)))

    every = jax.vmap(gates)(xs.astype(dtype), before)
    return select(valid, every, jax.tree.map(jnp.zeros_like, every))
