"""All steps of a recurrence at once, where the carry is linear in the carry before it: an associative scan.

A step maps the carry c to a c + b. Two steps, one after the other, are such a step too, with (a_2 a_1, a_2 b_1 + b_2).
So T steps are composed in a tree, of depth log2(T), instead of one by one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxlstm._arrays import select
from jaxlstm._cell import Cell
from jaxlstm._dtypes import at_least_float32, cast, cast_like
from jaxlstm._step import Carry
from jaxlstm._wrapper import CellWrapper
from jaxlstm.cells._linear import LinearCell

PIECES = ("recur", "combine", "transition")  # what decides how a carry depends on the carry before it


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
    slope: Callable[[Carry, Any], Carry],
    carry: Carry,
    sequences: Any,
    *,
    reset: Bool[Array, "T *batch"] | None,
    reverse: bool,
) -> tuple[Carry, Any]:
    """``jax.lax.scan(step, carry, sequences, reverse=reverse)``, for a step whose carry is a * carry + b, elementwise.

    Args:
      step: a step of the loop.
      slope: its carry's derivative in a direction: ``a * direction``.
      carry: the carry before the first step.
      sequences: with a leading time axis.
      reset: the steps at which nothing of the carry before them counts, NaN included.
      reverse: from the last step to the first.
    """
    steps = jax.tree.leaves(sequences)[0].shape[0]
    if steps == 0:
        return jax.lax.scan(step, carry, sequences, reverse=reverse)
    wide = jax.tree.map(lambda leaf: leaf.astype(at_least_float32(leaf.dtype)), carry)
    zeros, ones = jax.tree.map(jnp.zeros_like, wide), jax.tree.map(jnp.ones_like, wide)
    starts = _after_first(wide, jax.tree.map(lambda leaf: jnp.zeros((steps, *leaf.shape), leaf.dtype), zeros), reverse)
    a = jax.vmap(partial(slope, ones))(sequences)
    b, _ = jax.vmap(step)(starts, sequences)
    carries = cast_like(affine_scan(a, b, reset, reverse), carry)
    _, outputs = jax.vmap(step)(_after_first(carry, carries, reverse), sequences)
    return jax.tree.map(lambda leaf: leaf[0 if reverse else -1], carries), outputs


def affine_scan(a: Carry, b: Carry, reset: Bool[Array, "T *batch"] | None, reverse: bool) -> Carry:
    """The carries of all steps, where each is a * carry + b, the first one b."""

    def compose(first: tuple[Any, Carry, Carry], then: tuple[Any, Carry, Carry]) -> tuple[Any, Carry, Carry]:
        (reset_1, a_1, b_1), (reset_2, a_2, b_2) = first, then
        resets = None
        if reset_2 is not None:  # a select, since a_2 is 0 there, and 0 times NaN is NaN
            a_1, b_1 = select(reset_2, jax.tree.map(jnp.zeros_like, (a_1, b_1)), (a_1, b_1))
            resets = reset_1 | reset_2
        b = jax.tree.map(lambda a_2, b_1, b_2: a_2 * b_1 + b_2, a_2, b_1, b_2)
        return resets, jax.tree.map(jnp.multiply, a_2, a_1), b

    return jax.lax.associative_scan(compose, (reset, a, b), reverse=reverse)[2]


def _after_first(first: Carry, carries: Carry, reverse: bool) -> Carry:
    """The carries before all steps: the first, and those after all steps but the last."""

    def moved(first: Array, all_steps: Array) -> Array:
        parts = (all_steps[1:], first[None]) if reverse else (first[None], all_steps[:-1])
        return jnp.concatenate(parts)

    return jax.tree.map(moved, first, carries)
