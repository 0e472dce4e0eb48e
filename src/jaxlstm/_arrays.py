"""Small functions of arrays that every cell and the loop need."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def select(where: Bool[Array, "..."], yes: Any, no: Any) -> Any:
    """`yes` or `no` for each sequence of the batch, leaf by leaf. A select, since NaN times zero is NaN."""

    def leaf(yes: Array, no: Array) -> Array:
        if no.dtype == jax.dtypes.float0:  # the tangent of an integer
            return no
        return jnp.where(where.reshape(*where.shape, *(1,) * (no.ndim - where.ndim)), yes, no)

    return jax.tree.map(leaf, yes, no)


def affine(x: Array, w: Array, b: Array | None) -> Array:
    """x @ w + b, or x @ w where b is None."""
    return x @ w if b is None else add_bias(x @ w, b)


def add_bias(z: Float[Array, "*batch n"], b: Float[Array, "n"]) -> Array:
    """z + b, without implicit rank promotion."""
    return z + per_feature(b, z)


def per_feature(vector: Float[Array, "n"], like: Float[Array, "*batch n"]) -> Array:
    """A vector of features with leading axes of size 1, as many as the other array has."""
    return jax.lax.expand_dims(vector, range(like.ndim - vector.ndim))
