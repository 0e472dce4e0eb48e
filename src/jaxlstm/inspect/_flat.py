"""A carry as one vector: the numbers of its arrays side by side, for an LSTM h and then c."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlstm._step import Carry


def size_of(carry: Carry, lead: int) -> int:
    """S, the length of that vector, for a carry with so many leading axes (batch, or time and batch)."""
    return sum(_sizes(carry, lead))


def flatten(carry: Carry) -> Float[Array, "S"]:
    """Concatenate the arrays of a carry without leading axes, which must have the same dtype."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(carry)])


def unflatten(flat: Float[Array, "*lead S"], like: Carry, lead: int) -> Carry:
    """Split the vector into the arrays of a carry like this one, which has so many leading axes."""
    parts, structure = jax.tree.flatten(like)
    pieces = jnp.split(flat, np.cumsum(_sizes(like, lead))[:-1], axis=-1)
    shaped = zip(pieces, parts, strict=True)
    return structure.unflatten(piece.reshape(*flat.shape[:-1], *part.shape[lead:]) for piece, part in shaped)


def _sizes(carry: Carry, lead: int) -> list[int]:
    return [math.prod(leaf.shape[lead:]) for leaf in jax.tree.leaves(carry)]
