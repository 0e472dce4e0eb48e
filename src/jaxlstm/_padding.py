"""Sequences of different lengths as one padded batch."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Int

from jaxlstm import _checks


def pad(sequences: Sequence[ArrayLike]) -> tuple[Array, Int[Array, "B"]]:
    """Pad sequences with zeros to the length of the longest, and stack them: ``(xs, lengths)``, as `unroll` takes them.

    This happens in NumPy, outside jit, so that sequences of new lengths compile nothing here. What is then computed
    with xs compiles once for each T.

    Args:
      sequences: one array ``[T_i, ...]`` for each sequence, of one dtype and, but for T_i, of one shape. T_i may be 0.

    Returns:
      ``(xs, lengths)``: ``xs [T, B, ...]``, time first, T being the largest T_i, and ``lengths [B]``, int32.

    Raises:
      ValueError, TypeError: if there are no sequences or they do not fit together; the message names the first one.

    >>> xs, lengths = jl.pad([jnp.ones((2, 3)), jnp.ones((5, 3))])
    >>> xs.shape, lengths
    ((5, 2, 3), Array([2, 5], dtype=int32))
    """
    if isinstance(sequences, (jax.Array, np.ndarray, str, bytes)) or not hasattr(sequences, "__len__"):
        _checks.reject("sequences", "a list of arrays [T_i, ...]", _checks.describe(sequences), TypeError)
    if not len(sequences):
        _checks.reject("sequences", "at least one sequence", "none")
    arrays = [_sequence(f"sequences[{index}]", one) for index, one in enumerate(sequences)]
    first = arrays[0]
    for index, array in enumerate(arrays):
        if array.shape[1:] != first.shape[1:] or array.dtype != first.dtype:
            wanted = f"{first.dtype} of shape [{', '.join(['T', *map(str, first.shape[1:])])}], as sequences[0]"
            _checks.reject(f"sequences[{index}]", wanted, _checks.describe(array))
    lengths = np.array([len(array) for array in arrays], np.int32)
    xs = np.zeros((lengths.max(), len(arrays), *first.shape[1:]), first.dtype)
    for index, array in enumerate(arrays):
        xs[: len(array), index] = array
    return jnp.asarray(xs), jnp.asarray(lengths)


def _sequence(name: str, value: ArrayLike) -> np.ndarray:
    if isinstance(value, Tracer):
        _checks.reject(name, "an array whose values are known (call pad outside jit)", _checks.describe(value))
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of unequal lengths
        _checks.reject(name, "an array [T, ...]", error)
    if array.dtype.kind in "OSUMm":
        _checks.reject(name, "an array of numbers", _checks.describe(value), TypeError)
    if not array.ndim:
        _checks.reject(name, "an array [T, ...]", _checks.describe(array))
    return array
