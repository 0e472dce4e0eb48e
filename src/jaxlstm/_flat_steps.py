"""The steps of a cell on flat carries, one array ``[*batch, N]``, and the Jacobians of all steps at once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxlstm._arrays import lead_shape
from jaxlstm._associative import Slope, solve
from jaxlstm._cell import Cell
from jaxlstm._dtypes import at_least_float32, cast, cast_like
from jaxlstm._flat import flatten, size_of, unflatten
from jaxlstm._rounding import step_rounding
from jaxlstm._step import Carry, Inputs, Params, next_carry

DENSE = 128  # features of a carry, up to which Jacobians are matrices; beyond, their diagonals
CALLS = ("pjit", "jit", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "closed_call")
ELEMENTWISE = (
    *("abs", "add", "and", "convert_element_type", "copy", "cos", "div", "eq", "erf", "exp", "expm1", "ge", "gt"),
    *("integer_pow", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow"),
    *("rsqrt", "select_n", "sign", "sin", "sqrt", "square", "stop_gradient", "sub", "tanh"),
)


def flat_step(
    cell: Cell, params: Params, initial: Carry, carry: Carry, inputs: Inputs
) -> tuple[Callable[[Array, Inputs], Array], Array]:
    """A step of flat carries in at least float32, and the first carry."""
    wide, batch_axes = at_least_float32(inputs.x.dtype), batch_axes_of(cell, inputs)
    params, initial, carry = cast((params, initial, carry), wide)

    def step(flat: Array, inputs: Inputs) -> Array:
        before = unflatten_like(flat, carry, batch_axes)
        return flatten(next_carry(cell, params, initial, before, cast(inputs, wide)), batch_axes)

    return step, flatten(carry, batch_axes)


def flat_rounding(cell: Cell, params: Params, initial: Carry, carry: Carry, inputs: Inputs) -> Callable[[Array], Array]:
    """About one rounding error of the flat carries after all steps, given those before them."""
    wide, batch_axes = at_least_float32(inputs.x.dtype), batch_axes_of(cell, inputs)
    params, initial, carry = cast((params, initial, carry), wide)

    def rounding(flat: Array, inputs: Inputs) -> Array:
        before = unflatten_like(flat, carry, batch_axes)
        return flatten(step_rounding(cell, params, initial, before, cast(inputs, wide)), batch_axes)

    return lambda before: jax.vmap(rounding)(before, inputs)


def solve_dense(
    cell: Cell,
    step: Callable[[Carry, Any], tuple[Carry, Any]],
    advance: Callable[[Carry, Any], Carry],
    slope: Slope,
    carry: Carry,
    sequences: Any,
    **options: Any,
) -> tuple[Carry, Any]:
    """`solve` for a step that is linear in a whole carry, by a matrix for each step and sequence."""
    inputs = sequences[0]
    dtype, batch_axes = at_least_float32(inputs.x.dtype), batch_axes_of(cell, inputs)
    wide = cast(carry, dtype)

    def step_of_flat(flat: Array, now: Any) -> tuple[Array, Any]:
        after, outputs = step(unflatten_like(flat, carry, batch_axes), now)
        return flatten(cast(after, dtype), batch_axes), outputs

    def of_flat(fn: Callable[[Carry, Any], Carry], flat: Array, now: Any) -> Array:
        return flatten(fn(unflatten_like(flat, wide, batch_axes), now), batch_axes)

    fns = step_of_flat, partial(of_flat, advance), partial(of_flat, slope)
    after, outputs = solve(*fns, flatten(wide, batch_axes), sequences, dense=True, **options)
    return unflatten_like(after, carry, batch_axes), outputs


def jacobian_kind(cell: Cell, params: Params, carry: Carry, inputs: Inputs) -> str:
    """What is computed of a step's Jacobian.

    "diagonal": all of it, since it is diagonal. "dense": all of it, as a matrix. "large": its diagonal alone.
    """
    if _is_elementwise(cell, params, carry, inputs):
        return "diagonal"
    return "dense" if size_of(carry, batch_axes_of(cell, inputs)) <= DENSE else "large"


def diagonals(slope: Callable[[Array, Inputs], Array], flat: Array, inputs: Inputs) -> Array:
    """The diagonals of the Jacobians of all steps, one column at a time: all at once would take too much memory."""

    def entry(column: Array) -> Array:
        return (slope(jnp.broadcast_to(column, flat.shape), inputs) * column.reshape(*(1,) * flat.ndim, -1)).sum(-1)

    return jnp.moveaxis(jax.lax.map(entry, jnp.eye(flat.shape[-1], dtype=flat.dtype)), 0, -1)


def _is_elementwise(cell: Cell, params: Params, carry: Carry, inputs: Inputs) -> bool:
    """Whether each feature of the new carry depends on the same feature of the old carry alone."""
    leaves = jax.tree.leaves(carry)
    if len(leaves) != 1:
        return False
    one = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), inputs)
    jaxpr = jax.make_jaxpr(lambda carry: next_carry(cell, params, carry, carry, one))(carry).jaxpr
    return _depends(jaxpr, [True], leaves[0].shape) is not None


def _depends(jaxpr: Any, depends: list[bool], shape: tuple[int, ...]) -> list[bool] | None:
    """Which results depend on the arguments marked; None if by more than elementwise operations on this shape."""
    marks = dict(zip(map(id, jaxpr.invars), depends, strict=True))
    for eqn in jaxpr.eqns:
        marked = [marks.get(id(var), False) for var in eqn.invars]
        if not any(marked):
            results = [False] * len(eqn.outvars)
        elif eqn.primitive.name in CALLS:
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            results = _depends(getattr(inner, "jaxpr", inner), marked, shape)
        else:
            alike = eqn.primitive.name in ELEMENTWISE and all(var.aval.shape == shape for var in eqn.outvars)
            results = [True] * len(eqn.outvars) if alike else None
        if results is None:
            return None
        marks |= zip(map(id, eqn.outvars), results, strict=True)
    return [marks.get(id(var), False) for var in jaxpr.outvars]


def batch_axes_of(cell: Cell, inputs: Inputs) -> int:
    """How many batch axes the inputs of all steps have."""
    return len(lead_shape(inputs.x, cell.spatial_shape)) - 1


def unflatten_like(flat: Array, like: Carry, batch_axes: int) -> Carry:
    """The carry that was flattened, with the shapes and dtypes of this one."""
    return cast_like(unflatten(flat, like, batch_axes), like)
