"""All steps of any recurrence at once, by Newton's method. Experimental.

The carries s_1 .. s_T of a sequence solve the equations s_t = step(s_{t-1}, x_t). Newton's method starts from a guess
for all of them. It computes what is missing, r_t = step(s_{t-1}, x_t) - s_t, and the Jacobians J_t of the steps, and
corrects all carries by the solution of d_t = J_t d_{t-1} + r_t, which an associative scan finds. (Lim et al. 2024,
"Parallelizing non-linear sequential models over the sequence length"; Danieli et al. 2023, "DeepPCR".)

This takes few iterations where the steps forget what was before them, and up to T where they amplify it. Damping scales
the Jacobians by a factor, which is halved where a correction made things far worse (compare Gonzalez et al. 2024,
"Towards scalable and stable parallelization of nonlinear RNNs"). Where the iterations are not enough, the loop runs.

Matmuls are in full precision: rounded to TF32, as on a GPU, steps would be too rough for the method.
"""

import itertools
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlstm._arrays import lead_shape, select
from jaxlstm._associative import Slope, affine_scan, carries_before, slopes, solve
from jaxlstm._cell import Cell
from jaxlstm._dtypes import at_least_float32, cast
from jaxlstm._step import Carry, Inputs, Params, masked_step

ITERATIONS = 64  # at most
DENSE = 128  # features of a carry, up to which Jacobians are matrices; beyond, their diagonals
ELEMENTWISE = (
    *("abs", "add", "and", "convert_element_type", "copy", "cos", "div", "eq", "erf", "exp", "expm1", "ge", "gt"),
    *("integer_pow", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow"),
    *("rsqrt", "select_n", "sign", "sin", "sqrt", "square", "stop_gradient", "sub", "tanh"),
)
GROWTH = 100  # of what is missing, in one correction; it often grows before it shrinks
TOLERANCE = 32  # times the machine epsilon: what may be missing of a carry, relative to the largest, or to 1


class NewtonReport(NamedTuple):
    """What Newton's method came to, for each sequence: how many corrections, what is missing, and if that is enough."""

    iterations: Int[Array, "*batch"]
    residual: Float[Array, "*batch"]
    converged: Bool[Array, "*batch"]


class State(NamedTuple):
    """An iterate: the carries after all steps, what is missing of them, and for each sequence the damping factor."""

    carries: Float[Array, "T *batch N"]
    missing: Float[Array, "T *batch N"]
    residual: Float[Array, "*batch"]
    damping: Float[Array, "*batch"]
    iterations: Int[Array, "*batch"]
    count: Int[Array, ""]


def newton(
    cell: Cell, params: Params, initial: Carry, carry: Carry, inputs: Inputs, *, reverse: bool
) -> tuple[Carry, NewtonReport]:
    """The carries after all steps by Newton's method alone, and the report."""
    step, flat = _flat_step(cell, params, initial, carry, inputs)
    kind = jacobian_kind(cell, params, carry, inputs)

    def residual(carries: Array) -> tuple[Array, Array]:
        missing = jax.vmap(step)(carries_before(flat, carries, reverse), inputs) - carries
        size = jnp.maximum(jnp.abs(carries).max((0, -1), initial=1.0), 1.0)
        return missing, jnp.abs(missing).max((0, -1), initial=0.0) / size

    def jacobians(carries: Array) -> Array:
        before = carries_before(flat, carries, reverse)

        def slope(direction: Array, inputs: Inputs) -> Array:
            directions = jnp.broadcast_to(direction, before.shape)
            return jax.jvp(lambda before: jax.vmap(step)(before, inputs), (before,), (directions,))[1]

        if kind == "large":
            return _diagonals(slope, flat, inputs)
        return slopes(slope, flat, inputs, dense=kind == "dense")

    tolerance = TOLERANCE * jnp.finfo(flat.dtype).eps

    def body(state: State) -> State:
        a = jacobians(state.carries)
        factor = state.damping.reshape(1, *state.damping.shape, *(1,) * (a.ndim - 1 - state.damping.ndim))
        found = state.carries + affine_scan(factor * a, state.missing, inputs.reset, reverse)
        missing, now = residual(found)
        better = now <= jnp.maximum(GROWTH * state.residual, 1)  # False for NaN
        done = state.residual <= tolerance
        keep = jnp.broadcast_to(better & ~done, (found.shape[0], *better.shape))
        carries, missing = select(keep, (found, missing), (state.carries, state.missing))
        damping = jnp.where(better, jnp.minimum(2 * state.damping, 1), state.damping / 2)
        now = jnp.where(better & ~done, now, state.residual)
        return State(carries, missing, now, damping, state.iterations + (~done).astype(jnp.int32), state.count + 1)

    def is_needed(state: State) -> Array:
        return (state.count < ITERATIONS) & (state.residual > tolerance).any()

    guess = jax.vmap(partial(step, _flatten(cast(initial, flat.dtype), flat.ndim - 1)))(inputs)  # the carry may be NaN
    missing, now = residual(guess)
    counts = jnp.zeros(flat.shape[:-1], jnp.int32)
    first = State(guess, missing, jnp.where(jnp.isfinite(now), now, jnp.inf), jnp.ones_like(now), counts, jnp.int32(0))
    last = jax.lax.while_loop(is_needed, body, first)
    return last.carries, NewtonReport(last.iterations, last.residual, last.residual <= tolerance)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def trajectory(cell: Cell, reverse: bool, params: Params, initial: Carry, carry: Carry, inputs: Inputs) -> Carry:
    """The carries after all steps: by Newton's method, or by the loop, with a warning, where that does not converge."""
    with jax.default_matmul_precision("highest"):
        found, report = newton(cell, params, initial, carry, inputs, reverse=reverse)
    jax.debug.callback(_warn, report.converged)
    step, flat = _flat_step(cell, params, initial, carry, inputs)

    def loop(_: Array) -> Array:
        def body(carry: Array, now: Inputs) -> tuple[Array, Array]:
            carry = step(carry, now)
            return carry, carry

        return jax.lax.scan(body, flat, inputs, reverse=reverse)[1]

    found = jax.lax.cond(report.converged.all(), lambda found: found, loop, found)
    return jax.vmap(lambda flat: _unflatten(flat, carry))(found)


@trajectory.defjvp
def _trajectory_jvp(cell: Cell, reverse: bool, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    """The equations' own derivative: d_t = J_t d_{t-1} + what params, inputs and the first carry change of step t."""
    carries = trajectory(cell, reverse, *primals)
    params, _, first, inputs = primals
    batch_axes = _batch_axes(cell, inputs)
    flat = jax.vmap(lambda carry: _flatten(carry, batch_axes))(carries)

    def all_steps(carries: Array, *primals: Any) -> Array:
        step, first = _flat_step(cell, *primals)
        return jax.vmap(step)(carries_before(first, carries, reverse), primals[-1])

    _, changes = jax.jvp(partial(all_steps, flat), primals, tangents)
    step, flat_first = _flat_step(cell, *primals)

    def linear_step(direction: Array, now: tuple[Array, Inputs, Array]) -> tuple[Array, Array]:
        before, inputs, change = now
        _, after = jax.jvp(lambda before: step(before, inputs), (before,), (direction,))
        return after + change, after + change

    def slope(direction: Array, now: tuple[Array, Inputs, Array]) -> Array:
        before, inputs, _ = now
        return jax.jvp(lambda before: step(before, inputs), (before,), (direction,))[1]

    sequences = carries_before(flat_first, flat, reverse), inputs, changes
    start = jnp.zeros_like(flat_first)
    kind = jacobian_kind(cell, params, first, inputs)
    if kind == "large":
        _, found = jax.lax.scan(linear_step, start, sequences, reverse=reverse)
    else:
        a = slopes(jax.vmap(slope, in_axes=(None, 0)), flat_first, sequences, dense=kind == "dense")
        found = affine_scan(a, changes, inputs.reset, reverse)
    return carries, jax.vmap(lambda flat: _unflatten(flat, first))(found)


def solve_dense(
    cell: Cell,
    step: Callable[[Carry, Any], tuple[Carry, Any]],
    slope: Slope,
    carry: Carry,
    sequences: Any,
    **options: Any,
) -> tuple[Carry, Any]:
    """`solve` for a step that is linear in a whole carry, by a matrix for each step and sequence."""
    batch_axes = _batch_axes(cell, sequences[0])

    def flat_step(flat: Array, now: Any) -> tuple[Array, Any]:
        after, outputs = step(_unflatten(flat, carry), now)
        return _flatten(after, batch_axes), outputs

    def flat_slope(flat: Array, now: Any) -> Array:
        return _flatten(slope(_unflatten(flat, carry), now), batch_axes)

    after, outputs = solve(flat_step, flat_slope, _flatten(carry, batch_axes), sequences, dense=True, **options)
    return _unflatten(after, carry), outputs


def jacobian_kind(cell: Cell, params: Params, carry: Carry, inputs: Inputs) -> str:
    """How a step's Jacobian is handled: "diagonal", which it is; "dense", as a matrix; or "large", for its diagonal."""
    if _is_elementwise(cell, params, carry, inputs):
        return "diagonal"
    batch_axes = _batch_axes(cell, inputs)
    features = sum(math.prod(leaf.shape[batch_axes:]) for leaf in jax.tree.leaves(carry))
    return "dense" if features <= DENSE else "large"


def _is_elementwise(cell: Cell, params: Params, carry: Carry, inputs: Inputs) -> bool:
    """Whether each feature of the carry depends on itself alone, of those before the step."""
    leaves = jax.tree.leaves(carry)
    if len(leaves) != 1:
        return False
    one = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), inputs)
    jaxpr = jax.make_jaxpr(lambda carry: masked_step(cell, params, carry, carry, one)[0])(carry).jaxpr
    return _depends(jaxpr, [True], leaves[0].shape) is not None


