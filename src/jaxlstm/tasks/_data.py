"""Helpers for data: batches of indices, accuracy, checksums of files, padding."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32


def epochs(count: int, batch_size: int, seed: int) -> Iterator[Int32[np.ndarray, "B"]]:
    """Endless batches of indices. Each epoch is a new permutation; a batch may reach into the next epoch."""
    order, waiting = np.random.default_rng(seed), np.zeros(0, np.int32)
    while True:
        while len(waiting) < batch_size:
            waiting = np.concatenate([waiting, order.permutation(count).astype(np.int32)])
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def accuracy(logits: Float[Array, "B C"], labels: Int[Array, "B"]) -> Float[Array, ""]:
    """The share of sequences whose largest logit is at the label."""
    return jnp.mean(jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels, dtype=jnp.float32)


def files_sum(paths: Iterable[Path]) -> str:
    """A checksum of the files."""
    sums = hashlib.sha256()
    for path in paths:
        sums.update(hashlib.sha256(path.read_bytes()).digest())
    return sums.hexdigest()


def filled(array: Any, axis: int, size: int) -> Any:
    """Pad an axis with zeros at its end to this size. NumPy arrays stay NumPy arrays."""
    pad = jnp.pad if isinstance(array, jax.Array) else np.pad
    missing = size - array.shape[axis]
    return pad(array, [(0, missing if index == axis else 0) for index in range(array.ndim)])
