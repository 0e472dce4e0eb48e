"""The derivative rule: one for every cell, made of its five pieces.

A step, without masks and resets, is

    z_t = preactivations(p, x_t, s_{t-1})      s_t = transition(p, z_t, s_{t-1})      y_t = readout(p, s_t)

for the params p, the carry s and the pre-activations z. Let d mark a tangent, and J a Jacobian at the values that the
forward loop kept. The tangent of the step is

    dz_t = J_p,x preactivations (dp, dx_t)    (1)    + J_s preactivations ds_{t-1}          (2)
    ds_t = J_p transition dp                  (1)    + J_z,s transition (dz_t, ds_{t-1})    (2)
    dy_t = J_p readout dp                     (1)    + J_s readout ds_t                     (2)

No part of (1) depends on the tangent of another step, so `_all_steps` computes it for all steps at once, outside the
loop: for w_hh it is ``H_prev @ dw_hh``, one matmul. The rest, (2), is a scan that is linear in (dz, ds), in
`_linear_scan`. JAX transposes both: the gradient of w_hh becomes the one matmul ``H_prev^T dZ``, and the backward loop
has one matmul a step and no accumulator of weight gradients. Since this is a JVP rule made of JAX functions, every
order and mode of derivative follows.

One part of (1) stays in the scan: what `transition` does with vectors, such as peepholes and the scales of a
normalisation. It is elementwise, so that nothing is gained outside, where it would need the cotangents of all carries
in memory. Transposed, it is a running sum.

The scan is checkpointed with nothing saveable. Otherwise JAX would compute the Jacobians in a forward loop of their own
and stack all their parts. Computing the gates again from z in the backward loop costs little.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxlstm._all_steps import of_params_and_inputs
from jaxlstm._arrays import add_tangents, linear_in_a_rule, pack, select
from jaxlstm._directions import run_directions
from jaxlstm._linear_scan import Step, linear_scan
from jaxlstm._platform import Choice, choices, per_platform
from jaxlstm._scan import Plan, forward
from jaxlstm._step import Carry, Inputs, Kept, Output, Params


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def recurrence(
    plan: Plan,
    params: tuple[Params, ...],
    initial: tuple[Carry, ...],
    carry: tuple[Carry, ...],
    inputs: tuple[Inputs, ...],
) -> tuple[tuple[Carry, ...], tuple[Output, ...]]:
    """The last carries and the outputs of a cell over a sequence, differentiable by the rule above.

    All arguments and results are tuples, with an entry for each direction.
    """
    carry, outputs = forward(plan, params, initial, carry, inputs)
    return carry, tuple(ys for ys, _ in outputs)


@recurrence.defjvp
def _recurrence_jvp(plan: Plan, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    params, _, _, inputs = primals
    dparams, dinitial, dcarry, dinputs = tangents
    carry, outputs = forward(plan, *primals)
    ys, kept = zip(*outputs, strict=True)
    by_platform = choices(plan.project_first, plan.unroll, params[0], inputs[0].x.shape, plan.evaluator)
    if plan.batch_first:  # XLA would leave in the conditional what devices send each other
        linear = partial(_tangents, plan, by_platform, params, inputs, kept)
    else:
        linear = partial(per_platform, partial(_tangents_for_one, plan), by_platform, params, inputs, kept)
    dprimals = (dparams, dinitial, dcarry, tuple(given.x for given in dinputs))
    return (carry, ys), linear_in_a_rule(linear, *dprimals)


def _tangents_for_one(plan: Plan, choice: Choice, *args: Any) -> tuple[Any, Any]:
    """`_tangents` for one kind of platform."""
    return _tangents(plan, {"default": choice}, *args)


def _tangents(
    plan: Plan,
    by_platform: dict[str, Choice],
    params: tuple[Params, ...],
    inputs: tuple[Inputs, ...],
    kept: tuple[Kept, ...],
    dparams: tuple[Params, ...],
    dinitial: tuple[Carry, ...],
    dcarry: tuple[Carry, ...],
    dxs: tuple[Array, ...],
) -> tuple[tuple[Carry, ...], tuple[Output, ...]]:
    """The tangents of the last carries and the outputs: linear in all arguments that begin with d."""
    one_loop = all(choice.one_loop for choice in by_platform.values())
    constants = tuple(zip(params, dparams, dinitial, dcarry, strict=True))
    sequences = tuple(zip(inputs, kept, dxs, strict=True))
    return run_directions(partial(_tangent, plan, by_platform), plan.reverse, one_loop, constants, sequences)


def _tangent(
    plan: Plan,
    by_platform: dict[str, Choice],
    reverse: bool,
    constants: tuple[Params, Params, Carry, Carry],
    sequences: tuple[Inputs, Kept, Array],
) -> tuple[Carry, Output]:
    """`_tangents` of one direction."""
    params, dparams, *_ = constants
    inputs, kept, dxs = sequences
    packed = all(choice.pack for choice in by_platform.values())
    if packed:
        kept = kept._replace(z=pack(kept.z, inputs.x.ndim - 1))
    direct = of_params_and_inputs(plan, packed, params, dparams, inputs, kept, dxs)
    steps = Step(inputs, kept, direct.dz, direct.dafter)
    dcarry, dys = linear_scan(plan.cell, by_platform, reverse, constants, steps)
    dy = direct.dy
    if inputs.valid is not None:
        dy = select(inputs.valid, dy, jax.tree.map(jnp.zeros_like, dy))
    return dcarry, add_tangents(dys, dy)
