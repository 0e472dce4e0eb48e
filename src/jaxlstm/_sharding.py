"""What an array's type says of its sharding: the varying axes of `jax.shard_map`, and the explicit axes of a mesh."""

from collections.abc import Callable
from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as Spec
from jaxtyping import Array


def match_varying(carry: Any, *others: Any) -> Any:
    """The carry, all of it varying along every axis of `jax.shard_map` that some of it or of the others varies along.

    The carry of a scan must be of the type that the step returns; new zeros vary along no axis.
    """
    axes = frozenset().union(*map(_varying, jax.tree.leaves((carry, others))))

    def leaf(array: Array) -> Array:
        missing = axes - _varying(array)
        return _vary(array, tuple(missing)) if missing else array

    return jax.tree.map(leaf, carry)


def with_automatic_axes(run: Callable[..., Any], batch_rank: int, *, time: bool = True) -> Callable[..., Any]:
    """`run(params, xs, ...)` with the explicit axes of its arguments' mesh made automatic inside.

    So the compiler divides the work, however params and batch are divided. ``(carry, ys)`` that come out are divided
    along the batch as xs are.

    Args:
      run: a function of params, xs and more.
      batch_rank: the number of batch axes.
      time: whether xs and ys lead with time.
    """

    def divided(params: Any, xs: Array, *more: Any) -> Any:
        sharding = _explicit(params, xs, *more)
        if sharding is None:
            return run(params, xs, *more)
        batch = tuple(jax.typeof(xs).sharding.spec)[time : batch_rank + time]
        of_carry, of_ys = (NamedSharding(sharding.mesh, Spec(*lead, *batch)) for lead in ((), (None,) * time))
        explicit = tuple(
            name
            for name, kind in zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True)
            if kind == AxisType.Explicit
        )
        make_automatic: Any = jax.sharding.auto_axes
        return make_automatic(run, axes=explicit, out_sharding=(of_carry, of_ys))(params, xs, *more)

    return divided


def spans_devices(xs: Array) -> bool:
    """Whether xs may be divided among several devices, as far as can be known.

    Outside jit, their sharding says it. While JAX traces, the mesh in their type does, which is that of the arguments
    they come from, or the mesh of `jax.set_mesh`. Axes of a shard_map do not count: each device has only its part.
    """
    if not isinstance(xs, Tracer):
        return len(xs.sharding.device_set) > 1
    meshes = jax.typeof(xs).sharding.mesh, jax.sharding.get_abstract_mesh()
    return any(
        size > 1 and kind != AxisType.Manual
        for mesh in meshes
        for size, kind in zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    )


def _explicit(*tree: Any) -> Any:
    """The sharding of the first array on a mesh with explicit axes, or None."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(jax.typeof(leaf), "sharding", None)
        if sharding is not None and AxisType.Explicit in sharding.mesh.axis_types:
            return sharding
    return None


def _varying(array: Any) -> frozenset[str]:
    """The axes of a shard_map along which the array differs: ``vma`` up to jax 0.11, then ``manual_axis_type``.

    Under a name that is not known yet, nothing varies: then only users of shard_map see that it changed.
    """
    kind: Any = jax.typeof(array)
    return frozenset(getattr(getattr(kind, "manual_axis_type", kind), "varying", getattr(kind, "vma", ())))


def _vary(array: Array, axes: tuple[str, ...]) -> Array:
    """The same numbers, said to differ along these axes; jax 0.7 has another name for it."""
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(array, axes, to="varying")
    return jax.lax.pvary(array, axes)  # type: ignore[attr-defined]
