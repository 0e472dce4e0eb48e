"""Preconditions on arrays: what a caller gave, as an array of the dtype and shape that were expected, or an error."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxlstm._checks import describe, is_float, reject


def start_array(start: Any) -> jax.Array:
    """`start` as one integer of at least 32 bits, known now or at run time."""
    array = _numbers("start", start)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        reject("start", "an integer", describe(array), TypeError)
    if array.ndim:
        reject("start", "a single integer", describe(array))
    if isinstance(array, Tracer):
        return array.astype(jnp.int32) if array.dtype.itemsize < 4 else array
    dtype = jax.dtypes.canonicalize_dtype(np.int64)
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    if not least <= int(array) <= most:
        reject("start", f"an integer in {least}..{most}", int(array))
    return jnp.asarray(int(array), dtype)


def float_array(name: str, value: Any, min_ndim: int, axes: str) -> jax.Array:
    """`value` as a floating-point array with at least `min_ndim` axes. `axes` names them in the message."""
    array = _array(name, value)
    if not is_float(array.dtype):
        reject(name, "a floating-point array", describe(array), TypeError)
    if array.ndim < min_ndim:
        reject(name, f"an array {axes}", describe(array))
    return array


def input_array(name: str, value: Any, spatial_shape: tuple[int, ...], *, time: bool = True) -> jax.Array:
    """`value` as the inputs of all steps, or of one: ``[T, *batch, *spatial_shape, I]``."""
    axes = f"[{', '.join(['T'] * time + ['*batch', *map(str, spatial_shape), 'I'])}]"
    array = float_array(name, value, time + len(spatial_shape) + 1, axes)
    if array.shape[array.ndim - 1 - len(spatial_shape) : -1] != spatial_shape:
        reject(name, f"an array {axes}", describe(array))
    return array


def bool_array(name: str, value: Any, shape: tuple[int, ...]) -> jax.Array:
    """`value` as a bool array of exactly this shape. Ints are refused, since 0/1 and lengths are easily mixed up."""
    array = _array(name, value)
    if array.dtype != jnp.bool_:
        reject(name, f"a bool array of shape {shape}", describe(array), TypeError)
    if array.shape != shape:
        reject(name, f"shape {shape}", array.shape)
    return array


def length_array(lengths: Any, batch_shape: tuple[int, ...], steps: int, name: str = "lengths") -> jax.Array:
    """`lengths` as integers of the batch's shape, within 0..steps: an error outside jit, clamped inside."""
    array = _numbers(name, lengths)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        reject(name, f"an integer array of shape {batch_shape}", describe(array), TypeError)
    if array.shape != batch_shape:
        reject(name, f"shape {batch_shape}", array.shape)
    if not isinstance(array, Tracer):
        values = np.asarray(array)  # in NumPy's own dtype: JAX's may not hold them
        longest = steps if isinstance(steps, int) else np.inf  # a symbolic number of steps is not known yet
        if values.size and (values.min() < 0 or values.max() > longest):
            reject(name, f"values in 0..{steps} (the number of steps)", f"{values.min()}..{values.max()}")
    return jnp.asarray(array)


def like_template(name: str, value: Any, template: Any, why: str) -> Any:
    """`value` as arrays, checked to have the type, structure, shapes and kinds of dtype of `template`."""
    if type(value) is not type(template) and not hasattr(template, "dtype"):  # a template that is one array has one
        reject(name, type(template).__name__, type(value).__name__, TypeError)
    if jax.tree.structure(value) != jax.tree.structure(template):
        reject(name, jax.tree.map(_shape_of, template), jax.tree.map(_shape_of, value))

    def leaf(path: Any, want: Any, got: Any) -> jax.Array:
        where = name + jax.tree_util.keystr(path)
        floating = jnp.issubdtype(want.dtype, jnp.floating)
        array = float_array(where, got, 0, "") if floating else _array(where, got)
        if array.dtype.kind != want.dtype.kind and not floating:
            reject(where, f"dtype {want.dtype}", array.dtype, TypeError)
        if array.shape != want.shape:
            reject(where, f"shape {want.shape} {why}", array.shape)
        return array

    return jax.tree_util.tree_map_with_path(leaf, template, value)


def arrays(name: str, tree: Any) -> Any:
    """A tree of arrays, of whatever shapes and dtypes."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _array(name + jax.tree_util.keystr(path), leaf), tree)


def check_dtypes(name: str, value: Any, template: Any, hint: str) -> None:
    """Leaves of exactly these dtypes. `hint` says how to make them."""

    def leaf(path: Any, want: Any, got: Any) -> None:
        if got.dtype != want.dtype:
            where = name + jax.tree_util.keystr(path)
            reject(where, f"dtype {want.dtype}, as from {hint}", got.dtype, TypeError)

    jax.tree_util.tree_map_with_path(leaf, template, value)


def _array(name: str, value: Any) -> jax.Array:
    return jnp.asarray(_numbers(name, value))


def _numbers(name: str, value: Any) -> Any:
    """An array of JAX's, or of NumPy's with a dtype that JAX has."""
    if not isinstance(value, (jax.Array, np.ndarray, np.generic, numbers.Number)):
        reject(name, "an array", describe(value), TypeError)
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    if array.dtype.kind in "OSUMm":
        reject(name, "an array of numbers", describe(array), TypeError)
    return array


def _shape_of(leaf: Any) -> str:
    return describe(leaf).partition(" (")[0]
