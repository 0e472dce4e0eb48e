"""The derivative rule: one for every cell, from its four pieces alone.

A step, without masks and resets, is (z_t the pre-activations, s_t the carry, p the params)

    z_t = project(p, x_t) + recur(p, s_{t-1})          s_t, y_t = local(p, z_t, s_{t-1})

Its tangent, with d for tangents and J for Jacobians at the values that the forward loop kept, is

    dz_t       = J project (dp, dx_t) + J_p recur dp     (1)     + J_s recur ds_{t-1}                    (2)
    ds_t, dy_t = J_p local dp                            (1)     + J_z local dz_t + J_s local ds_{t-1}   (2)

All of (1) depends on no other step's tangent, so it is computed for all steps at once, outside any loop: for w_hh it
is ``H_prev @ dw_hh``, one matmul. What is left, (2), is a scan that is linear in (dz, ds). JAX transposes both: the
gradient of w_hh becomes the one matmul ``H_prev^T dZ``, and the backward loop holds one matmul a step and no
accumulator of weights. Since this is a JVP rule, made of JAX, every order and mode of derivative follows.

The scan is checkpointed with nothing saveable: else JAX would move the Jacobians into a forward loop of their own and
stack all their parts, where recomputing the gates from z in the backward loop costs little.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxlstm._scan import Inputs, Kept, Plan, forward, join, local, recur, restart, settle
from jaxlstm._types import Carry, Params


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def recurrence(plan: Plan, params: Params, initial: Carry, carry: Carry, inputs: Inputs) -> tuple[Carry, Array]:
    """The last carry and the outputs of a cell over a sequence, differentiable by the rule above."""
    carry, ys, _ = forward(plan, params, initial, carry, inputs)
    return carry, ys


@recurrence.defjvp
def _recurrence_jvp(plan: Plan, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    params, _, _, inputs = primals
    dparams, dinitial, dcarry, dinputs = tangents
    carry, ys, kept = forward(plan, *primals)
    linear = partial(_tangent, plan, params, inputs, kept)
    dprimals = (dparams, dinitial, dcarry, dinputs.x)
    if jax.__version_info__ >= (0, 10):
        return (carry, ys), linear(*dprimals)
    # Before, a scan written straight into a custom_jvp rule has no transpose. As the jvp of itself, which for a linear
    # function is itself, it has one; but a custom_vjp within a cell, differentiated twice by that, then has none.
    _, dout = jax.jvp(linear, jax.tree.map(jnp.zeros_like, dprimals), dprimals)
    return (carry, ys), dout


def _tangent(
    plan: Plan,
    params: Params,
    inputs: Inputs,
    kept: Kept,
    dparams: Params,
    dinitial: Carry,
    dcarry: Carry,
    dxs: Array,
) -> tuple[Carry, Array]:
    """The tangents of the last carry and the outputs: linear in all the arguments that begin with d."""
    dzs, shares = _all_steps(partial(_batched, plan, params, dparams), inputs, kept, dxs)

    @partial(jax.checkpoint, prevent_cse=False)
    def step(dcarry: Carry, now: tuple[Inputs, Kept, Any, Any]) -> tuple[Carry, Array]:
        inputs, kept, dz, share = now
        dheld = restart(inputs, dinitial, dcarry)
        _, dzh = jax.jvp(lambda before: recur(plan, params, before, inputs), (kept.before,), (dheld,))
        dz = _add(dz, join(plan, jnp.zeros_like(dz.zx, dzh.dtype), dzh))
        _, dout = jax.jvp(
            lambda z, before: local(plan, params, z, before, inputs),
            (_preactivations(plan, params, inputs, kept), kept.before),
            (dz, dheld),
        )
        return settle(inputs, dout if share is None else _add(dout, share), dheld)

    return jax.lax.scan(step, dcarry, (inputs, kept, dzs, shares), reverse=plan.reverse, unroll=plan.unroll)


def _batched(plan: Plan, params: Params, dparams: Params, inputs: Inputs, kept: Kept, dx: Array) -> tuple[Any, Any]:
    """Part (1) for one step: the tangents that no other step's tangent enters."""
    _, dzx = jax.jvp(plan.cell.project, (params, inputs.x), (dparams, dx))
    _, dzh = jax.jvp(lambda p: recur(plan, p, kept.before, inputs), (params,), (dparams,))
    if not plan.reads.params:
        return join(plan, dzx, dzh), None
    z = _preactivations(plan, params, inputs, kept)
    _, share = jax.jvp(lambda p: local(plan, p, z, kept.before, inputs), (params,), (dparams,))
    return join(plan, dzx, dzh), share


def _all_steps(fn: Callable[..., Any], inputs: Inputs, kept: Kept, dxs: Array) -> Any:
    """`fn` for all steps at once, time and batch merged into one axis.

    Not as a vmap, since the gradient of a weight would then contract two axes: XLA on CPU copies the operands of such a
    matmul, and with jax 0.12 sums it in 16 bits where they have 16. Where there are several devices the batch may be
    divided among them, so it comes first: merged behind time, it would be gathered from them all.
    """
    lead = inputs.x.shape[:-1]
    batch_first = jax.device_count() > 1

    def merge(leaf: Array) -> Array:
        leaf = jnp.moveaxis(leaf, 0, len(lead) - 1) if batch_first else leaf
        return leaf.reshape(math.prod(lead), *leaf.shape[len(lead) :])

    def part(leaf: Array) -> Array:
        if not batch_first:
            return leaf.reshape(*lead, *leaf.shape[1:])
        return jnp.moveaxis(leaf.reshape(*lead[1:], lead[0], *leaf.shape[1:]), len(lead) - 1, 0)

    return jax.tree.map(part, fn(*jax.tree.map(merge, (inputs, kept, dxs))))


def _preactivations(plan: Plan, params: Params, inputs: Inputs, kept: Kept) -> Any:
    """Those kept, or computed again."""
    if plan.keep_preactivations:
        return kept.z
    return join(plan, plan.cell.project(params, inputs.x), recur(plan, params, kept.before, inputs))


def _add(one: Any, other: Any) -> Any:
    return jax.tree.map(jnp.add, one, other)
