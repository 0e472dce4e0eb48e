"""All steps of a recurrence at once, where the carry is linear in the carry before it: an associative scan.

A step maps the carry c to A c + b. Two steps, one after the other, are such a step too, with (A_2 A_1, A_2 b_1 + b_2).
So T steps are composed in a tree of depth log2(T), instead of one by one. A is diagonal, or a matrix for each sequence.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxlstm._arrays import select
from jaxlstm._cell import Cell
from jaxlstm._dtypes import at_least_float32, cast_like
from jaxlstm._sharding import match_varying
from jaxlstm._step import Carry
from jaxlstm._wrapper import CellWrapper
from jaxlstm.cells._linear import LinearCell

PIECES = ("recur", "combine", "transition")  # what decides how a carry depends on the carry before it

Slope = Callable[[Carry, Any], Carry]  # (direction, what a step reads) -> the derivative of its carry in the direction


def why_not_linear(cell: Cell) -> str | None:
    """Why an associative scan cannot evaluate the cell, or None if it can."""
    kind = CellWrapper if isinstance(cell, CellWrapper) else LinearCell
    if not isinstance(cell, kind):
        return "it has no coefficients, which a LinearCell has"
    own = [name for name in PIECES if getattr(type(cell), name) is not getattr(kind, name)]
    if own:
        return f"its own {own[0]} may not be linear in the carry"
    return why_not_linear(cell.cell) if isinstance(cell, CellWrapper) else None


def solve(
    step: Callable[[Carry, Any], tuple[Carry, Any]],
    advance: Callable[[Carry, Any], Carry],
    slope: Slope,
    carry: Carry,
    sequences: Any,
    *,
    reset: Bool[Array, "T *batch"] | None,
    reverse: bool,
    dense: bool = False,
) -> tuple[Carry, Any]:
    """``jax.lax.scan(step, carry, sequences, reverse=reverse)``, for a step whose carry is A carry + b.

    Args:
      step: a step of the loop.
      advance: its carry alone, for a carry in at least float32.
      slope: the derivative of `advance`.
      carry: the carry before the first step.
      sequences: with a leading time axis.
      reset: the steps at which nothing of the carry before them counts, NaN included.
      reverse: from the last step to the first.
      dense: A is a matrix for each sequence, and the carry one array ``[*batch, N]``. Else A is diagonal.
    """
    steps = jax.tree.leaves(sequences)[0].shape[0]
    if steps == 0:
        return jax.lax.scan(step, carry, sequences, reverse=reverse)
    wide = jax.tree.map(lambda leaf: leaf.astype(at_least_float32(leaf.dtype)), carry)
    nothing = jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), leaf.dtype), wide)
    a = slopes(jax.vmap(slope, in_axes=(None, 0)), wide, sequences, dense=dense)
    b = jax.vmap(advance)(carries_before(wide, nothing, reverse), sequences)
    carries = cast_like(affine_scan(a, b, reset, reverse), carry)
    _, outputs = jax.vmap(step)(carries_before(carry, carries, reverse), sequences)
    return jax.tree.map(lambda leaf: leaf[0 if reverse else -1], carries), outputs


def slopes(slope: Callable[[Carry, Any], Any], carry: Carry, sequences: Any, *, dense: bool) -> Any:
    """A of all steps. One call of `slope` gives all of a diagonal A, and one column of a dense A."""
    if not dense:
        return slope(match_varying(jax.tree.map(jnp.ones_like, carry), sequences), sequences)
    basis = match_varying(jnp.eye(carry.shape[-1], dtype=carry.dtype), sequences)
    return jax.vmap(lambda column: slope(jnp.broadcast_to(column, carry.shape), sequences), out_axes=-1)(basis)


def affine_scan(a: Any, b: Any, reset: Bool[Array, "T *batch"] | None, reverse: bool) -> Any:
    """The carries of all steps, where each is A carry + b, and the first is b.

    Args:
      a: A of each step, a tree of diagonals like b; or ``[T, *batch, N, N]`` where b is one array ``[T, *batch, N]``.
      b: what a step adds; for the first step, its carry.
      reset: the steps whose A is zero.
      reverse: from the last step to the first.
    """
    dense = isinstance(a, jax.Array) and a.ndim > b.ndim

    def times(a: Array, other: Array) -> Array:
        if not dense:
            return a * other
        return jnp.einsum("...ij,...jk->...ik" if other.ndim == a.ndim else "...ij,...j->...i", a, other)

    def compose(first: tuple[Any, Any, Any], then: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        (reset_1, a_1, b_1), (reset_2, a_2, b_2) = first, then
        resets = None
        if reset_2 is not None:  # a select, since 0 times NaN is NaN
            a_1, b_1 = select(reset_2, jax.tree.map(jnp.zeros_like, (a_1, b_1)), (a_1, b_1))
            resets = reset_1 | reset_2
        b = jax.tree.map(lambda a_2, b_1, b_2: times(a_2, b_1) + b_2, a_2, b_1, b_2)
        return resets, jax.tree.map(times, a_2, a_1), b

    return jax.lax.associative_scan(compose, (reset, a, b), reverse=reverse)[2]


def carries_before(first: Carry, carries: Carry, reverse: bool) -> Carry:
    """The carries before all steps: the first, and those after all steps but the last."""

    def moved(first: Array, all_steps: Array) -> Array:
        if all_steps.shape[0] == 0:
            return all_steps
        parts = (all_steps[1:], first[None]) if reverse else (first[None], all_steps[:-1])
        return jnp.concatenate(parts)

    return jax.tree.map(moved, first, carries)
