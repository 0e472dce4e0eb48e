"""How much rounding may change the carry of a step: the unit that Newton's method judges its equations by."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxlstm._cell import Cell
from jaxlstm._step import Carry, Inputs, Params, change, hold_masked, preactivations, transition

PROBES = 8


def step_rounding(cell: Cell, params: Params, initial: Carry, carry: Carry, inputs: Inputs) -> Carry:
    """About one rounding error of each number of the carry after a step.

    The carry is rounded, and so is each product of a weight and an input that z is summed from. How these errors
    change the next carry depends on their signs. So they get random signs, several times over, and the largest change
    counts. A masked step copies the carry: the error is one rounding of the number itself.
    """
    held, after, (before, z) = change(cell, params, initial, carry, inputs)
    sizes = preactivations(cell, _absolute(params), _absolute(before), inputs._replace(x=jnp.abs(inputs.x)))
    summed = jax.tree.map(lambda size, z: jnp.maximum(jnp.where(jnp.isfinite(size), size, 0), jnp.abs(z)), sizes, z)

    def step(z: Any, before: Carry) -> Carry:
        return transition(cell, params, z, before, inputs)

    largest = _absolute(after)
    for probe in range(PROBES):
        errors = _with_signs((summed, _absolute(before)), np.random.default_rng(probe))
        _, changed = jax.jvp(step, (z, before), errors)
        largest = jax.tree.map(lambda one, other: jnp.fmax(one, jnp.abs(other)), largest, changed)
    rounded, _ = hold_masked(inputs, largest, None, _absolute(held))
    return jax.tree.map(lambda size: size * jnp.finfo(size.dtype).eps, rounded)


def _absolute(tree: Params) -> Params:
    return jax.tree.map(jnp.abs, tree)


def _with_signs(tree: Carry, rng: np.random.Generator) -> Carry:
    """Each feature with a sign of its own."""

    def leaf(array: Array) -> Array:
        signs = jnp.asarray(rng.choice([-1.0, 1.0], array.shape[-1:]), array.dtype)
        return array * signs.reshape((1,) * (array.ndim - signs.ndim) + signs.shape)

    return jax.tree.map(leaf, tree)
