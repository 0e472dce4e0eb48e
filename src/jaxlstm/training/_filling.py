"""Batches that devices do not divide are filled up with zeros, in every process to the same size."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import _checks
from jaxlstm.training._processes import of_every_process


class Filling:
    """Fills up this process's part of each batch to a size that its devices divide.

    With several processes, the largest part of the first batch says that size for all of them and all batches, since
    agreeing on each would make every process wait.
    """

    def __init__(self, devices: int) -> None:
        self._devices = devices
        self._agreed: list[int] | None = None

    def __call__(self, leaves: list[Any], axes: list[int]) -> list[Any]:
        """The leaves, their sequences on these axes, filled up."""
        own = [leaf.shape[axis] for leaf, axis in zip(leaves, axes, strict=True)]
        known, sizes = [own], self._agreed
        if sizes is None:
            known = of_every_process(own)
            sizes = [self._up(max(parts)) for parts in zip(*known, strict=True)]
            self._agreed = sizes if jax.process_count() > 1 else None
        for got, size in zip(own, sizes, strict=True):
            if got > size:
                _checks.reject("batch", f"at most {size} sequences of a process, as in the first batch", got)
        uneven = [(got, size) for parts in known for got, size in zip(parts, sizes, strict=True) if got != size]
        if uneven and not any(leaf.dtype == bool for leaf in leaves):
            got, size = uneven[0]
            mask = "a bool mask in it (False for those that fill it up)"
            _checks.reject(
                "batch", f"{size} sequences, which the devices divide, or {mask}", f"{got} sequences and no mask"
            )
        return [_filled(leaf, axis, size) for leaf, axis, size in zip(leaves, axes, sizes, strict=True)]

    def _up(self, size: int) -> int:
        return size + -size % self._devices


def batch_axes(batch_axis: Any, batch: Any) -> list[int]:
    """The axis of the sequences in every leaf, from a tree that may end above the leaves."""

    def check(path: Any, leaf: Any, axis: int) -> int:
        if np.ndim(leaf) <= axis:
            name = f"batch{jax.tree_util.keystr(path)}"
            _checks.reject(name, f"an axis {axis} (batch_axis)", _checks.describe(leaf))
        return axis

    try:
        axes = jax.tree.map(lambda axis, part: jax.tree.map(lambda leaf: axis, part), batch_axis, batch)
    except ValueError as error:
        _checks.reject("batch_axis", "an int, or a tree of them like the batch", f"{batch_axis} ({error})")
    return jax.tree.leaves(jax.tree_util.tree_map_with_path(check, batch, axes))


def _filled(array: Any, axis: int, size: int) -> Any:
    missing = size - array.shape[axis]
    if not missing:
        return array
    pad = jnp.pad if isinstance(array, jax.Array) else np.pad
    return pad(array, [(0, missing if index == axis else 0) for index in range(array.ndim)])