def _depends(jaxpr: Any, depends: list[bool], shape: tuple[int, ...]) -> list[bool] | None:
    """Which results depend on the arguments marked; None if by more than elementwise operations on this shape."""
    marks = dict(zip(map(id, jaxpr.invars), depends, strict=True))
    for eqn in jaxpr.eqns:
        marked = [marks.get(id(var), False) for var in eqn.invars]
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        if not any(marked):
            results = [False] * len(eqn.outvars)
        elif inner is not None:
            results = _depends(getattr(inner, "jaxpr", inner), marked, shape)
        else:
            alike = eqn.primitive.name in ELEMENTWISE and all(var.aval.shape == shape for var in eqn.outvars)
            results = [True] * len(eqn.outvars) if alike else None
        if results is None:
            return None
        marks |= zip(map(id, eqn.outvars), results, strict=True)
    return [marks.get(id(var), False) for var in jaxpr.outvars]


def _diagonals(slope: Callable[[Array, Inputs], Array], flat: Array, inputs: Inputs) -> Array:
    """The diagonals of the Jacobians of all steps, one column after another, for what memory they would take."""

    def entry(column: Array) -> Array:
        return (slope(jnp.broadcast_to(column, flat.shape), inputs) * column.reshape(*(1,) * flat.ndim, -1)).sum(-1)

    return jnp.moveaxis(jax.lax.map(entry, jnp.eye(flat.shape[-1], dtype=flat.dtype)), 0, -1)


