"""Batches that devices do not divide, or whose size varies, are filled up with zeros."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlstm import _checks
from jaxlstm.training._processes import gathered

Path = tuple[Any, ...]


class Filling:
    """Fills up this process's part of each batch to a size that its devices divide.

    Args:
      devices: along the data axis, of one process.
      batch_size: sequences that all parts together are filled up to; None: each to what the devices divide.
      mask: the name of the leaf that says what counts; None: nothing can be filled up.
    """

    def __init__(self, devices: int, batch_size: int | None, mask: str | None) -> None:
        self._devices, self._batch_size, self._mask = devices, batch_size, mask
        self._compared = jax.process_count() == 1

    def __call__(self, batch: Any, axes: list[int]) -> list[Any]:
        """The leaves, their sequences on these axes, filled up."""
        named, leaves = jax.tree_util.tree_leaves_with_path(batch), jax.tree.leaves(batch)
        own = _sequences(named, axes)
        size = self._size(own)
        problem = self._problem(named, own, size)
        if not self._compared:
            shapes = [
                [*leaf.shape[:axis], size, *leaf.shape[axis + 1 :]] for leaf, axis in zip(leaves, axes, strict=True)
            ]
            problem = _of_any_process(problem, str(shapes))
            self._compared = True
        if problem:
            raise ValueError(problem)
        return [filled(leaf, axis, size) for leaf, axis in zip(leaves, axes, strict=True)]

    def _size(self, own: int) -> int:
        part = own if self._batch_size is None else -(-self._batch_size // jax.process_count())
        return part + -part % self._devices

    def _problem(self, named: list[tuple[Path, Any]], own: int, size: int) -> str:
        """Why the batch cannot be filled up; nothing, if it can."""
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
        named_mask = "make_train_step's mask= to name what is zero for those that fill it up"
        return f"batch: expected {size} sequences, which the devices divide, or {named_mask}, got {own} and no mask="


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


def _sequences(named: list[tuple[Path, Any]], axes: list[int]) -> int:
    """How many there are, in every leaf as many."""
    sizes = [(path, leaf.shape[axis]) for (path, leaf), axis in zip(named, axes, strict=True)]
    (first, count), *others = sizes or [((), 0)]
    for path, size in others:
        if size != count:
            names = [f"batch{jax.tree_util.keystr(path)}" for path in (path, first)]
            _checks.reject(names[0], f"{count} sequences, as in {names[1]}", size)
    return count


def _of_any_process(problem: str, shapes: str) -> str:
    """The first process's problem, of those that have one; or that their batches differ in shape."""
    everyone = [said.decode().split("\n") for said in gathered(f"{problem}\n{shapes}".encode())]
    differ = [theirs for _, theirs in everyone if theirs != everyone[0][1]]
    expected = "the same shapes in every process (smaller parts are filled up to a batch_size)"
    return next(
        (found for found, _ in everyone if found),
        f"batch: expected {expected}, got {everyone[0][1]} and {differ[0]}" if differ else "",
    )


def filled(array: Any, axis: int, size: int) -> Any:
    """The array with zeros at the end of an axis, up to this size; one of JAX stays one, one of NumPy too."""
    missing = size - array.shape[axis]
    if not missing:
        return array
    pad = jnp.pad if isinstance(array, jax.Array) else np.pad
    return pad(array, [(0, missing if index == axis else 0) for index in range(array.ndim)])
