"""A run shared by several processes: each provides its part of every batch.

The sequences of a batch are on its last axis. A batch that the devices do not divide is padded with zeros at its end,
so a loss must only use the first `batch_size` sequences.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxlstm.tasks._data import filled
from jaxlstm.tasks._task import Problem, Recipe
from jaxlstm.training import TrainState


def layout(problem: Problem) -> dict[str, Any]:
    """The options of `make_train_step` for several processes; none for a single one."""
    if jax.process_count() == 1:
        return {}
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    batch_axis = 1 if problem.initial_carry is None else 2  # [S, B], or [S, T, B]
    mesh = jax.sharding.Mesh(np.array(devices), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return {"mesh": mesh, "batch_axis": batch_axis}


def local(tree: Any) -> Any:
    """Replicated arrays as arrays of this process alone, which it can compute with on its own."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree) if jax.process_count() > 1 else tree


def shared_state(state: TrainState) -> TrainState:
    """The state with its carry padded to the size of the padded batches."""
    if jax.process_count() == 1:
        return state
    return state._replace(carry=jax.tree.map(lambda leaf: _filled_up(leaf, 1), state.carry))


def own_batches(recipe: Recipe, problem: Problem) -> Iterator[Any]:
    """The batches of all seeds, stacked; with several processes, this process's part of them."""
    for batches in zip(*(problem.batches(seed) for seed in recipe.every_seed), strict=True):
        yield jax.tree.map(lambda *leaves: np.stack(leaves), *(_own_part(batch, recipe) for batch in batches))


def _own_part(batch: Any, recipe: Recipe) -> Any:
    if jax.process_count() == 1:
        return batch
    if batch is None:  # the loss draws the sequences; this tells each device which of them are its own
        batch = np.ones(recipe.batch_size, bool)

    def part(leaf: np.ndarray) -> np.ndarray:
        return np.split(_filled_up(leaf, leaf.ndim - 1), jax.process_count(), axis=-1)[jax.process_index()]

    return jax.tree.map(part, batch)


def _filled_up(leaf: Any, axis: int) -> Any:
    """Pad an axis to a multiple of the number of devices."""
    return filled(leaf, axis, leaf.shape[axis] + -leaf.shape[axis] % jax.device_count())
