"""MNIST-1D (Greydanus 2020; Greydanus & Kobak 2024): ten digits as noisy, shifted and scaled lines of 40 points.

4000 sequences for training and 1000 for testing. The package mnist1d generates them from a fixed seed, without
download.

Published: 0.91 with a bidirectional GRU, 0.94 with convolutions, 0.68 with a two-layer perceptron and 0.32 with
logistic regression. The recipe is that of the published GRU: 6 units in each direction, a linear layer that reads all
outputs of all steps, Adam at 0.01, batches of 100, 6000 steps. Here, in addition, gradients are clipped, the learning
rate decays and recurrent weights start orthogonal. One seed of the GRU reached 0.926.
"""

import random
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from jaxlstm import Bidirectional, Cell, Network, Stack
from jaxlstm.tasks import _pictures
from jaxlstm.tasks._data import accuracy, epochs
from jaxlstm.tasks._model import ModelParams, dropout, linear
from jaxlstm.tasks._task import Problem, Recipe, Task
from jaxlstm.tasks._types import Key
from jaxlstm.training import cross_entropy

DIGITS, STEPS = 10, 40
PUBLISHED = 0.91

RECIPE = Recipe(
    task="mnist1d",
    cell="all",
    hidden_size=6,
    steps=6000,
    batch_size=100,
    learning_rate=1e-2,
    evaluate_every=500,
)


class Lines(NamedTuple):
    """``xs [N, 40]``, standardised by the package, and ``labels [N]``."""

    xs: Float32[np.ndarray, "N 40"]
    labels: Int32[np.ndarray, "N"]


def load() -> tuple[Lines, Lines]:
    """The published training and test sets.

    Raises:
      ImportError: if the package mnist1d is missing.
    """
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        raise ImportError("the mnist1d task needs the package mnist1d: pip install 'jaxlstm[tasks]'") from error
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        data = make_dataset(get_dataset_args())  # this seeds Python's and NumPy's global generators
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
    train, test = (
        Lines(data[f"x{split}"].reshape(-1, STEPS).astype(np.float32), data[f"y{split}"].astype(np.int32))
        for split in ("", "_test")
    )
    return train, test


def problem(recipe: Recipe) -> Problem:
    """The lines, and a bidirectional network whose head reads the outputs of all steps."""
    train, test = (jax.tree.map(jnp.asarray, lines) for lines in load())

    def network(cell: Cell) -> Network:
        return Stack(*[Bidirectional(cell)] * recipe.layers, dropout=recipe.dropout)

    def model(network: Network, params: ModelParams, xs: Array, key: Key | None = None) -> Float[Array, "B 10"]:
        network_key, head_key = (None, None) if key is None else jax.random.split(key)
        _, ys = network.apply(params.network, xs.T[..., None], key=network_key)
        read = jnp.swapaxes(ys, 0, 1).reshape(len(xs), -1)  # [T, B, O] -> [B, T O]
        return linear(params.head, dropout(head_key, read, recipe.dropout))

    def loss(network: Network, params: ModelParams, batch: Int[Array, "B"], key: Key) -> tuple[Array, dict[str, Array]]:
        xs, labels = (array[batch] for array in train)
        logits, labels = model(network, params, xs, key)[: recipe.batch_size], labels[: recipe.batch_size]
        return cross_entropy(logits, labels), {"accuracy": accuracy(logits, labels)}

    return Problem(
        input_size=1,
        outputs=DIGITS,
        network=network,
        batches=partial(epochs, len(train.labels), recipe.batch_size),
        loss=loss,
        predict=lambda network, params: model(network, params, test.xs),
        score=lambda logits: accuracy(logits, test.labels),
        figure="test accuracy",
        baseline=("published, bidirectional GRU", PUBLISHED),
        picture=partial(_pictures.confusion_matrix, test.labels, ("digit", [str(digit) for digit in range(DIGITS)])),
        steps_read=STEPS,
    )


TASK = Task(
    recipe=RECIPE,
    problem=problem,
    help="MNIST-1D: classify ten digits as lines of 40 points; bidirectional",
    picture_name="confusion_matrix.png",
)