def _flat_step(
    cell: Cell, params: Params, initial: Carry, carry: Carry, inputs: Inputs
) -> tuple[Callable[[Array, Inputs], Array], Array]:
    """A step of flat carries in at least float32, and the first carry."""
    wide, batch_axes = at_least_float32(inputs.x.dtype), _batch_axes(cell, inputs)
    params, initial, carry = cast((params, initial, carry), wide)

    def step(flat: Array, inputs: Inputs) -> Array:
        after, *_ = masked_step(cell, params, initial, _unflatten(flat, carry), cast(inputs, wide))
        return _flatten(after, batch_axes)

    return step, _flatten(carry, batch_axes)


def _batch_axes(cell: Cell, inputs: Inputs) -> int:
    return len(lead_shape(inputs.x, cell.spatial_shape)) - 1


def _flatten(carry: Carry, batch_axes: int) -> Array:
    """The features of each sequence's carry as one axis."""
    leaves = (
        leaf.reshape(*leaf.shape[:batch_axes], math.prod(leaf.shape[batch_axes:])) for leaf in jax.tree.leaves(carry)
    )
    return jnp.concatenate(list(leaves), axis=-1)


def _unflatten(flat: Array, like: Carry) -> Carry:
    """The carry that was flattened, with the shapes and dtypes of this one."""
    leaves, structure = jax.tree.flatten(like)
    batch = flat.shape[:-1]
    edges = itertools.accumulate(math.prod(leaf.shape[len(batch) :]) for leaf in leaves[:-1])
    parts = zip(jnp.split(flat, list(edges), axis=-1), leaves, strict=True)
    return jax.tree.unflatten(structure, [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in parts])


def _warn(converged: Any) -> None:
    converged = np.asarray(converged)  # no JAX within a callback
    left = np.count_nonzero(~converged)
    if left:
        of = f"{left} of {converged.size} sequences" if converged.ndim else "the sequence"
        warnings.warn(
            f"Newton's method did not converge for {of} in {ITERATIONS} iterations; the loop ran instead", stacklevel=2
        )
