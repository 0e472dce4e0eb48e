"""Part (2) of the derivative rule in `_tangent`: the scan that is linear in the tangents of z and the carry."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxlstm._arrays import add_tangents, lead_shape, unpack
from jaxlstm._associative import solve
from jaxlstm._cell import Cell
from jaxlstm._dtypes import at_least_float32, cast, cast_like
from jaxlstm._flat_steps import jacobian_kind, solve_dense
from jaxlstm._platform import Choice, per_platform
from jaxlstm._split_params import fill, reads, vectors_of
from jaxlstm._step import (
    Carry,
    Inputs,
    Kept,
    Output,
    Params,
    apply_reset,
    hold_masked,
    preactivations,
    readout,
    transition,
)


class Shared(NamedTuple):
    """What all steps read."""

    cell: Cell
    params: Params
    dinitial: Carry
    vectors: Params  # once for each sequence, as their tangents
    dvectors: Params


class Step(NamedTuple):
    """What one step reads, or with a leading time axis all steps: its values, and part (1) of its tangents."""

    inputs: Inputs
    kept: Kept
    dz: Any
    dafter: Carry | None


def linear_scan(
    cell: Cell,
    by_platform: dict[str, Choice],
    reverse: bool,
    constants: tuple[Params, Params, Carry, Carry],
    steps: Step,
) -> tuple[Carry, Output]:
    """The tangents of the last carry and of the outputs, for the constants ``(params, dparams, dinitial, dcarry)``."""
    params, dparams, dinitial, dcarry = constants
    vectors, dvectors = (_per_sequence(cell, vectors_of(cell, tree), steps.inputs.x) for tree in (params, dparams))
    shared = Shared(cell, params, dinitial, vectors, dvectors)
    step = jax.checkpoint(partial(_tangent, shared), prevent_cse=False)

    def scan(choice: Choice, dcarry: Carry, steps: Step) -> tuple[Carry, Output]:
        kind = "diagonal" if choice.evaluator == "associative" else None
        if choice.evaluator == "newton":
            kind = jacobian_kind(cell, params, dcarry, steps.inputs)
        if kind in ("diagonal", "dense"):
            by = solve if kind == "diagonal" else partial(solve_dense, cell)
            fns = step, partial(_carry_tangent, shared), partial(_slope, shared)
            all_at_once = partial(by, *fns, reset=steps.inputs.reset, reverse=reverse)
            return jax.checkpoint(all_at_once, prevent_cse=False)(dcarry, steps)  # so that no Jacobians are kept
        return jax.lax.scan(step, dcarry, steps, reverse=reverse, unroll=choice.unroll)

    with jax.named_scope("linear_scan"):
        return per_platform(scan, by_platform, dcarry, steps)


def _tangent(shared: Shared, dcarry: Carry, step: Step) -> tuple[Carry, Output]:
    """The tangents of the carry and of the output after a step."""
    dheld, after, dafter = _change(shared, dcarry, step)
    _, dy = jax.jvp(partial(readout, shared.cell, shared.params), (after,), (dafter,))
    return hold_masked(step.inputs, dafter, dy, dheld)


def _carry_tangent(shared: Shared, dcarry: Carry, step: Step) -> Carry:
    """The tangent of the carry alone, computed in at least float32."""
    params, inputs = cast((shared.params, step.inputs), at_least_float32(step.inputs.x.dtype))
    dheld, _, dafter = _change(shared._replace(params=params), dcarry, step._replace(inputs=inputs))
    return hold_masked(inputs, dafter, None, dheld)[0]


def _slope(shared: Shared, direction: Carry, step: Step) -> Carry:
    """The part of `_carry_tangent` that depends on the carry's tangent."""
    dinitial, dvectors, dz, dafter = jax.tree.map(
        jnp.zeros_like, (shared.dinitial, shared.dvectors, step.dz, step.dafter)
    )
    shared = shared._replace(dinitial=dinitial, dvectors=dvectors)
    return _carry_tangent(shared, direction, step._replace(dz=dz, dafter=dafter))


def _change(shared: Shared, dcarry: Carry, step: Step) -> tuple[Carry, Carry, Carry]:
    """The carry's tangent after the reset; the carry after the step, masked or not; and its tangent."""
    cell, params, inputs = shared.cell, shared.params, step.inputs
    before = cast_like(step.kept.before, dcarry)
    dheld = apply_reset(inputs, cast_like(shared.dinitial, dcarry), dcarry)
    z, dz = jax.jvp(lambda s: preactivations(cell, params, s, inputs), (before,), (dheld,))
    dz = add_tangents(unpack(step.dz, z), dz)
    z = z if step.kept.z is None else unpack(step.kept.z, z)
    after, dafter = _transition_tangent(shared, inputs, (z, before), (dz, dheld))
    return dheld, after, add_tangents(dafter, step.dafter)


def _transition_tangent(
    shared: Shared, inputs: Inputs, primals: tuple[Any, Carry], tangents: tuple[Any, Carry]
) -> tuple[Carry, Carry]:
    """`transition` and its tangent in the vectors, z and the carry, for one step.

    Where it reads vectors, it is mapped over the batch with those of each sequence. Each then has its own running sums,
    which need no communication between devices.
    """
    cell, params = shared.cell, shared.params

    def of_step(vectors: Params, z: Any, before: Carry, inputs: Inputs) -> Carry:
        return transition(cell, fill(params, vectors), z, before, inputs)

    vectors = cast(vectors_of(cell, params), at_least_float32(inputs.x.dtype))
    if not reads(lambda vectors: of_step(vectors, *primals, inputs), vectors):
        return jax.jvp(lambda z, before: transition(cell, params, z, before, inputs), primals, tangents)
    of_each: Callable[..., Carry] = of_step
    for _ in lead_shape(inputs.x, cell.spatial_shape):
        of_each = jax.vmap(of_each)
    return jax.jvp(lambda *args: of_each(*args, inputs), (shared.vectors, *primals), (shared.dvectors, *tangents))


def _per_sequence(cell: Cell, vectors: Params, xs: Array) -> Params:
    """Vectors, or their tangents, once for each sequence of the batch, in at least float32."""
    vectors, batch_shape = cast(vectors, at_least_float32(xs.dtype)), lead_shape(xs, cell.spatial_shape)[1:]
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*batch_shape, *leaf.shape)), vectors)
