"""A carry as one vector: its parts side by side on the last axis, h and then c for an LSTM."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlstm._step import Carry


def size_of(carry: Carry) -> int:
    """S, the numbers in one carry."""
    return sum(leaf.shape[-1] for leaf in jax.tree.leaves(carry))


def flatten(carry: Carry) -> Float[Array, "*batch S"]:
    """The parts side by side; they have one dtype."""
    return jnp.concatenate(jax.tree.leaves(carry), axis=-1)


def unflatten(flat: Float[Array, "*batch S"], like: Carry) -> Carry:
    """The parts again, named and sized as in `like`."""
    parts, structure = jax.tree.flatten(like)
    edges = np.cumsum([part.shape[-1] for part in parts])[:-1]
    return structure.unflatten(jnp.split(flat, edges, axis=-1))
