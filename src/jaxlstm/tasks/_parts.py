"""A run that several processes share: each has its part of every batch, and the devices sum what comes of them.

The sequences of a batch lie on its last axis. It is filled up with zeros to what all devices divide, always at its end;
so a loss reads what counts as the first `batch_size` of its model's answers.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxlstm.tasks._data import filled
from jaxlstm.tasks._task import Problem, Recipe
from jaxlstm.training import TrainState


def layout(problem: Problem) -> dict[str, Any]:
    """The options of `make_train_step` by which several processes share a run; one process needs none."""
    if jax.process_count() == 1:
        return {}
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    batch_axis = 1 if problem.initial_carry is None else 2  # [S, B], or [S, T, B]
    mesh = jax.sharding.Mesh(np.array(devices), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return {"mesh": mesh, "batch_axis": batch_axis}


def local(tree: Any) -> Any:
    """Arrays that every process has whole, as arrays of this one alone: it may compute with them what others do not."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree) if jax.process_count() > 1 else tree


def shared_state(state: TrainState) -> TrainState:
    """The state, its carry as long as the batches are."""
    if jax.process_count() == 1:
        return state
    return state._replace(carry=jax.tree.map(lambda leaf: _filled_up(leaf, 1), state.carry))


def own_batches(recipe: Recipe, problem: Problem) -> Iterator[Any]:
    """Each seed's batch, stacked; of several processes, each has its part of it."""
    for batches in zip(*(problem.batches(seed) for seed in recipe.every_seed), strict=True):
        yield jax.tree.map(lambda *leaves: np.stack(leaves), *(_own_part(batch, recipe) for batch in batches))


def _own_part(batch: Any, recipe: Recipe) -> Any:
    if jax.process_count() == 1:
        return batch
    if batch is None:  # the loss draws the sequences, and devices keep those that they have of this
        batch = np.ones(recipe.batch_size, bool)

    def part(leaf: np.ndarray) -> np.ndarray:
        return np.split(_filled_up(leaf, leaf.ndim - 1), jax.process_count(), axis=-1)[jax.process_index()]

    return jax.tree.map(part, batch)


def _filled_up(leaf: Any, axis: int) -> Any:
    """To what all devices divide."""
    return filled(leaf, axis, leaf.shape[axis] + -leaf.shape[axis] % jax.device_count())
