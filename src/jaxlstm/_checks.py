"""Preconditions, and the messages that a user reads when one fails.

Every message has one form: ``argument: expected this, got that``. Most checks look at shapes and dtypes, which are
static, so they cost nothing under jit. The few that need values run only where the values are known.
"""

import contextlib
import numbers
import os
from collections.abc import Hashable, Iterator
from typing import Any, NoReturn

import jax
import jax.export
import jax.numpy as jnp
import numpy as np


def reject(name: str, expected: object, got: object, error: type[Exception] = ValueError) -> NoReturn:
    """Raise `error` in the one form that all messages have."""
    raise error(f"{name}: expected {expected}, got {got}")


IN_LAYER = "In layer {} of 0 to {}, bottom first: {!r}"


@contextlib.contextmanager
def noting(where: str, *values: object) -> Iterator[None]:
    """Add to an error a note that says where in a network it arose: a format string, or "" for no note."""
    try:
        yield
    except Exception as error:
        if where:
            error.add_note(where.format(*values))
        raise


def describe(value: object) -> str:
    """What came, in a few words: dtype and shape of an array, else the value and its type."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"  # type: ignore[attr-defined]
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def check_size(name: str, value: Any) -> int:
    """A positive int, as Python's own."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        reject(name, "a positive int", describe(value), TypeError)
    if int(value) < 1:
        reject(name, "a positive int", value)
    return int(value)


def check_sizes(name: str, value: Any, axes: tuple[int, ...]) -> tuple[int, ...]:
    """A tuple of positive ints, as many as one of `axes`."""
    expected = f"a tuple of {' or '.join(map(str, axes))} positive ints"
    if not isinstance(value, (tuple, list)):
        reject(name, expected, describe(value), TypeError)
    if len(value) not in axes:
        reject(name, expected, value)
    return tuple(check_size(f"{name}[{index}]", size) for index, size in enumerate(value))


def check_batch_shape(batch_shape: Any) -> None:
    """A tuple of sizes, which may be symbolic."""
    expected = "a tuple of sizes, such as (32,) or ()"
    if not isinstance(batch_shape, (tuple, list)):
        reject("batch_shape", expected, describe(batch_shape), TypeError)
    for size in batch_shape:
        if isinstance(size, bool) or not (isinstance(size, numbers.Integral) or jax.export.is_symbolic_dim(size)):
            reject("batch_shape", expected, describe(batch_shape), TypeError)
        if isinstance(size, numbers.Integral) and size < 0:
            reject("batch_shape", expected, batch_shape)


def check_number(name: str, value: Any) -> float:
    """A static option that is a finite real number, as Python's float: NumPy's would widen the arrays it meets."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        reject(name, "a number", describe(value), TypeError)
    if not np.isfinite(float(value)):
        reject(name, "a finite number", value)
    return float(value)


def check_flag(name: str, value: object) -> None:
    """A static option that is True or False."""
    if not isinstance(value, bool):
        reject(name, "True or False", describe(value), TypeError)


def check_bias(bias: object, forget_bias: float, b_init: object) -> None:
    """The options of an LSTM's bias: `b_init` replaces `forget_bias`, and without a bias there is neither."""
    check_flag("bias", bias)
    if b_init is not None:
        check_function("b_init", b_init)
        if not bias:
            reject("b_init", "None where bias=False", b_init)
    if forget_bias != 1.0 and (b_init is not None or not bias):
        reject("forget_bias", "its default where b_init is given or bias=False", forget_bias)


def check_heads(num_heads: int, hidden_size: int) -> None:
    """The units are divided evenly among the heads."""
    if hidden_size % num_heads:
        reject("num_heads", f"a divisor of hidden_size={hidden_size}", num_heads)


def check_unused_b_init(cell: Any) -> None:
    """Without biases, `b_init` is left at its default."""
    if not cell.bias and cell.b_init is not type(cell).b_init:
        reject("b_init", "its default where bias=False", cell.b_init)


def check_callable(name: str, value: object) -> None:
    """A function, or anything else that can be called."""
    if not callable(value):
        reject(name, "a function", describe(value), TypeError)


def check_path(name: str, value: object) -> None:
    """The path of a file or a folder; an int would be an open file's descriptor."""
    if not isinstance(value, (str, os.PathLike)):
        reject(name, "a path (a str or a pathlib.Path)", describe(value), TypeError)


