"""Where a carry lies whose numbers are made here: with the sequences, where types say how these are divided.

That is so within `jax.shard_map`, and on a mesh with explicit axes. A scan must be given a carry of the type that it
returns, and zeros made without regard to xs have another.
"""

from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as Spec
from jaxtyping import Array

from jaxlstm._types import Carry, Params


def placed(carry: Carry, params: Params, xs: Array) -> Carry:
    """The carry, each leaf ``[*batch, ...]``, of the type that a step with params and ``xs [T, *batch, I]`` gives."""
    varying = frozenset().union(*map(_varying, jax.tree.leaves((params, xs))))
    sharding = jax.typeof(xs).sharding
    batch = tuple(sharding.spec)[1 : xs.ndim - 1]

    def leaf(array: Array) -> Array:
        if missing := varying - _varying(array):
            array = _vary(array, tuple(missing))
        if any(axes is not None for axes in batch):
            array = jax.sharding.reshard(
                array, NamedSharding(sharding.mesh, Spec(*batch, *[None] * (array.ndim - len(batch))))
            )
        return array

    return jax.tree.map(leaf, carry)


def _varying(array: Any) -> frozenset[str]:
    """The axes of a shard_map along which the array differs; jax 0.12 has another name for them."""
    kind: Any = jax.typeof(array)
    return frozenset(kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma)


def _vary(array: Array, axes: tuple[str, ...]) -> Array:
    """The same numbers, said to differ along these axes; jax 0.7 has another name for it."""
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(array, axes, to="varying")
    return jax.lax.pvary(array, axes)  # type: ignore[attr-defined]
