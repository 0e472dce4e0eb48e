"""The shapes of a cell's params and carry, which arguments are checked against."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxlstm import _array_checks, _checks
from jaxlstm._dtypes import compute_dtype


def check_params(cell: Any, params: Any, batch_shape: tuple[int, ...], x: Array, name: str) -> tuple[Any, Any]:
    """The params as arrays, checked against those that the cell would draw, and the shapes of the carry."""
    input_size = x.shape[-1]
    why = f"for {input_size} input features (the last axis of {name})"
    template = params_template(cell, input_size)
    params = _array_checks.like_template("params", params, template, why)
    return params, _carry_template(cell, input_size, batch_shape, compute_dtype(params, x.dtype))


@functools.lru_cache(maxsize=256)
def params_template(cell: Any, input_size: int) -> Any:
    """The shapes of the cell's params. It is kept, since a step-by-step caller asks at every step."""
    template = jax.eval_shape(lambda: cell.init(jax.random.key(0), input_size))
    _check_combine(cell, template, input_size)
    return template


@functools.lru_cache(maxsize=256)
def _carry_template(cell: Any, input_size: int, batch_shape: tuple[int, ...], dtype: jnp.dtype) -> Any:
    params = params_template(cell, input_size)
    return jax.eval_shape(lambda params: cell.init_carry(params, batch_shape, dtype=dtype), params)


def check_differentiable(carry: Any) -> None:
    """A carry whose derivatives are asked for holds no integers."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            where = f"carry{jax.tree_util.keystr(path)}"
            _checks.reject("cell", "a carry of floating-point numbers", f"{leaf.dtype} as {where}", TypeError)


def _check_combine(cell: Any, params: Any, input_size: int) -> None:
    """`combine` must be linear, since the derivative rule applies it to tangents: only then can JAX transpose it."""
    carry = jax.eval_shape(cell.init_carry, params)
    x = jax.ShapeDtypeStruct((*cell.spatial_shape, input_size), compute_dtype(params))
    zx = jax.eval_shape(cell.project, params, x)
    shares = zx, jax.eval_shape(cell.recur, params, carry)
    z = jax.eval_shape(cell.combine, *shares)
    try:
        jax.eval_shape(jax.linear_transpose(cell.combine, *shares), z)
    except Exception as error:
        name = f"{type(cell).__name__}.combine"
        raise ValueError(f"{name}: expected a linear function of zx and zh, got one without a transpose") from error
