"""All steps of any recurrence with a real carry at once, by Newton's method. Experimental.

The carries s_1 .. s_T of a sequence solve the equations s_t = step(s_{t-1}, x_t). Newton's method starts from a guess
for all of them. It computes what is missing, r_t = step(s_{t-1}, x_t) - s_t, and the Jacobians J_t of the steps.
Then it corrects all carries by the solution of d_t = J_t d_{t-1} + r_t, which an associative scan finds. (Lim et al.
2024, "Parallelizing non-linear sequential models over the sequence length"; Danieli et al. 2023, "DeepPCR".)

This takes few iterations where the steps forget what was before them, and up to T where they amplify it. Damping scales
the Jacobians by a factor, which is halved where a correction made things far worse (compare Gonzalez et al. 2024,
"Towards scalable and stable parallelization of nonlinear RNNs"). Where the iterations are not enough, the loop runs.

Matmuls are in full precision: rounded to TF32, as on a GPU, steps would be too rough for the method.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlstm._arrays import select
from jaxlstm._associative import affine_scan, carries_before, slopes
from jaxlstm._cell import Cell
from jaxlstm._dtypes import cast
from jaxlstm._flat import flatten
from jaxlstm._flat_steps import batch_axes_of, diagonals, flat_rounding, flat_step, jacobian_kind, unflatten_like
from jaxlstm._sharding import match_varying
from jaxlstm._step import Carry, Inputs, Params

ITERATIONS = 64  # at most
GROWTH = 100  # of what is missing, in one correction; it often grows before it shrinks
TOLERANCE = 32  # what may be missing of a number, in rounding errors of its step


class NewtonReport(NamedTuple):
    """The result for each sequence: the number of corrections, what is missing, and whether it converged."""

    iterations: Int[Array, "*batch"]
    residual: Float[Array, "*batch"]
    converged: Bool[Array, "*batch"]


class Missing(NamedTuple):
    """What is missing of the carries after all steps, and two measures of it for each sequence."""

    left: Float[Array, "T *batch N"]
    size: Float[Array, "*batch"]  # the largest, relative to the largest carry, or to 1
    residual: Float[Array, "*batch"]  # the largest, in rounding errors of its step


class State(NamedTuple):
    """An iterate: the carries after all steps, what is missing of them, and for each sequence the damping factor."""

    carries: Float[Array, "T *batch N"]
    missing: Missing
    damping: Float[Array, "*batch"]
    iterations: Int[Array, "*batch"]
    rounds: Int[Array, ""]


class Equations(NamedTuple):
    """The equations s_t = step(s_{t-1}, x_t) of all steps, for flat carries."""

    guess: Float[Array, "T *batch N"]  # each step from the initial carry; the first carry may be NaN
    missing: Callable[[Array], Missing]  # of carries
    jacobians: Callable[[Array], Array]  # of the steps, from these carries; or their diagonals


def newton(
    cell: Cell, params: Params, initial: Carry, carry: Carry, inputs: Inputs, *, reverse: bool
) -> tuple[Carry, NewtonReport]:
    """The carries after all steps by Newton's method alone, and the report."""
    equations = _equations(cell, params, initial, carry, inputs, reverse)

    def body(state: State) -> State:
        a = equations.jacobians(state.carries)
        factor = state.damping.reshape(1, *state.damping.shape, *(1,) * (a.ndim - 1 - state.damping.ndim))
        found = state.carries + affine_scan(factor * a, state.missing.left, inputs.reset, reverse)
        missing = equations.missing(found)
        better = missing.size <= jnp.maximum(GROWTH * state.missing.size, 1)  # False for NaN
        done = state.missing.residual <= TOLERANCE
        keep = better & ~done
        all_steps = jnp.broadcast_to(keep, (found.shape[0], *keep.shape))
        carries, left = select(all_steps, (found, missing.left), (state.carries, state.missing.left))
        size, residual = select(keep, missing[1:], state.missing[1:])
        damping = jnp.where(better, jnp.minimum(2 * state.damping, 1), state.damping / 2)
        iterations = state.iterations + (~done).astype(jnp.int32)
        return State(carries, Missing(left, size, residual), damping, iterations, state.rounds + 1)

    def is_needed(state: State) -> Array:
        return (state.rounds < ITERATIONS) & ~(state.missing.residual <= TOLERANCE).all()

    missing = equations.missing(equations.guess)
    missing = missing._replace(size=jnp.where(jnp.isfinite(missing.size), missing.size, jnp.inf))
    counts = jnp.zeros(missing.size.shape, jnp.int32)
    first = State(equations.guess, missing, jnp.ones_like(missing.size), counts, jnp.int32(0))
    last = jax.lax.while_loop(is_needed, body, match_varying(first, params, inputs))
    residual = last.missing.residual
    return last.carries, NewtonReport(last.iterations, residual, residual <= TOLERANCE)


