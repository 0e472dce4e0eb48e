"""The forward loop over checked arguments: what happens at one step, with masks and resets, and what is kept of it."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxlstm._reads import Reads
from jaxlstm._types import Carry, Cell, Params, at_least_float32, carry_after, cast


class Plan(NamedTuple):
    """The static choices of a run."""

    cell: Cell
    reverse: bool
    unroll: int
    keep_preactivations: bool  # for the derivative, which otherwise computes them again
    project_first: bool | None  # project all inputs before the loop; None: as is best on the platform
    reads: Reads


class Inputs(NamedTuple):
    """What the loop reads at each step; None where there is no such thing."""

    x: Float[Array, "T *batch I"]
    valid: Bool[Array, "T *batch"] | None  # False: hold the carry, give zeros
    reset: Bool[Array, "T *batch"] | None  # True: start from the initial carry
    noise: Any  # what Cell.draw gave


class Preactivations(NamedTuple):
    """The shares zx and zh, in at least float32; leading columns of zh that are only ever added to zx are in zx."""

    zx: Float[Array, "*batch G"]
    zh: Float[Array, "*batch rest"]


class Kept(NamedTuple):
    """What the derivative needs of each step."""

    before: Carry  # the carry that the cell was given, after a reset
    z: Preactivations | None


def forward(plan: Plan, params: Params, initial: Carry, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, Kept]:
    """Scan the cell: the last carry, the outputs, and what the derivative needs; the compiler drops that if unused.

    Unless the plan says where, inputs are projected each in its own step on CPU, where writing zx for all steps to
    memory and reading it back is dearer than two small matmuls a step; elsewhere all at once, before the loop.
    """
    if plan.project_first is not None:
        return _forward(plan, plan.project_first, params, initial, carry, inputs)
    inside, first = (partial(_forward, plan, project_first) for project_first in (False, True))
    return jax.lax.platform_dependent(params, initial, carry, inputs, cpu=inside, default=first)


def _forward(
    plan: Plan, project_first: bool, params: Params, initial: Carry, carry: Carry, inputs: Inputs
) -> tuple[Carry, Array, Kept]:
    zxs = jax.vmap(partial(plan.cell.project, params))(inputs.x) if project_first else None

    def step(carry: Carry, now: tuple[Inputs, Array | None]) -> tuple[Carry, tuple[Array, Kept]]:
        inputs, zx = now
        held = before = restart(inputs, initial, carry)
        if inputs.valid is not None:
            before = select(inputs.valid, held, initial)  # so that NaN in a carry held reaches no gradient
        z = join(plan, plan.cell.project(params, inputs.x) if zx is None else zx, recur(plan, params, before, inputs))
        after, y = settle(inputs, local(plan, params, z, before, inputs), held)
        return after, (y, Kept(before, z if plan.keep_preactivations else None))

    carry, (ys, kept) = jax.lax.scan(step, carry, (inputs, zxs), reverse=plan.reverse, unroll=plan.unroll)
    return carry, ys, kept


def restart(inputs: Inputs, initial: Carry, carry: Carry) -> Carry:
    """The initial carry where a reset says so."""
    return carry if inputs.reset is None else select(inputs.reset, initial, carry)


def settle(inputs: Inputs, result: tuple[Carry, Array], held: Carry) -> tuple[Carry, Array]:
    """The carry and the output of a step that counts; of one that does not, the carry held and zeros."""
    if inputs.valid is None:
        return result
    return select(inputs.valid, result, (held, jnp.zeros_like(result[1])))


def recur(plan: Plan, params: Params, before: Carry, inputs: Inputs) -> Array:
    """The carry's share of the pre-activations."""
    return plan.cell.recur(params, before, *_noise(inputs))


def join(plan: Plan, zx: Array, zh: Array) -> Preactivations:
    """Both shares, summed where the transition looks at the sum alone. Linear: it joins tangents too."""
    wide, summed = at_least_float32(zx.dtype), plan.reads.summed
    zx, zh = zx.astype(wide), zh.astype(wide)
    total = zx[..., :summed] + zh[..., :summed]
    return Preactivations(jnp.concatenate([total, zx[..., summed:]], axis=-1), zh[..., summed:])


def local(plan: Plan, params: Params, z: Preactivations, before: Carry, inputs: Inputs) -> tuple[Carry, Array]:
    """The carry after a step and the output, from the pre-activations: all of a step but project and recur."""
    zeros = jnp.zeros_like(z.zx[..., : plan.reads.summed])
    zh = jnp.concatenate([zeros, z.zh], axis=-1)
    wide = z.zx.dtype
    after = plan.cell.transition(cast(params, wide), z.zx, zh, cast(before, wide), *_noise(inputs))
    after = carry_after(plan.cell, after, before)
    return after, plan.cell.readout(params, after)


def select(where: Bool[Array, "..."], yes: Any, no: Any) -> Any:
    """`yes` or `no` for each sequence of the batch, leaf by leaf; a select, since NaN times zero is NaN."""

    def leaf(yes: Array, no: Array) -> Array:
        return jnp.where(where.reshape(*where.shape, *(1,) * (no.ndim - where.ndim)), yes, no)

    return jax.tree.map(leaf, yes, no)


def _noise(inputs: Inputs) -> tuple[Any, ...]:
    """One more argument for the cells that drew something; the others need not know of it."""
    return () if inputs.noise is None else (inputs.noise,)
