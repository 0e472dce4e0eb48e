"""Preconditions, and the sentences that a user reads when one fails.

Every message has one form: ``argument: expected this, got that``. All checks look at shapes and dtypes, which are
static, so they cost nothing under jit; the few that need values run only where the values are known.
"""

import numbers
from collections.abc import Hashable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def reject(name: str, expected: object, got: object, error: type[Exception] = ValueError) -> NoReturn:
    """Raise `error` in the one form that all messages have."""
    raise error(f"{name}: expected {expected}, got {got}")


def describe(value: object) -> str:
    """What came, in a few words: dtype and shape of an array, else the value and its type."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"  # type: ignore[attr-defined]
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def check_size(name: str, value: object) -> None:
    """A size is a positive int."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        reject(name, "a positive int", describe(value), TypeError)
    if int(value) < 1:
        reject(name, "a positive int", value)


def check_number(name: str, value: object) -> None:
    """A static option that is a finite real number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        reject(name, "a number", describe(value), TypeError)
    if not np.isfinite(float(value)):
        reject(name, "a finite number", value)


def check_flag(name: str, value: object) -> None:
    """A static option that is True or False."""
    if not isinstance(value, bool):
        reject(name, "True or False", describe(value), TypeError)


def check_function(name: str, value: object) -> None:
    """A static option that is a function; it must be hashable, since a cell can be a static argument of jit."""
    if not callable(value):
        reject(name, "a function", describe(value), TypeError)
    if not isinstance(value, Hashable):
        reject(name, "a hashable function", describe(value), TypeError)


def check_rate(name: str, value: object) -> None:
    """A probability of dropping: 0 <= rate < 1."""
    check_number(name, value)
    if not 0 <= float(value) < 1:  # type: ignore[arg-type]
        reject(name, "a rate in [0, 1)", value)


def check_project_first(value: object) -> None:
    """`project_first` is None, True or False."""
    if value is not None and not isinstance(value, bool):
        reject("project_first", "None, True or False", describe(value), TypeError)


def check_remat(value: object) -> None:
    """`remat` is None or False, True, "sqrt" or a chunk length."""
    if value is None or isinstance(value, bool) or (isinstance(value, str) and value == "sqrt"):
        return
    if not isinstance(value, numbers.Integral):
        reject("remat", "None, True, 'sqrt' or a chunk length (a positive int)", describe(value), TypeError)
    check_size("remat", value)


def check_key(key: Any, name: str = "key") -> None:
    """One PRNG key: typed (`jax.random.key`) or raw (`jax.random.PRNGKey`)."""
    if not isinstance(key, (jax.Array, np.ndarray)):
        reject(name, "a PRNG key (jax.random.key(seed))", describe(key), TypeError)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and key.dtype != np.uint32:
        reject(name, "a PRNG key (jax.random.key(seed))", describe(key), TypeError)
    if key.ndim != (0 if typed else 1):
        reject(name, "a single PRNG key", describe(key))


def check_start(start: Any) -> None:
    """`start` is one integer, known now or at run time."""
    start = _array("start", start)
    if not jnp.issubdtype(start.dtype, jnp.integer):
        reject("start", "an integer", describe(start), TypeError)
    if start.ndim:
        reject("start", "a single integer", describe(start))


def check_dtype(dtype: Any, name: str = "dtype") -> None:
    """Parameters and carries are floating-point."""
    try:
        floating = dtype is not None and jnp.issubdtype(dtype, jnp.floating)  # None would mean float64 to NumPy
    except TypeError:
        floating = False
    if not floating:
        reject(name, "a floating-point dtype", repr(dtype), TypeError)


def check_init(key: Any, input_size: object, dtype: Any) -> None:
    """The arguments that every `init` has."""
    check_key(key)
    check_size("input_size", input_size)
    check_dtype(dtype)


def float_array(name: str, value: Any, min_ndim: int, axes: str) -> jax.Array:
    """`value` as a floating-point array of at least `min_ndim` axes, which `axes` names for the message."""
    array = _array(name, value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        reject(name, "a floating-point array", describe(array), TypeError)
    if array.ndim < min_ndim:
        reject(name, f"an array {axes}", describe(array))
    return array


def bool_array(name: str, value: Any, shape: tuple[int, ...]) -> jax.Array:
    """`value` as a bool array of exactly this shape; ints are refused, since 0/1 and lengths are easily mixed up."""
    array = _array(name, value)
    if array.dtype != jnp.bool_:
        reject(name, f"a bool array of shape {shape}", describe(array), TypeError)
    if array.shape != shape:
        reject(name, f"shape {shape}", array.shape)
    return array


def length_array(lengths: Any, batch_shape: tuple[int, ...], steps: int) -> jax.Array:
    """`lengths` as integers of the batch's shape, within 0..steps: an error outside jit, clamped inside."""
    array = _array("lengths", lengths)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        reject("lengths", f"an integer array of shape {batch_shape}", describe(array), TypeError)
    if array.shape != batch_shape:
        reject("lengths", f"shape {batch_shape}", array.shape)
    if not isinstance(array, Tracer):
        values = np.asarray(array)
        if values.size and (values.min() < 0 or values.max() > steps):
            reject("lengths", f"values in 0..{steps} (the number of steps in xs)", f"{values.min()}..{values.max()}")
    return array


def like_template(name: str, value: Any, template: Any, why: str) -> Any:
    """`value` as arrays, once its type, structure, shapes and dtypes are found to fit those of `template`."""
    if type(value) is not type(template):
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


def check_cell(cell: object, kind: type, name: str = "cell") -> None:
    """A cell is an instance (not a class) of a subclass of Cell, and hashable."""
    if not isinstance(cell, kind):
        hint = " (an instance, not the class)" if isinstance(cell, type) else ""
        reject(name, f"a Cell such as LSTMCell(128){hint}", describe(cell), TypeError)
    try:
        hash(cell)
    except TypeError as error:
        reject(name, "static, hashable options (a frozen dataclass without arrays)", error, TypeError)


def check_tuple(name: str, value: object, length: int, what: str) -> None:
    """Params and carries of several layers are tuples."""
    if type(value) is not tuple:
        reject(name, f"a tuple of {length} ({what})", describe(value), TypeError)
    if len(value) != length:
        reject(name, f"a tuple of {length} ({what})", f"a tuple of {len(value)}")


def check_options(*, key: Any, start: Any, unroll: object, remat: object, project_first: object) -> None:
    """The options that unroll and every layer share."""
    if key is not None:
        check_key(key)
    check_start(start)
    check_size("unroll", unroll)
    check_remat(remat)
    check_project_first(project_first)


def check_merge(merge: object, names: tuple[str, ...]) -> None:
    """One of the names, or a function."""
    if not callable(merge) and merge not in names:
        reject("merge", f"one of {', '.join(map(repr, names))} or a function of two arrays", describe(merge))


def _array(name: str, value: Any) -> jax.Array:
    if not isinstance(value, (jax.Array, np.ndarray, np.generic, numbers.Number)):
        reject(name, "an array", describe(value), TypeError)
    return jnp.asarray(value)


def _shape_of(leaf: Any) -> str:
    return describe(leaf).partition(" (")[0]