def _equations(cell: Cell, params: Params, initial: Carry, carry: Carry, inputs: Inputs, reverse: bool) -> Equations:
    step, flat = flat_step(cell, params, initial, carry, inputs)
    rounding = flat_rounding(cell, params, initial, carry, inputs)
    kind = jacobian_kind(cell, params, carry, inputs)

    def missing(carries: Array) -> Missing:
        before = carries_before(flat, carries, reverse)
        left = jax.vmap(step)(before, inputs) - carries
        largest = jnp.maximum(jnp.abs(carries).max((0, -1), initial=1.0), 1.0)
        share = jnp.abs(left) / jnp.where(left == 0, 1, rounding(before))
        return Missing(left, jnp.abs(left).max((0, -1), initial=0.0) / largest, share.max((0, -1), initial=0.0))

    def jacobians(carries: Array) -> Array:
        before = carries_before(flat, carries, reverse)

        def slope(direction: Array, inputs: Inputs) -> Array:
            directions = jnp.broadcast_to(direction, before.shape)
            return jax.jvp(lambda before: jax.vmap(step)(before, inputs), (before,), (directions,))[1]

        if kind == "large":
            return diagonals(slope, flat, inputs)
        return slopes(slope, flat, inputs, dense=kind == "dense")

    guess = jax.vmap(partial(step, flatten(cast(initial, flat.dtype), flat.ndim - 1)))(inputs)
    return Equations(guess, missing, jacobians)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def trajectory(cell: Cell, reverse: bool, params: Params, initial: Carry, carry: Carry, inputs: Inputs) -> Carry:
    """The carries after all steps: by Newton's method, or by the loop, with a warning, where that does not converge."""
    with jax.default_matmul_precision("highest"):
        found, report = newton(cell, params, initial, carry, inputs, reverse=reverse)
    jax.debug.callback(_warn, report.converged)
    step, flat = flat_step(cell, params, initial, carry, inputs)

    def loop(_: Array) -> Array:
        def body(carry: Array, now: Inputs) -> tuple[Array, Array]:
            carry = step(carry, now)
            return carry, carry

        return jax.lax.scan(body, flat, inputs, reverse=reverse)[1]

    found = jax.lax.cond(report.converged.all(), lambda found: found, loop, found)
    return jax.vmap(lambda flat: unflatten_like(flat, carry, batch_axes_of(cell, inputs)))(found)


@trajectory.defjvp
def _trajectory_jvp(cell: Cell, reverse: bool, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """The equations' own derivative: d_t = J_t d_{t-1} + what params, inputs and the first carry change of step t."""
    carries = trajectory(cell, reverse, *primals)
    params, _, first, inputs = primals
    batch_axes = batch_axes_of(cell, inputs)
    flat = jax.vmap(lambda carry: flatten(carry, batch_axes))(carries)

    def all_steps(carries: Array, *primals: Any) -> Array:
        step, first = flat_step(cell, *primals)
        return jax.vmap(step)(carries_before(first, carries, reverse), primals[-1])

    _, changes = jax.jvp(partial(all_steps, flat), primals, tangents)
    step, flat_first = flat_step(cell, *primals)

    def slope(direction: Array, now: tuple[Array, Inputs, Array]) -> Array:
        before, inputs, _ = now
        return jax.jvp(lambda before: step(before, inputs), (before,), (direction,))[1]

    def linear_step(direction: Array, now: tuple[Array, Inputs, Array]) -> tuple[Array, Array]:
        after = slope(direction, now) + now[-1]
        return after, after

    sequences = carries_before(flat_first, flat, reverse), inputs, changes
    start = jnp.zeros_like(flat_first)
    kind = jacobian_kind(cell, params, first, inputs)
    if kind == "large":
        _, found = jax.lax.scan(linear_step, start, sequences, reverse=reverse)
    else:
        a = slopes(jax.vmap(slope, in_axes=(None, 0)), flat_first, sequences, dense=kind == "dense")
        found = affine_scan(a, changes, inputs.reset, reverse)
    return carries, jax.vmap(lambda flat: unflatten_like(flat, first, batch_axes))(found)


def _warn(converged: Any) -> None:
    converged = np.asarray(converged)  # no JAX within a callback
    left = np.count_nonzero(~converged)
    if left:
        of = f"{left} of {converged.size} sequences" if converged.ndim else "the sequence"
        warnings.warn(
            f"Newton's method did not converge for {of} in {ITERATIONS} iterations; the loop ran instead", stacklevel=2
        )
