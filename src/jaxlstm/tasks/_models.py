"""All models of a run as one tree: a model for each cell, each leaf with an axis of seeds in front."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from optax import GradientTransformation

from jaxlstm import Network
from jaxlstm.tasks._model import ModelParams, init_model
from jaxlstm.tasks._task import CELLS, Problem, Recipe
from jaxlstm.tasks._types import Carry, Key
from jaxlstm.training import LossFn, TrainState, init_state

Models = dict[str, Any]  # by cell name; each leaf has an axis of seeds in front


def init(problem: Problem, network: Network) -> Callable[[Key], ModelParams]:
    """A function from a key to the initial params of one model."""
    return lambda key: init_model(network, key, problem.input_size, problem.outputs, problem.steps_read)


def initial_state(
    recipe: Recipe, problem: Problem, networks: dict[str, Network], optimizer: GradientTransformation
) -> TrainState:
    """One state for all models, each leaf with an axis of seeds.

    This loops over the seeds, because vmapped QR decompositions can deadlock XLA on a machine with few cores.
    """
    states = []
    for seed in recipe.every_seed:
        init_key, key = jax.random.split(jax.random.key(seed))
        keys = {cell: jax.random.fold_in(init_key, index) for index, cell in enumerate(CELLS)}
        params = {cell: init(problem, network)(keys[cell]) for cell, network in networks.items()}
        states.append(init_state(params, optimizer, key, carry=_initial_carry(problem, networks, params)))
    return stack(states)


def _initial_carry(problem: Problem, networks: dict[str, Network], params: Models) -> dict[str, Carry] | None:
    if problem.initial_carry is None:
        return None
    return {cell: problem.initial_carry(network, params[cell]) for cell, network in networks.items()}


def stack(trees: list[Any]) -> Any:
    """Stack the leaves of the trees along a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def loss(problem: Problem, networks: dict[str, Network]) -> LossFn:
    """The sum of the cells' losses on the same batch. Each cell's gradient is that of its own loss."""

    def total(losses: dict[str, Array], reported: dict[str, dict[str, Array]]) -> tuple[Array, dict[str, Array]]:
        metrics = {
            f"{cell}.{name}": number
            for cell, value in losses.items()
            for name, number in ({"loss": value} | reported[cell]).items()
        }
        return jnp.sum(jnp.stack(list(losses.values()))), metrics

    def fresh(params: Models, batch: Any, key: Key) -> tuple[Array, dict[str, Array]]:
        results = {cell: problem.loss(network, params[cell], batch, key) for cell, network in networks.items()}
        return total(*_unzip(results))

    def carried(params: Models, carry: dict[str, Carry], batch: Any, key: Key) -> tuple[Array, tuple[Any, Any]]:
        results = {
            cell: problem.loss(network, params[cell], carry[cell], batch, key) for cell, network in networks.items()
        }
        losses, others = _unzip(results)
        carry, reported = _unzip(others)
        value, metrics = total(losses, reported)
        return value, (carry, metrics)

    return fresh if problem.initial_carry is None else carried


def _unzip(pairs: dict[str, tuple[Any, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {name: first for name, (first, _) in pairs.items()}, {name: second for name, (_, second) in pairs.items()}


def predictor(problem: Problem, networks: dict[str, Network]) -> Callable[[Models], Models]:
    """A function from all models to their predictions. One jitted program, so that results repeat exactly."""
    predict = jax.jit(
        lambda models: [jax.vmap(partial(problem.predict, network))(models[cell]) for cell, network in networks.items()]
    )
    return lambda models: dict(zip(networks, predict(models), strict=True))


def scores(problem: Problem, predictions: Models) -> dict[str, np.ndarray]:
    """The test figure of each cell's models: ``[S]``."""
    score = jax.jit(problem.score)
    return {f"{cell}.test": np.stack([score(one) for one in value]) for cell, value in predictions.items()}
