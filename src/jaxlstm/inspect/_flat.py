"""A carry as one vector: its arrays concatenated on the last axis, for an LSTM h and then c."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlstm._step import Carry


def size_of(carry: Carry) -> int:
    """S, the length of that vector."""
    return sum(leaf.shape[-1] for leaf in jax.tree.leaves(carry))


def flatten(carry: Carry) -> Float[Array, "*batch S"]:
    """Concatenate the arrays of a carry, which must have the same dtype."""
    return jnp.concatenate(jax.tree.leaves(carry), axis=-1)


def unflatten(flat: Float[Array, "*batch S"], like: Carry) -> Carry:
    """Split the vector into the arrays of a carry with the structure and sizes of `like`."""
    parts, structure = jax.tree.flatten(like)
    edges = np.cumsum([part.shape[-1] for part in parts])[:-1]
    return structure.unflatten(jnp.split(flat, edges, axis=-1))
