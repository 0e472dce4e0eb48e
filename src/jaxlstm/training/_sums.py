"""Checksums that show damage to what is stored: of arrays, computed on their devices, and of JSON."""

import json
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32


@jax.jit
def array_sums(array: Array) -> UInt32[Array, "2"]:
    """Two sums over the bits of an array, as words w_k of 32 bits, modulo 2^32 (after Fletcher 1982).

        sum_k w_k        sum_k (k + 1) w_k        k: the position of the word

    A change of one bit changes the first. An exchange of words usually changes the second. How the array is divided
    among devices and processes makes no difference: each sums its own part.

    >>> from jaxlstm.training._sums import array_sums
    >>> array_sums(jnp.array([5, 7], jnp.uint32))
    Array([12, 19], dtype=uint32)
    """
    words = _words(array)
    place = jnp.ones((), jnp.uint32)
    for axis, size in enumerate(words.shape):
        stride = jnp.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        others = (*range(axis), *range(axis + 1, words.ndim))
        place = place + jnp.expand_dims(jnp.arange(size, dtype=jnp.uint32) * stride, others)
    return jnp.stack([jnp.sum(words, dtype=jnp.uint32), jnp.sum(words * place, dtype=jnp.uint32)])


def record_sum(record: Any) -> int:
    """The CRC-32 of a value as JSON."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _words(array: Array) -> UInt32[Array, "..."]:
    """The bits of each number, in one word or two."""
    if jnp.iscomplexobj(array):
        array = jnp.stack([array.real, array.imag], axis=-1)
    if array.dtype == bool:
        return array.astype(jnp.uint32)
    width = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(array, width).astype(jnp.uint32)