def check_function(name: str, value: object) -> None:
    """A static option that is a function; it must be hashable, since a cell can be a static argument of jit."""
    check_callable(name, value)
    if not isinstance(value, Hashable):
        reject(name, "a hashable function", describe(value), TypeError)


def check_rate(name: str, value: Any) -> float:
    """A probability of dropping, 0 <= rate < 1, as Python's float."""
    rate = check_number(name, value)
    if not 0 <= rate < 1:
        reject(name, "a rate in [0, 1)", value)
    return rate


def check_project_first(value: object) -> None:
    """`project_first` is None, True or False."""
    if value is not None and not isinstance(value, bool):
        reject("project_first", "None, True or False", describe(value), TypeError)


def check_remat(value: object) -> None:
    """`remat` is None or False, True, "sqrt" or a chunk length."""
    if value is None or isinstance(value, bool) or (isinstance(value, str) and value == "sqrt"):
        return
    if not isinstance(value, numbers.Integral):
        reject("remat", "None, True, False, 'sqrt' or a chunk length (a positive int)", describe(value), TypeError)
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
    if not typed and key.shape != jax.eval_shape(jax.random.PRNGKey, 0).shape:
        reject(name, "a PRNG key (jax.random.key(seed))", describe(key))


def check_dtype(dtype: Any, name: str = "dtype") -> None:
    """Params and carries are floating-point numbers of at least 16 bits."""
    try:
        floating = dtype is not None and is_float(jnp.dtype(dtype))  # None would mean float64 to NumPy
    except TypeError:
        floating = False
    if not floating:
        reject(name, "a floating-point dtype of at least 16 bits", repr(dtype), TypeError)


def is_float(dtype: Any) -> bool:
    """Whether this is a floating-point dtype that arithmetic is done in: not of 8 bits or fewer."""
    return jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize > 1


def check_init(key: Any, input_size: Any, dtype: Any) -> None:
    """The arguments of every `init`."""
    check_key(key)
    check_size("input_size", input_size)
    check_dtype(dtype)


def check_cell(cell: object, kind: type, name: str = "cell") -> None:
    """A cell is an instance (not a class) of a subclass of Cell, and hashable."""
    if not isinstance(cell, kind):
        hint = " (an instance, not the class)" if isinstance(cell, type) else ""
        reject(name, f"a Cell such as LSTMCell(128){hint}", describe(cell), TypeError)
    try:
        hash(cell)
    except TypeError as error:
        reject(name, "static, hashable options (a frozen dataclass without arrays)", error, TypeError)


def check_spatial_shape(name: str, network: Any, wanted: tuple[int, ...]) -> None:
    """Cells of one network read inputs of the same spatial shape."""
    if network.spatial_shape != wanted:
        reject(name, f"spatial_shape={wanted}, as the other cells", network.spatial_shape)


def check_tuple(name: str, value: Any, length: int, what: str, also: type = tuple) -> None:
    """Params and carries of several layers are tuples, or of the type `also`."""
    if type(value) not in (tuple, also):
        reject(name, f"a tuple of {length} ({what})", describe(value), TypeError)
    if len(value) != length:
        reject(name, f"a tuple of {length} ({what})", f"a tuple of {len(value)}")


EVALUATORS = ("loop", "associative", "chunkwise", "newton")


def check_options(*, key: Any, unroll: object, remat: object, project_first: object, evaluator: object = None) -> None:
    """The options that unroll and every network share."""
    if key is not None:
        check_key(key)
    if unroll is not None:
        check_size("unroll", unroll)
    check_remat(remat)
    check_project_first(project_first)
    if evaluator is not None and not (isinstance(evaluator, str) and evaluator in EVALUATORS):
        reject("evaluator", f"None or one of {', '.join(map(repr, EVALUATORS))}", describe(evaluator))


def check_merge(merge: object, names: tuple[str, ...]) -> None:
    """One of the names, or a function."""
    if callable(merge):
        check_function("merge", merge)
    elif not (isinstance(merge, str) and merge in names):
        reject("merge", f"one of {', '.join(map(repr, names))} or a function of two arrays", describe(merge))
