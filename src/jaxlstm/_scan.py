"""The forward loop over checked arguments: what happens at one step, with masks and resets, and what is kept of it."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxlstm._types import Carry, Cell, Params, at_least_float32, cast, cast_like


class Plan(NamedTuple):
    """The static choices of a run."""

    cell: Cell
    reverse: bool
    unroll: int
    project_first: bool  # all inputs in one matmul before the loop, or each in its own step
    keep_preactivations: bool  # for the derivative, which otherwise computes them again
    additive: bool  # the transition depends on zx + zh alone, so that one array stands for both
    local_params: bool  # the transition or the readout has params of its own


class Inputs(NamedTuple):
    """What the loop reads at each step; None where there is no such thing."""

    x: Float[Array, "T *batch I"]
    valid: Bool[Array, "T *batch"] | None  # False: hold the carry, give zeros
    reset: Bool[Array, "T *batch"] | None  # True: start from the initial carry
    noise: Any  # what Cell.draw gave


class Kept(NamedTuple):
    """What the derivative needs of each step."""

    before: Carry  # the carry that the step started from, after a reset
    z: Any  # the pre-activations, or None


def forward(plan: Plan, params: Params, initial: Carry, carry: Carry, inputs: Inputs) -> tuple[Carry, Array, Kept]:
    """Scan the cell: the last carry, the outputs, and what the derivative needs; the compiler drops that if unused."""
    zxs = jax.vmap(partial(plan.cell.project, params))(inputs.x) if plan.project_first else None

    def step(carry: Carry, now: tuple[Inputs, Array | None]) -> tuple[Carry, tuple[Array, Kept]]:
        inputs, zx = now
        before = start(inputs, initial, carry)
        z = join(plan, plan.cell.project(params, inputs.x) if zx is None else zx, recur(plan, params, before, inputs))
        after, y = local(plan, params, z, before, inputs)
        return after, (y, Kept(before, z if plan.keep_preactivations else None))

    carry, (ys, kept) = jax.lax.scan(step, carry, (inputs, zxs), reverse=plan.reverse, unroll=plan.unroll)
    return carry, ys, kept


def start(inputs: Inputs, initial: Carry, carry: Carry) -> Carry:
    """The carry that a step starts from."""
    return carry if inputs.reset is None else select(inputs.reset, initial, carry)


def recur(plan: Plan, params: Params, before: Carry, inputs: Inputs) -> Array:
    """The carry's share of the pre-activations."""
    return plan.cell.recur(params, before, *_noise(inputs))


def join(plan: Plan, zx: Array, zh: Array) -> Any:
    """Both shares of the pre-activations: their sum if that is all the cell looks at. Linear: it joins tangents too."""
    if not plan.additive:
        return zx, zh
    wide = at_least_float32(zx.dtype)
    return zx.astype(wide) + zh.astype(wide)


def local(plan: Plan, params: Params, z: Any, before: Carry, inputs: Inputs) -> tuple[Carry, Array]:
    """The carry after a step and the output, from the pre-activations: all of a step but project and recur."""
    zx, zh = (z, jnp.zeros_like(z)) if plan.additive else z
    wide = at_least_float32(zx.dtype)
    after = plan.cell.transition(*(cast(part, wide) for part in (params, zx, zh, before)), *_noise(inputs))
    after = cast_like(after, before)
    if inputs.valid is not None:
        after = select(inputs.valid, after, before)
    y = plan.cell.readout(params, after)
    return after, y if inputs.valid is None else select(inputs.valid, y, jnp.zeros_like(y))


def select(where: Bool[Array, "..."], yes: Any, no: Any) -> Any:
    """`yes` or `no` for each sequence of the batch, leaf by leaf; a select, since NaN times zero is NaN."""

    def leaf(yes: Array, no: Array) -> Array:
        return jnp.where(where.reshape(*where.shape, *(1,) * (no.ndim - where.ndim)), yes, no)

    return jax.tree.map(leaf, yes, no)


def _noise(inputs: Inputs) -> tuple[Any, ...]:
    """An argument more for the cells that drew something; the others' methods need not know of it."""
    return () if inputs.noise is None else (inputs.noise,)


def reads_of_local(cell: Cell, params: Params, carry: Carry, inputs: Inputs) -> tuple[bool, bool]:
    """Whether the transition looks at zx + zh alone, and whether it or the readout has params of its own.

    Read off their jaxprs, so that no cell need declare it. It changes no result: it saves an array kept in place of
    two, and a pass over all steps for params that are not there.
    """
    wide = partial(cast, dtype=at_least_float32(inputs.x.dtype))
    x, noise = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (inputs.x, inputs.noise))
    noise = () if noise is None else (noise,)
    zx = jax.eval_shape(cell.project, params, x)
    zh = jax.eval_shape(cell.recur, params, carry, *noise)
    args = jax.eval_shape(wide, (params, zx, zh, carry))
    transition = jax.make_jaxpr(cell.transition)(*args, *noise).jaxpr
    readout = jax.make_jaxpr(cell.readout)(params, carry).jaxpr

    count = len(jax.tree.leaves(params))
    z_vars = transition.invars[count : count + 2]
    readers = [eqn for eqn in transition.eqns if _any_of(z_vars, eqn.invars)]
    additive = (
        [eqn.primitive.name for eqn in readers] == ["add"]
        and all(_any_of([var], readers[0].invars) for var in z_vars)
        and not _any_of(z_vars, transition.outvars)
    )
    local_params = any(
        _any_of(jaxpr.invars[:count], [*jaxpr.outvars, *(var for eqn in jaxpr.eqns for var in eqn.invars)])
        for jaxpr in (transition, readout)
    )
    return additive, local_params


def _any_of(some: list[Any], others: list[Any]) -> bool:
    return any(one is other for one in some for other in others)
