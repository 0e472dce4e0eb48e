"""The derivative rule: one for every cell, made of its five pieces.

A step, without masks and resets, is

    z_t = preactivations(p, x_t, s_{t-1})      s_t = transition(p, z_t, s_{t-1})      y_t = readout(p, s_t)

for the params p, the carry s and the pre-activations z. Let d mark a tangent, and J a Jacobian at the values that the
forward loop kept. The tangent of the step is

    dz_t = J_p,x preactivations (dp, dx_t)    (1)    + J_s preactivations ds_{t-1}          (2)
    ds_t = J_p transition dp                  (1)    + J_z,s transition (dz_t, ds_{t-1})    (2)
    dy_t = J_p readout dp                     (1)    + J_s readout ds_t                     (2)

No part of (1) depends on the tangent of another step, so it is computed for all steps at once, outside the loop: for
w_hh it is ``H_prev @ dw_hh``, one matmul. The rest, (2), is a scan that is linear in (dz, ds). JAX transposes both: the
gradient of w_hh becomes the one matmul ``H_prev^T dZ``, and the backward loop has one matmul a step and no accumulator
of weight gradients. Since this is a JVP rule made of JAX functions, every order and mode of derivative follows.

One part of (1) stays in the scan: what `transition` does with vectors, such as peepholes and the scales of a
normalisation. It is elementwise, so that nothing is gained outside, where it would need the cotangents of all carries
in memory. Transposed, it is a running sum.

The scan is checkpointed with nothing saveable. Otherwise JAX would compute the Jacobians in a forward loop of their own
and stack all their parts. Computing the gates again from z in the backward loop costs little.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxlstm._arrays import lead_shape, pack, unpack
from jaxlstm._associative import solve
from jaxlstm._directions import run_directions
from jaxlstm._dtypes import at_least_float32, cast, cast_like
from jaxlstm._flat_steps import jacobian_kind, solve_dense
from jaxlstm._platform import Choice, choices, per_platform
from jaxlstm._scan import Plan, forward
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
    if jax.__version_info__ >= (0, 10):
        return (carry, ys), linear(*dprimals)
    # Before jax 0.10, a scan written straight into a custom_jvp rule has no transpose. The jvp of this linear function,
    # which is the function itself, has one; but then a custom_vjp within a cell cannot be differentiated.
    _, dout = jax.jvp(linear, jax.tree.map(jnp.zeros_like, dprimals), dprimals)
    return (carry, ys), dout


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
    params, dparams, dinitial, dcarry = constants
    inputs, kept, dxs = sequences
    packed = all(choice.pack for choice in by_platform.values())
    if packed:
        kept = kept._replace(z=pack(kept.z, inputs.x.ndim - 1))
    with jax.named_scope("all_steps"):
        dzs, dlocals = _all_steps(plan, partial(_params_and_input, plan, packed, params, dparams), inputs, kept, dxs)
        vectors, dvectors = (_per_sequence(plan, _vectors(tree), inputs.x) for tree in (params, dparams))

    def change(
        params: Params, dinitial: Carry, dvectors: Params, dcarry: Carry, now: tuple[Any, ...]
    ) -> tuple[Carry, Carry, Carry]:
        """The carry's tangent after the reset; the carry after the step, masked or not; and its tangent."""
        inputs, kept, dz, (dafter_params, _) = now
        before = cast_like(kept.before, dcarry)
        dheld = apply_reset(inputs, cast_like(dinitial, dcarry), dcarry)
        z, dz_carry = jax.jvp(lambda s: preactivations(plan.cell, params, s, inputs), (before,), (dheld,))
        z = z if kept.z is None else unpack(kept.z, z)
        after, dafter = _transition_tangent(
            plan, params, (vectors, z, before), (dvectors, _add(unpack(dz, z), dz_carry), dheld), inputs
        )
        return dheld, after, _add(dafter, dafter_params)

    @partial(jax.checkpoint, prevent_cse=False)
    def step(dcarry: Carry, now: tuple[Any, ...]) -> tuple[Carry, Output]:
        dheld, after, dafter = change(params, dinitial, dvectors, dcarry, now)
        _, dy = jax.jvp(lambda s: readout(plan.cell, params, s), (after,), (dafter,))
        return hold_masked(now[0], dafter, _add(dy, now[-1][1]), dheld)

    def advance(dinitial: Carry, dvectors: Params, dcarry: Carry, now: tuple[Any, ...]) -> Carry:
        """The tangent of `step` in the carry alone, computed in at least float32."""
        inputs, *rest = now
        wide_params, inputs = cast((params, inputs), at_least_float32(inputs.x.dtype))
        dheld, _, dafter = change(wide_params, dinitial, dvectors, dcarry, (inputs, *rest))
        return hold_masked(inputs, dafter, None, dheld)[0]

    def slope(direction: Carry, now: tuple[Any, ...]) -> Carry:
        inputs, kept, *tangents = now
        no_initial, no_vectors, nothing = jax.tree.map(jnp.zeros_like, (dinitial, dvectors, tangents))
        return advance(no_initial, no_vectors, direction, (inputs, kept, *nothing))

    def scan(choice: Choice, dcarry: Carry, xs: Any) -> tuple[Carry, Output]:
        kind = "diagonal" if choice.evaluator == "associative" else None
        if choice.evaluator == "newton":
            kind = jacobian_kind(plan.cell, params, dcarry, inputs)
        if kind in ("diagonal", "dense"):
            by = solve if kind == "diagonal" else partial(solve_dense, plan.cell)
            fns = step, partial(advance, dinitial, dvectors), slope
            all_at_once = partial(by, *fns, reset=inputs.reset, reverse=reverse)
            return jax.checkpoint(all_at_once, prevent_cse=False)(dcarry, xs)  # so that no Jacobians are kept
        return jax.lax.scan(step, dcarry, xs, reverse=reverse, unroll=choice.unroll)

    with jax.named_scope("linear_scan"):
        return per_platform(scan, by_platform, dcarry, (inputs, kept, dzs, dlocals))


