"""Padding of batches with zero sequences, to a size that the devices divide."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import _checks
from jaxlstm.training._processes import gathered

Path = tuple[Any, ...]


class Padding:
    """Pads this process's part of each batch.

    Args:
      devices: the number of devices of one process along the data axis.
      batch_size: the number of sequences to pad to, over all processes; None: the next multiple of the devices.
      mask: the name of the leaf that says what counts; None refuses batches that need padding.
    """

    def __init__(self, devices: int, batch_size: int | None, mask: str | None) -> None:
        self._devices, self._batch_size, self._mask = devices, batch_size, mask
        self._compared = jax.process_count() == 1

    def __call__(self, batch: Any, axes: list[int]) -> list[Any]:
        """The leaves, padded along these axes."""
        named, leaves = jax.tree_util.tree_leaves_with_path(batch), jax.tree.leaves(batch)
        own = _sequences(named, axes)
        size = self._size(own)
        problem = self._problem(named, own, size)
        if not self._compared:
            pairs = zip(leaves, axes, strict=True)
            shapes = [[*leaf.shape[:axis], size, *leaf.shape[axis + 1 :]] for leaf, axis in pairs]
            problem = _first_problem(problem, str(shapes))
            self._compared = True
        if problem:
            raise ValueError(problem)
        return [pad(leaf, axis, size) for leaf, axis in zip(leaves, axes, strict=True)]

    def _size(self, own: int) -> int:
        part = own if self._batch_size is None else -(-self._batch_size // jax.process_count())
        return part + -part % self._devices

    def _problem(self, named: list[tuple[Path, Any]], own: int, size: int) -> str:
        """Why the batch cannot be padded; empty if it can."""
        if self._mask is not None:
            leaves = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in named}
            if self._mask not in leaves:
                return f"mask: expected the name of a leaf of the batch, one of {sorted(leaves)}, got {self._mask!r}"
            leaf = leaves[self._mask]
            if leaf.dtype.kind not in "biu":
                return f"mask: expected {self._mask!r} to be bool, or integer lengths, got {_checks.describe(leaf)}"
        if own > size:
            return f"batch: expected at most {size} sequences of each process (batch_size), got {own}"
        if own == size or self._mask is not None:
            return ""
        return (
            f"batch: expected {size} sequences, a multiple of the devices, or make_train_step(mask=...), which allows "
            f"padding, got {own} and no mask"
        )


def batch_axes(batch_axis: Any, batch: Any) -> list[int]:
    """The axis of the sequences in each leaf, from a tree that may be a prefix of the batch."""

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


def _sequences(named: list[tuple[Path, Any]], axes: list[int]) -> int:
    """The number of sequences, the same in all leaves."""
    sizes = [(path, leaf.shape[axis]) for (path, leaf), axis in zip(named, axes, strict=True)]
    (first, count), *others = sizes or [((), 0)]
    for path, size in others:
        if size != count:
            names = [f"batch{jax.tree_util.keystr(path)}" for path in (path, first)]
            _checks.reject(names[0], f"{count} sequences, as in {names[1]}", size)
    return count


def _first_problem(problem: str, shapes: str) -> str:
    """The problem of the first process that has one; else a difference between the shapes of their batches."""
    everyone = [said.decode().split("\n") for said in gathered(f"{problem}\n{shapes}".encode())]
    differ = [theirs for _, theirs in everyone if theirs != everyone[0][1]]
    expected = "the same shapes in every process (batch_size= pads smaller parts)"
    return next(
        (found for found, _ in everyone if found),
        f"batch: expected {expected}, got {everyone[0][1]} and {differ[0]}" if differ else "",
    )


def pad(array: Any, axis: int, size: int) -> Any:
    """Pad an axis with zeros to this size. NumPy's arrays stay NumPy's."""
    missing = size - array.shape[axis]
    if not missing:
        return array
    library = jnp if isinstance(array, jax.Array) else np
    return library.pad(array, [(0, missing if index == axis else 0) for index in range(array.ndim)])
