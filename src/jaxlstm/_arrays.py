"""Small functions of arrays that every cell and the loop need."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxlstm._dtypes import at_least_float32


def lead_shape(x: Array, spatial_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of inputs before the spatial ones and the features: ``[*batch]`` of a step, ``[T, *batch]`` of all."""
    return x.shape[: x.ndim - 1 - len(spatial_shape)]


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
    """z + b, without implicit rank promotion; in at least float32, so that b's gradient, a sum, is summed in it."""
    wide = at_least_float32(z.dtype)
    return (z.astype(wide) + per_feature(b.astype(wide), z)).astype(z.dtype)


def per_feature(weights: Float[Array, "*spatial n"], like: Float[Array, "*batch n"]) -> Array:
    """Weights of features, or of features at positions, with leading axes of size 1 for those of the other array."""
    return jax.lax.expand_dims(weights, range(like.ndim - weights.ndim))


def pack(tree: Any, batch_axes: int) -> Any:
    """Arrays that differ only in their number of features as one, which a loop stores at once; others as they are."""
    leaves = jax.tree.leaves(tree)
    kinds = {(leaf.shape[:-1], leaf.dtype) for leaf in leaves}
    if len(kinds) != 1 or any(leaf.ndim == batch_axes for leaf in leaves):
        return tree
    return jnp.concatenate(leaves, axis=-1)


def unpack(packed: Any, like: Any) -> Any:
    """The tree that `pack` was given, with the structure and sizes of `like`."""
    leaves, structure = jax.tree.flatten(like)
    if jax.tree.structure(packed) == structure:
        return packed
    edges = itertools.accumulate(leaf.shape[-1] for leaf in leaves[:-1])
    return jax.tree.unflatten(structure, jnp.split(packed, list(edges), axis=-1))


def add_tangents(one: Any, other: Any) -> Any:
    """The sum of two trees of tangents, in the dtypes of the first; None is zeros, and integers have float0."""
    if other is None:
        return one
    return jax.tree.map(lambda a, b: a if a.dtype == jax.dtypes.float0 else a + b.astype(a.dtype), one, other)


def linear_in_a_rule(fn: Callable[..., Any], *tangents: Any) -> Any:
    """``fn(*tangents)``, for a linear function with a scan in it, within a custom_jvp rule.

    Before jax 0.10, a scan written straight into such a rule has no transpose. The jvp of the function, which is the
    function itself, has one; but then a custom_vjp within a cell cannot be differentiated.
    """
    if jax.__version_info__ >= (0, 10):
        return fn(*tangents)
    _, out = jax.jvp(fn, jax.tree.map(jnp.zeros_like, tangents), tangents)
    return out
