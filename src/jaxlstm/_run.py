"""A cell over a sequence, once its arguments are checked: what a direction begins with, randomness, the evaluators."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxlstm._arrays import lead_shape, select
from jaxlstm._cell import Cell
from jaxlstm._chunks import in_chunks
from jaxlstm._chunkwise import CHUNK
from jaxlstm._chunkwise import run as run_chunkwise
from jaxlstm._dtypes import cast, cast_like, compute_dtype, widen
from jaxlstm._random import Key, times
from jaxlstm._scan import Plan
from jaxlstm._sharding import match_varying, with_automatic_axes
from jaxlstm._step import Carry, Inputs, Output, Params, draw_noise, without_masked
from jaxlstm._tangent import recurrence
from jaxlstm._wavefront import Wave, running_layers


@partial(jax.jit, static_argnames=("cell", "reverse", "unroll", "remat", "project_first", "batch_first", "evaluator"))
def run_checked(params: tuple[Params, ...], xs: Array, *more: Any, remat: bool | int, **static: Any) -> tuple[Any, Any]:
    """The last carries and the outputs of each direction. Jitted, so that equal calls outside jit compile once."""
    plan = Plan(**static, keep_preactivations=remat is not True)
    batch_rank = len(lead_shape(xs, plan.cell.spatial_shape)) - 1
    return with_automatic_axes(partial(_run, plan, remat), batch_rank)(params, xs, *more)


def _run(
    plan: Plan,
    remat: bool | int,
    params: tuple[Params, ...],
    xs: Array,
    carry: tuple[Carry | None, ...],
    valid: Array | None,
    reset: Array | None,
    key: tuple[Key | None, ...],
    start: Array,
) -> tuple[tuple[Carry, ...], tuple[Output, ...]]:
    """The loops over checked arguments."""
    params = tuple(cast(given, compute_dtype(given, xs.dtype)) for given in params)
    of_direction = partial(begin, plan.cell, xs, valid, reset, start)
    initial, carry, inputs = zip(*map(of_direction, params, carry, key, plan.reverse), strict=True)
    if plan.evaluator == "chunkwise":
        chunk = CHUNK if isinstance(remat, bool) else remat
        each = zip(params, initial, carry, inputs, plan.reverse, strict=True)
        carry, ys = zip(*(run_chunkwise(plan.cell, *of_direction, chunk) for of_direction in each), strict=True)
    elif isinstance(remat, bool):
        carry, ys = recurrence(plan, params, initial, carry, inputs)
    else:
        wide = widen((params, initial))

        def of_chunk(carry: tuple[Carry, ...], inputs: tuple[Inputs, ...]) -> tuple[Any, Any]:
            return recurrence(plan, *cast_like(wide, (params, initial)), carry, inputs)

        carry, ys = in_chunks(of_chunk, carry, inputs, remat, plan.reverse)
    if reset is not None:  # a backward direction's at step 0; T = 0 has none
        edge = reset[:1].any(0)
        each = zip(plan.reverse, initial, carry, strict=True)
        carry = tuple(select(edge, first, after) if reverse else after for reverse, first, after in each)
    return carry, ys


def begin(
    cell: Cell,
    xs: Array,
    valid: Array | None,
    reset: Array | None,
    start: Array,
    params: Params,
    carry: Carry | None,
    key: Key | None,
    reverse: bool,
) -> tuple[Carry, Carry, Inputs]:
    """The initial carry of a direction, the carry that it begins with, and its inputs."""
    batch_shape, dtype = lead_shape(xs, cell.spatial_shape)[1:], compute_dtype(params, xs.dtype)
    initial = cell.init_carry(params, batch_shape, dtype=dtype)
    carry = initial if carry is None else cast_like(carry, initial)
    if isinstance(cell, Wave) and valid is not None:
        noise, valid = running_layers(valid, cell.layers), None
    else:
        noise = jax.vmap(lambda time: draw_noise(cell, key, time, initial, batch_shape))(times(start, xs.shape[0]))
    initial, carry = match_varying((initial, carry), params, xs, valid, reset, noise)
    if reset is not None and reverse:  # each moved to the step that comes after it
        reset = jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])
    return initial, carry, Inputs(without_masked(xs.astype(dtype), valid), valid, reset, noise)
