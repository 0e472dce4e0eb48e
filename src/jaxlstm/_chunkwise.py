"""A cell that can run a chunk of steps at once, over a sequence: a loop over chunks, not over steps.

JAX differentiates it, not the rule of `_tangent`. Only the carries between chunks are kept for the backward pass, which
runs each chunk again.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxlstm._cell import Cell
from jaxlstm._chunks import in_chunks
from jaxlstm._dtypes import at_least_float32, cast, cast_like
from jaxlstm._step import Carry, Inputs, Output, Params
from jaxlstm.cells._learned import LearnedCarry
from jaxlstm.cells._mlstm import MLSTMCell

PIECES = ("project", "recur", "combine", "transition", "readout")
CHUNK = 64  # steps, unless `remat` says otherwise


def why_not_in_chunks(cell: Cell) -> str | None:
    """Why the cell cannot run a chunk of steps at once, or None if it can."""
    kind = LearnedCarry if isinstance(cell, LearnedCarry) else MLSTMCell
    if not isinstance(cell, kind):
        return "only an MLSTMCell runs a chunk of steps at once"
    own = [name for name in PIECES if getattr(type(cell), name) is not getattr(kind, name)]
    if own:
        return f"its own {own[0]} may differ from the mLSTM's, which chunks compute"
    return why_not_in_chunks(cell.cell) if isinstance(cell, LearnedCarry) else None


def run(
    cell: Any,
    params: Params,
    initial: Carry,
    carry: Carry,
    inputs: Inputs,
    reverse: bool,
    chunk: int = CHUNK,
) -> tuple[Carry, Output]:
    """The last carry and the outputs of an mLSTM, also within a `LearnedCarry`, by its `chunk` method.

    Equal to the loop to rounding. The longest chain of dependent steps is about T / chunk + log2(chunk).

    Args:
      cell: an `MLSTMCell`, or a `LearnedCarry` of one.
      params: its params, in the compute dtype.
      initial: the carry that a reset returns to.
      carry: the carry before the first step.
      inputs: of all steps; the number of steps is not symbolic.
      reverse: run from the last step to the first, with resets moved as for the loop.
      chunk: the steps of a chunk.
    """
    while isinstance(cell, LearnedCarry):
        cell, params = cell.cell, cell.inner_params(params)
    # In at least float32, since their gradients are summed over chunks.
    params, initial = cast((params, initial), at_least_float32(inputs.x.dtype))
    length = min(chunk, max(inputs.x.shape[0], 1))
    of_chunk = partial(_run_chunk, cell, params, initial, reverse)
    (carry,), (ys,) = in_chunks(of_chunk, (carry,), (inputs,), length, (reverse,))
    return carry, ys


def _run_chunk(
    cell: MLSTMCell,
    params: Params,
    initial: Carry,
    reverse: bool,
    carry: tuple[Carry],
    inputs: tuple[Inputs],
) -> tuple[tuple[Carry], tuple[Output]]:
    """One chunk, in the order of time, as `in_chunks` wants it: tuples for one direction."""
    (before,), (steps,) = carry, inputs
    batch_axes = steps.x.ndim - 2

    def turn(array: Array) -> Array:
        """Time behind the batch axes, in the order of the loop."""
        return jnp.moveaxis(jnp.flip(array, 0) if reverse else array, 0, batch_axes)

    x, valid, reset, _ = jax.tree.map(turn, steps)
    lead, dtype = x.shape[:-1], x.dtype
    with jax.named_scope("project"):  # one axis, as in `_all_steps`
        zx = cell.project(cast(params, dtype), x.reshape(math.prod(lead), x.shape[-1]))
    wide = at_least_float32(dtype)
    z = cell.combine(cast(zx.reshape(*lead, zx.shape[-1]), wide), None)
    after, ys = cell.chunk(params, z, cast(before, wide), initial, valid, reset)
    ys = jnp.moveaxis(ys.astype(before.h.dtype), batch_axes, 0)
    return (cast_like(after, before),), (jnp.flip(ys, 0) if reverse else ys,)
