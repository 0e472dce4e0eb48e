"""The forward pass over checked arguments, by each evaluator, and what it keeps of each step for the derivative."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxlstm._arrays import pack, unpack
from jaxlstm._associative import carries_before, solve
from jaxlstm._cell import Cell
from jaxlstm._directions import Directions, run_directions
from jaxlstm._dtypes import cast_like
from jaxlstm._newton import trajectory
from jaxlstm._platform import Choice, choices, per_platform
from jaxlstm._step import Carry, Inputs, Kept, Output, Params, masked_step, next_carry, readout


class Plan(NamedTuple):
    """The static choices of a run."""

    cell: Cell
    reverse: Directions
    unroll: int | None  # steps in a loop iteration; None: what is best on the platform
    keep_preactivations: bool  # for the derivative, which otherwise computes them again
    project_first: bool | None  # project all inputs before the loop; None: what is best on the platform
    batch_first: bool  # merge time behind the batch, since the batch is divided among devices
    evaluator: str | None  # None: what is best on the platform, for a cell that an associative scan can evaluate


def forward(
    plan: Plan,
    params: tuple[Params, ...],
    initial: tuple[Carry, ...],
    carry: tuple[Carry, ...],
    inputs: tuple[Inputs, ...],
) -> tuple[tuple[Carry, ...], tuple[tuple[Output, Kept], ...]]:
    """Run the cell in each direction: the last carry; the outputs, and what the derivative needs.

    The compiler drops what is not used.
    """
    by_platform = choices(plan.project_first, plan.unroll, params[0], inputs[0].x.shape, plan.evaluator)
    return per_platform(partial(_forward, plan), by_platform, tuple(zip(params, initial, carry, strict=True)), inputs)


def _forward(plan: Plan, choice: Choice, constants: Any, inputs: tuple[Inputs, ...]) -> Any:
    run = {"loop": _loop, "associative": _associative, "newton": _newton}[choice.evaluator]
    return run_directions(partial(run, plan, choice), plan.reverse, choice.one_loop, constants, inputs)


def _loop(
    plan: Plan, choice: Choice, reverse: bool, constants: tuple[Params, Carry, Carry], inputs: Inputs
) -> tuple[Carry, tuple[Output, Kept]]:
    params, initial, carry = constants
    zxs = None
    if choice.project_first:
        with jax.named_scope("project"):
            zxs = jax.vmap(partial(plan.cell.project, params))(inputs.x)

    shared = output_leaf(plan.cell, params, carry, inputs) if choice.pack else None

    def step(carry: Carry, now: tuple[Inputs, Any]) -> tuple[Carry, tuple[Output, Kept]]:
        carry, y, kept = masked_step(plan.cell, params, initial, carry, *now)
        kept = kept if plan.keep_preactivations else kept._replace(z=None)
        return carry, (y, kept._replace(before=_without(kept.before, shared)))

    def packed_step(carry: Carry, now: tuple[Inputs, Any]) -> tuple[Carry, tuple[Output, Kept]]:
        carry, (y, kept) = step(carry, now)
        return carry, (y, kept._replace(z=pack(kept.z, now[0].x.ndim - 1)))

    loop = partial(jax.lax.scan, packed_step if choice.pack else step, reverse=reverse, unroll=choice.unroll)
    after, (ys, kept) = loop(carry, (inputs, zxs))
    if choice.pack:
        now = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), (inputs, zxs))
        _, (_, one) = jax.eval_shape(step, carry, now)
        kept = kept._replace(z=unpack(kept.z, one.z))
    return after, (ys, kept._replace(before=_with_outputs(kept.before, shared, carry, ys, reverse)))


def _associative(
    plan: Plan, choice: Choice, reverse: bool, constants: tuple[Params, Carry, Carry], inputs: Inputs
) -> tuple[Carry, tuple[Output, Kept]]:
    """`_loop` by an associative scan."""
    params, initial, carry = constants
    with jax.named_scope("project"):
        zxs = jax.vmap(partial(plan.cell.project, params))(inputs.x)

    def step(carry: Carry, now: tuple[Inputs, Any]) -> tuple[Carry, tuple[Output, Kept]]:
        after, y, kept = masked_step(plan.cell, params, initial, carry, *now)
        return after, (y, kept if plan.keep_preactivations else kept._replace(z=None))

    def advance(carry: Carry, now: tuple[Inputs, Any]) -> Carry:
        return next_carry(plan.cell, params, cast_like(initial, carry), carry, *now)

    def slope(direction: Carry, now: tuple[Inputs, Any]) -> Carry:
        at = jax.tree.map(jnp.zeros_like, direction)
        return jax.jvp(lambda carry: advance(carry, now), (at,), (direction,))[1]

    return solve(step, advance, slope, carry, (inputs, zxs), reset=inputs.reset, reverse=reverse)


def _newton(
    plan: Plan, choice: Choice, reverse: bool, constants: tuple[Params, Carry, Carry], inputs: Inputs
) -> tuple[Carry, tuple[Output, Kept]]:
    """`_loop` by Newton's method."""
    params, initial, carry = constants
    carries = trajectory(plan.cell, reverse, params, initial, carry, inputs)

    def step(carry: Carry, now: Inputs) -> tuple[Carry, tuple[Output, Kept]]:
        after, y, kept = masked_step(plan.cell, params, initial, carry, now)
        return after, (y, kept if plan.keep_preactivations else kept._replace(z=None))

    after, outputs = jax.vmap(step)(carries_before(carry, carries, reverse), inputs)
    return jax.tree.map(lambda leaf: leaf[0 if reverse else -1], after), outputs


def output_leaf(cell: Cell, params: Params, carry: Carry, inputs: Inputs) -> int | None:
    """The index of the leaf of the carry that `readout` returns as y, which need not be kept beside the outputs.

    None if there is none, or where the carry before a step is not that after the step before: with masks or resets.
    """
    steps = inputs.x.shape[0]
    if inputs.valid is not None or inputs.reset is not None or not isinstance(steps, int) or steps == 0:
        return None
    jaxpr = jax.make_jaxpr(lambda carry: readout(cell, params, carry))(carry).jaxpr
    places = [index for index, var in enumerate(jaxpr.invars) if jaxpr.outvars == [var]]
    return places[0] if places else None


def _without(carry: Carry, leaf: int | None) -> Carry:
    """The carry with None in place of a leaf."""
    leaves, structure = jax.tree.flatten(carry)
    return jax.tree.unflatten(structure, [None if index == leaf else value for index, value in enumerate(leaves)])


def _with_outputs(before: Carry, leaf: int | None, first: Carry, ys: Output, reverse: bool) -> Carry:
    """The carries before all steps, with the outputs, moved by one step, as the leaf that was left out."""
    if leaf is None:
        return before
    first_leaves, structure = jax.tree.flatten(first)
    (outputs,) = jax.tree.leaves(ys)
    moved = carries_before(first_leaves[leaf], outputs, reverse)
    leaves = jax.tree.leaves(before)
    return jax.tree.unflatten(structure, [*leaves[:leaf], moved, *leaves[leaf:]])