def _transition_tangent(
    plan: Plan,
    params: Params,
    primals: tuple[Params, Any, Carry],
    tangents: tuple[Params, Any, Carry],
    inputs: Inputs,
) -> tuple[Carry, Carry]:
    """`transition` and its tangent in the vectors, z and the carry, for one step.

    Where it reads vectors, it is mapped over the batch with those of each sequence. Each then has its own running sums,
    which need no word from other devices.
    """

    def of_step(vectors: Params, z: Any, before: Carry, inputs: Inputs) -> Carry:
        return transition(plan.cell, _fill(params, vectors), z, before, inputs)

    _, z, before = primals
    vectors = cast(_vectors(params), at_least_float32(inputs.x.dtype))
    if not _reads(lambda vectors: of_step(vectors, z, before, inputs), vectors):
        return jax.jvp(lambda z, before: transition(plan.cell, params, z, before, inputs), primals[1:], tangents[1:])
    of_each: Callable[..., Carry] = of_step
    for _ in lead_shape(inputs.x, plan.cell.spatial_shape):
        of_each = jax.vmap(of_each)
    return jax.jvp(lambda *args: of_each(*args, inputs), primals, tangents)


def _reads(fn: Callable[[Params], Any], params: Params) -> bool:
    """Whether a function does anything with its argument."""
    jaxpr = jax.make_jaxpr(fn)(params).jaxpr
    read = [var for eqn in jaxpr.eqns for var in eqn.invars] + list(jaxpr.outvars)
    return any(var is given for var in read for given in jaxpr.invars)


def _params_and_input(
    plan: Plan, packed: bool, params: Params, dparams: Params, inputs: Inputs, kept: Kept, dx: Array
) -> tuple[Any, tuple[Carry | None, Any]]:
    """Part (1) for one step: the tangents in the params and the input, but of `transition` in the matrices alone.

    Those of the carry and the output are None where neither `transition` nor `readout` reads the params.
    """
    z, dz = jax.jvp(
        lambda p, x: preactivations(plan.cell, p, kept.before, inputs._replace(x=x)), (params, inputs.x), (dparams, dx)
    )
    z = z if kept.z is None else unpack(kept.z, z)

    def of_matrices(matrices: Params) -> Carry:
        return transition(plan.cell, _fill(params, matrices), z, kept.before, inputs)

    def of_readout(after: Carry, params: Params) -> Output:
        return readout(plan.cell, params, after)

    dafter = dy = None
    matrices = _matrices(params)
    if _reads(of_matrices, matrices) or _reads(partial(of_readout, kept.before), params):
        after, dafter = jax.jvp(of_matrices, (matrices,), (_matrices(dparams),))
        _, dy = jax.jvp(partial(of_readout, after), (params,), (dparams,))
    return pack(dz, inputs.x.ndim - 1) if packed else dz, (dafter, dy)


def _per_sequence(plan: Plan, vectors: Params, xs: Array) -> Params:
    """Vectors, or their tangents, once for each sequence of the batch, in at least float32."""
    vectors, batch_shape = cast(vectors, at_least_float32(xs.dtype)), lead_shape(xs, plan.cell.spatial_shape)[1:]
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*batch_shape, *leaf.shape)), vectors)


def _vectors(params: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf if leaf.ndim < 2 else None, params)


def _matrices(params: Params) -> Params:
    return jax.tree.map(lambda leaf: None if leaf.ndim < 2 else leaf, params)


def _fill(params: Params, some: Params) -> Params:
    """The params with some of them replaced."""
    return jax.tree.map(lambda leaf, new: leaf if new is None else new, params, some)


def _all_steps(plan: Plan, fn: Callable[..., Any], inputs: Inputs, kept: Kept, dxs: Array) -> Any:
    """`fn` for all steps at once, with time and batch merged into one axis.

    Under vmap the gradient of a weight would contract two axes. XLA on CPU copies the operands of such a matmul, and
    with jax 0.12 accumulates it in 16 bits where they have 16. A batch that is divided among devices comes first:
    merged behind time, it would be gathered from all of them.
    """
    lead = lead_shape(inputs.x, plan.cell.spatial_shape)

    def merge(leaf: Array) -> Array:
        leaf = jnp.moveaxis(leaf, 0, len(lead) - 1) if plan.batch_first else leaf
        return leaf.reshape(math.prod(lead), *leaf.shape[len(lead) :])

    def part(leaf: Array) -> Array:
        if not plan.batch_first:
            return leaf.reshape(*lead, *leaf.shape[1:])
        return jnp.moveaxis(leaf.reshape(*lead[1:], lead[0], *leaf.shape[1:]), len(lead) - 1, 0)

    return jax.tree.map(part, fn(*jax.tree.map(merge, (inputs, kept, dxs))))


def _add(one: Any, other: Any) -> Any:
    """The sum of two trees of tangents, in the dtypes of the first; None is zeros, and integers have float0."""
    if other is None:
        return one
    return jax.tree.map(lambda a, b: a if a.dtype == jax.dtypes.float0 else a + b.astype(a.dtype), one, other)
