"""Which dtype things are computed in, and casts of trees of arrays."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxlstm import _checks


def compute_dtype(tree: Any, *dtypes: DTypeLike) -> jnp.dtype:
    """The real dtype that the arrays of a tree and other dtypes promote to, under strict promotion too."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(tree)), *dtypes)
    return jnp.finfo(dtype).dtype if jnp.issubdtype(dtype, jnp.complexfloating) else dtype


def carry_dtype(params: Any, batch_shape: tuple[int, ...], dtype: DTypeLike | None) -> jnp.dtype:
    """The dtype of a new carry: the one given, else that of the params. Checks the arguments of every `init_carry`."""
    _checks.check_batch_shape(batch_shape)
    if not all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(params)) or not jax.tree.leaves(params):
        _checks.reject("params", "the arrays that init draws", _checks.describe(params), TypeError)
    if dtype is None:
        return compute_dtype(params)
    _checks.check_dtype(dtype)
    return jnp.dtype(dtype)


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """float32 for 16-bit dtypes, else the dtype itself: what gates and cell states are computed in."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(dtype, jnp.float32)


def complex_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The complex dtype of such real and imaginary parts: complex64 for 16 bits too."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(dtype, jnp.complex64)


def cast(tree: Any, dtype: DTypeLike) -> Any:
    """Every floating-point leaf in this dtype, and every complex one in its complex counterpart."""

    def leaf(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf.astype(dtype)
        return leaf.astype(complex_dtype(dtype)) if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else leaf

    return jax.tree.map(leaf, tree)


def widen(tree: Any) -> Any:
    """Every floating-point and complex leaf in at least 32 bits, so that gradients of many uses are summed in those."""
    return jax.tree.map(lambda leaf: cast(leaf, at_least_float32(leaf.dtype)), tree)


def cast_like(tree: Any, like: Any) -> Any:
    """Every leaf in the dtype of its counterpart, unless that is float0, the tangent of an integer."""

    def leaf(leaf: Any, other: Any) -> Any:
        return leaf if other.dtype == jax.dtypes.float0 else leaf.astype(other.dtype)

    return jax.tree.map(leaf, tree, like)
