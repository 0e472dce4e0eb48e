"""A carry as one vector: the numbers of its arrays side by side, for an LSTM h and then c.

A complex array is its real parts, and then its imaginary ones.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlstm import _checks
from jaxlstm._cell import Cell
from jaxlstm._step import Carry, Inputs, Params, masked_step


def size_of(carry: Carry, lead: int) -> int:
    """S, the length of that vector, for a carry with `lead` leading axes (batch, or time and batch)."""
    return sum(_sizes(carry, lead))


def flatten(carry: Carry) -> Float[Array, "S"]:
    """Concatenate the arrays of a carry without leading axes, whose numbers must have the same dtype."""
    split = ((leaf.real, leaf.imag) if _is_complex(leaf) else (leaf,) for leaf in jax.tree.leaves(carry))
    return jnp.concatenate([part.ravel() for parts in split for part in parts])


def unflatten(flat: Float[Array, "*lead S"], like: Carry, lead: int) -> Carry:
    """Split the vector into the arrays of a carry. `like` is such a carry, with `lead` leading axes."""
    parts, structure = jax.tree.flatten(like)
    pieces = jnp.split(flat, np.cumsum(_sizes(like, lead))[:-1], axis=-1)

    def shaped(piece: Array, part: Any) -> Array:
        if _is_complex(part):
            piece = jax.lax.complex(*jnp.split(piece, 2, axis=-1))
        return piece.reshape(*flat.shape[:-1], *part.shape[lead:])

    return structure.unflatten(map(shaped, pieces, parts))


def check_carries(name: str, carries: Carry, like: Carry) -> tuple[Carry, tuple[int, ...]]:
    """Check carries with leading axes against `like`, one carry. Return them as arrays, and the axes, at least one."""
    leaves = jax.tree.leaves(carries)
    shape = np.shape(leaves[0]) if leaves else ()
    lead = shape[: len(shape) - len(jax.tree.leaves(like)[0].shape)] or (1,)
    template = jax.tree.map(lambda part: jax.ShapeDtypeStruct((*lead, *part.shape), part.dtype), like)
    carries = _checks.like_template(name, carries, template, "(leading axes, then those of one carry)")
    if not math.prod(lead):
        _checks.reject(name, "at least one carry", f"leading axes {lead}")
    return carries, lead


def flat_step(cell: Cell, params: Params, x: Float[Array, "I"], like: Carry) -> Callable[[Array], Array]:
    """A step with input x, as a function from such a vector to the next. `like` is a carry of the same shapes."""

    def step(flat: Float[Array, "S"]) -> Float[Array, "S"]:
        carry = unflatten(flat, like, 0)
        return flatten(masked_step(cell, params, carry, carry, Inputs(x, None, None, None))[0])

    return step


def _sizes(carry: Carry, lead: int) -> list[int]:
    return [math.prod(leaf.shape[lead:]) * (1 + _is_complex(leaf)) for leaf in jax.tree.leaves(carry)]


def _is_complex(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.complexfloating)
