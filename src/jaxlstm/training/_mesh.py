"""One training step on many devices: the layout of its state and batch on a mesh, as `NamedSharding`.

The program is that of one device, and XLA divides it. Sums over the batch, of gradients and losses, become sums over
the devices, once a step and outside the loops over time.
"""

import collections
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from jaxlstm import _checks
from jaxlstm._step import Params
from jaxlstm.training._padding import Padding, batch_axes
from jaxlstm.training._state import TrainState

DATA, MODEL = "data", "model"
Specs = Callable[[Params], Any]  # params -> a tree of PartitionSpecs like them


class MeshStep:
    """A training step on a mesh, with the `lower` of a jitted function."""

    def __init__(
        self,
        step: Callable[..., Any],
        mesh: Mesh,
        batch_axis: Any,
        param_specs: Specs | None,
        *,
        batch_size: int | None = None,
        mask: str | None = None,
        carry_axis: int = 0,
        compiler_options: dict[str, Any] | None = None,
    ) -> None:
        # Not explicit axes, which make shardings part of an array's type: some operations then need one as an argument.
        self._mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
        self._batch_axis, self._carry_axis, self._specs = batch_axis, carry_axis, param_specs or self._last_axis
        self._padding = Padding(self._mesh.shape[DATA] // jax.process_count(), batch_size, mask)

        @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options)
        def whole_step(state: TrainState, batch: Any) -> Any:
            after, metrics = step(state, batch)
            everywhere = jax.tree.map(lambda leaf: self._sharding(Spec()), metrics)
            return jax.lax.with_sharding_constraint((after, metrics), (self._layout(after), everywhere))

        self._step = whole_step

    def __call__(self, state: TrainState, batch: Any) -> Any:
        """Take a step. A state or a batch with another layout is moved first."""
        return self._step(*self._placed(state, batch))

    def lower(self, state: TrainState, batch: Any) -> Any:
        """Lower the step for this state and batch."""
        return self._step.lower(*self._placed(state, batch))

    def _placed(self, state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        if state.carry is not None:
            _refuse_uneven(state.carry, self._carry_axis, self._mesh.shape[DATA])
        return place(state, self._layout(state)), self._shard(batch)

    def _sharding(self, spec: Spec) -> NamedSharding:
        return NamedSharding(self._mesh, spec)

    def _along_data(self, axis: int) -> NamedSharding:
        return self._sharding(Spec(*(None,) * axis, DATA))

    def _layout(self, state: TrainState) -> TrainState:
        """Params by their specs, each leaf of the optimizer's state like its param, the carry by its batch axis."""
        specs = self._specs(state.params)
        paths = jax.tree_util.tree_leaves_with_path(state.params)
        leaves = jax.tree.leaves(specs, is_leaf=lambda node: isinstance(node, Spec))
        if len(leaves) != len(paths) or not all(isinstance(leaf, Spec) for leaf in leaves):
            _checks.reject("param_specs", "to return a PartitionSpec for each of the params", _checks.describe(specs))
        known = {path: (leaf.shape, spec) for (path, leaf), spec in zip(paths, leaves, strict=True)}
        for path, (shape, spec) in known.items():
            self._check_divides(f"params{jax.tree_util.keystr(path)}", shape, spec)

        def of_optimizer(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            ends = (known[path[start:]] for start in range(len(path) + 1) if path[start:] in known)
            shape, spec = next(ends, ((), Spec()))
            return self._sharding(spec if shape == leaf.shape else Spec())

        return TrainState(
            params=jax.tree.unflatten(jax.tree.structure(state.params), [self._sharding(spec) for spec in leaves]),
            opt_state=jax.tree_util.tree_map_with_path(of_optimizer, state.opt_state),
            step=self._sharding(Spec()),  # type: ignore[arg-type]
            key=self._sharding(Spec()),  # type: ignore[arg-type]
            carry=jax.tree.map(lambda leaf: self._along_data(self._carry_axis), state.carry),
        )

    def _last_axis(self, params: Params) -> Any:
        """The last axis, that of the packed gates, over the model axis if that divides it; else replicated."""
        devices = self._mesh.shape.get(MODEL, 1)

        def spec(leaf: Any) -> Spec:
            divides = devices > 1 and leaf.ndim and leaf.shape[-1] % devices == 0
            return Spec(*(None,) * (leaf.ndim - 1), MODEL) if divides else Spec()

        return jax.tree.map(spec, params)

    def _check_divides(self, name: str, shape: tuple[int, ...], spec: Spec) -> None:
        for size, axes in zip(shape, spec, strict=False):
            names = () if axes is None else (axes,) if isinstance(axes, str) else axes
            devices = int(np.prod([self._mesh.shape[axis] for axis in names], dtype=int))
            if size % devices:
                _checks.reject(name, f"sizes that the mesh divides ({axes!r}: {devices} devices)", f"shape {shape}")

    def _shard(self, batch: Any) -> Any:
        """The batch, padded, over the data axis."""
        axes = batch_axes(self._batch_axis, batch)

        def shard(array: Any, axis: int) -> jax.Array:
            sharding = self._along_data(axis)
            if jax.process_count() == 1:
                return jax.device_put(array, sharding)
            return jax.make_array_from_process_local_data(sharding, np.asarray(array))

        return jax.tree.unflatten(jax.tree.structure(batch), map(shard, self._padding(batch, axes), axes))


def check_mesh(mesh: Any, batch_axis: Any, param_specs: Any, batch_size: Any, mask: Any) -> None:
    """Raise an error unless this is a mesh with an axis "data", or None without an option that needs a mesh."""
    if mesh is None:
        for name, option in (("param_specs", param_specs), ("batch_size", batch_size), ("mask", mask)):
            if option is not None:
                _checks.reject("mesh", f"a jax.sharding.Mesh, since {name} is given", None)
        return
    if batch_size is not None:
        _checks.check_size("batch_size", batch_size)
    if mask is not None and not isinstance(mask, str):
        _checks.reject("mask", 'the name of a leaf of the batch, such as "mask"', _checks.describe(mask), TypeError)
    if not isinstance(mesh, Mesh):
        _checks.reject("mesh", "a jax.sharding.Mesh", _checks.describe(mesh), TypeError)
    if DATA not in mesh.axis_names:
        _checks.reject("mesh", f"an axis named {DATA!r}", mesh.axis_names)
    counts = collections.Counter(device.process_index for device in mesh.devices.flat)
    if len(counts) != jax.process_count() or len(set(counts.values())) != 1:
        got = ", ".join(f"{counts[process]} of process {process}" for process in range(jax.process_count()))
        _checks.reject("mesh", f"the same number of devices from each of the {jax.process_count()} processes", got)
    along = np.moveaxis(mesh.devices, mesh.axis_names.index(DATA), 0).reshape(mesh.shape[DATA], -1)
    if any(len({device.process_index for device in row}) > 1 for row in along):
        _checks.reject("mesh", f"each index of the {DATA!r} axis within one process", f"axes {mesh.axis_names}")
    for axis in jax.tree.leaves(batch_axis):
        if isinstance(axis, bool) or not isinstance(axis, int) or axis < 0:
            _checks.reject("batch_axis", "axes from 0 on", axis)
    if param_specs is not None:
        _checks.check_function("param_specs", param_specs)


def place(state: TrainState, layout: TrainState) -> TrainState:
    """The state in this layout. Leaves that have it already are not copied."""
    if jax.process_count() == 1:
        return jax.device_put(state, layout)

    def leaf(array: Any, sharding: NamedSharding) -> jax.Array:
        """Each process has the whole array, and takes its part of it."""
        if not array.is_fully_addressable:
            return array
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            data = jax.random.key_data(array)
            return jax.random.wrap_key_data(leaf(data, sharding), impl=jax.random.key_impl(array))
        whole = np.asarray(array)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(leaf, state, layout)


def _refuse_uneven(carry: Any, axis: int, devices: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
        if leaf.ndim <= axis or leaf.shape[axis] % devices:
            name = f"carry{jax.tree_util.keystr(path)}"
            wanted = f"an axis {axis}, of sequences, whose size {devices} devices divide"
            _checks.reject(name, wanted, f"shape {leaf.shape}")
