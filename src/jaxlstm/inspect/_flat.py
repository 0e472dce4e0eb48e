"""Steps and carries as vectors, for Jacobians and fixed points."""

import math
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxlstm import _array_checks, _checks
from jaxlstm._cell import Cell
from jaxlstm._flat import flatten, unflatten
from jaxlstm._step import Carry, Inputs, Params, next_carry


def check_carries(name: str, carries: Carry, like: Carry) -> tuple[Carry, tuple[int, ...]]:
    """Check carries with leading axes against `like`, one carry. Return them as arrays, and the axes, at least one."""
    leaves = jax.tree.leaves(carries)
    shape = np.shape(leaves[0]) if leaves else ()
    lead = shape[: len(shape) - len(jax.tree.leaves(like)[0].shape)] or (1,)
    template = jax.tree.map(lambda part: jax.ShapeDtypeStruct((*lead, *part.shape), part.dtype), like)
    carries = _array_checks.like_template(name, carries, template, "(leading axes, then those of one carry)")
    if not math.prod(lead):
        _checks.reject(name, "at least one carry", f"leading axes {lead}")
    return carries, lead


def step_of_vector(cell: Cell, params: Params, x: Float[Array, "*spatial I"], like: Carry) -> Callable[[Array], Array]:
    """A step with input x, as a function from such a vector to the next. `like` is a carry of the same shapes."""

    def step(flat: Float[Array, "S"]) -> Float[Array, "S"]:
        carry = unflatten(flat, like, 0)
        return flatten(next_carry(cell, params, carry, carry, Inputs(x, None, None, None)), 0)

    return step
