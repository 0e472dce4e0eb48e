"""A carry as one vector: the numbers of its arrays side by side, for an LSTM h and then c.

A complex array is its real parts, and then its imaginary ones.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlstm._step import Carry


def size_of(carry: Carry, lead: int) -> int:
    """S, the length of that vector, for a carry with `lead` leading axes (batch, or time and batch)."""
    return sum(_sizes(carry, lead))


def flatten(carry: Carry, lead: int) -> Float[Array, "*lead S"]:
    """Concatenate the arrays of a carry with `lead` leading axes, whose numbers must have the same dtype."""
    split = ((leaf.real, leaf.imag) if _is_complex(leaf) else (leaf,) for leaf in jax.tree.leaves(carry))
    parts = [part for parts in split for part in parts]
    flat = [part.reshape(*part.shape[:lead], math.prod(part.shape[lead:])) for part in parts]
    return jnp.concatenate(flat, axis=-1)


def unflatten(flat: Float[Array, "*lead S"], like: Carry, lead: int) -> Carry:
    """Split the vector into the arrays of a carry. `like` is such a carry, with `lead` leading axes."""
    parts, structure = jax.tree.flatten(like)
    pieces = jnp.split(flat, np.cumsum(_sizes(like, lead))[:-1], axis=-1)

    def shaped(piece: Array, part: Any) -> Array:
        if _is_complex(part):
            piece = jax.lax.complex(*jnp.split(piece, 2, axis=-1))
        return piece.reshape(*flat.shape[:-1], *part.shape[lead:])

    return structure.unflatten(map(shaped, pieces, parts))


def _sizes(carry: Carry, lead: int) -> list[int]:
    return [math.prod(leaf.shape[lead:]) * (1 + _is_complex(leaf)) for leaf in jax.tree.leaves(carry)]


def _is_complex(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.complexfloating)
