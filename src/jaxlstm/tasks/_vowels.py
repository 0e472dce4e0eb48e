"""JapaneseVowels (Kudo et al. 1999): which of nine men says /ae/? 12 LPC cepstrum channels, 7 to 29 steps.

270 sequences for training, 370 for testing. They come with this package, from the UCI Machine Learning Repository
(DOI 10.24432/C5NS47) under CC BY 4.0; see japanese_vowels.txt.

The recipe was chosen within the 270 training sequences. First with a third of them held out, three times: pooling over
time by mean, last or maximum; noise, masked steps, masked channels; weight decay. Then by sixfold cross-validation,
with 5 sequences of each speaker held out in turn: noise of 0, 0.3 or 0.6, dropout of 0.3 or 0.5, 64 or 128 units, 1 or
2 layers, learning rates from 0.003 to 0.01, 300 or 600 steps, label smoothing. The recipe below reached 0.996, the
others 0.967 to 0.989; pooling by the last output reached 0.959. ``--hold-out 5`` is the first of the six parts.

The test accuracies logged during training are not used to choose or stop anything.
"""

from functools import partial
from importlib import resources
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from jaxlstm import Bidirectional, Cell, Network, Stack, _checks
from jaxlstm.tasks import _pictures
from jaxlstm.tasks._data import accuracy, epochs
from jaxlstm.tasks._model import ModelParams, dropout, linear
from jaxlstm.tasks._task import Problem, Recipe, Task
from jaxlstm.tasks._types import Key
from jaxlstm.training import cross_entropy

SPEAKERS = 9
PUBLISHED = 0.9541  # MathWorks, "Sequence Classification Using Deep Learning"
NOISE = 0.3  # added in training, in standard deviations of the channels

RECIPE = Recipe(
    task="vowels",
    cell="lstm",
    hidden_size=64,
    dropout=0.3,
    steps=600,
    batch_size=27,
    learning_rate=3e-3,
    evaluate_every=25,
    hold_out=0,
)


class Sequences(NamedTuple):
    """Ragged sequences, padded with zeros at the end: ``xs [N, T, 12]``, ``lengths [N]``, ``labels [N]``."""

    xs: Float32[np.ndarray, "N T 12"]
    lengths: Int32[np.ndarray, "N"]
    labels: Int32[np.ndarray, "N"]


def load(split: str) -> Sequences:
    """JapaneseVowels: split "train" or "test", labels 0 to 8, padded to 29 steps."""
    if split not in ("train", "test"):
        _checks.reject("split", "'train' or 'test'", repr(split))
    with resources.files("jaxlstm.tasks").joinpath("japanese_vowels.npz").open("rb") as file:
        stored = np.load(file)
        steps, lengths, labels = (stored[f"{split}_{name}"] for name in ("steps", "lengths", "labels"))
    xs = np.zeros((len(lengths), 29, 12), np.float32)
    xs[np.arange(29) < lengths[:, None]] = steps
    return Sequences(xs, lengths.astype(np.int32), labels.astype(np.int32))


def problem(recipe: Recipe) -> Problem:
    """The sequences, standardised with the training set, and a bidirectional classifier."""
    train, test = _split(recipe.hold_out or 0)
    train, test = (jax.tree.map(jnp.asarray, s._replace(xs=_standardise(s, by=train))) for s in (train, test))

    def network(cell: Cell) -> Network:
        return Stack(*[Bidirectional(cell)] * recipe.layers, dropout=recipe.dropout)

    def model(
        network: Network, params: ModelParams, xs: Array, lengths: Array, key: Key | None = None
    ) -> Float[Array, "B 9"]:
        network_key, head_key = (None, None) if key is None else jax.random.split(key)
        _, ys = network.apply(params.network, jnp.swapaxes(xs, 0, 1), lengths=lengths, key=network_key)
        return linear(params.head, dropout(head_key, max_pool(ys, lengths), recipe.dropout))

    def loss(network: Network, params: ModelParams, batch: Int[Array, "B"], key: Key) -> tuple[Array, dict[str, Array]]:
        noise_key, model_key = jax.random.split(key)
        xs, lengths, labels = (array[batch] for array in train)
        xs = xs + NOISE * jax.random.normal(noise_key, xs.shape, xs.dtype)
        logits = model(network, params, xs, lengths, model_key)
        logits, labels = logits[: recipe.batch_size], labels[: recipe.batch_size]
        return cross_entropy(logits, labels), {"accuracy": accuracy(logits, labels)}

    return Problem(
        input_size=12,
        outputs=SPEAKERS,
        network=network,
        batches=partial(epochs, len(train.labels), recipe.batch_size),
        loss=loss,
        predict=lambda network, params: model(network, params, test.xs, test.lengths),
        score=lambda logits: accuracy(logits, test.labels),
        figure="accuracy on held-out training sequences" if recipe.hold_out else "test accuracy",
        baseline=None if recipe.hold_out else ("published, bidirectional LSTM", PUBLISHED),
        picture=partial(
            _pictures.confusion_matrix, test.labels, ("speaker", [str(speaker + 1) for speaker in range(SPEAKERS)])
        ),
    )


def max_pool(ys: Float[Array, "T *batch H"], lengths: Int[Array, "*batch"]) -> Float[Array, "*batch H"]:
    """The maximum of each unit over the steps of each sequence; 0 for a sequence of length 0.

    >>> from jaxlstm.tasks._vowels import max_pool
    >>> max_pool(jnp.array([[[-2.0]], [[-1.0]], [[0.0]]]), jnp.array([2]))
    Array([[-1.]], dtype=float32)
    """
    times = jnp.arange(ys.shape[0], dtype=lengths.dtype).reshape(-1, *(1 for _ in lengths.shape))
    pooled = jnp.max(jnp.where((times < lengths[None])[..., None], ys, -jnp.inf), axis=0)
    return jnp.where((lengths > 0)[..., None], pooled, 0)


def _split(hold_out: int) -> tuple[Sequences, Sequences]:
    """Training and test sequences: the published split, or a split of the training set."""
    train = load("train")
    if not hold_out:
        return train, load("test")
    order = np.random.default_rng(100)
    held = np.concatenate(
        [order.permutation(np.flatnonzero(train.labels == speaker))[:hold_out] for speaker in range(SPEAKERS)]
    )
    kept = np.setdiff1d(np.arange(len(train.labels)), held)
    return Sequences(*(array[kept] for array in train)), Sequences(*(array[held] for array in train))


def _standardise(sequences: Sequences, *, by: Sequences) -> Float32[np.ndarray, "N T 12"]:
    """Each channel with mean 0 and standard deviation 1 over the steps of `by`; padding stays 0."""
    steps = by.xs[_valid(by)]
    return np.where(_valid(sequences)[..., None], (sequences.xs - steps.mean(0)) / steps.std(0), np.float32(0))


def _valid(sequences: Sequences) -> np.ndarray:
    return np.arange(sequences.xs.shape[1]) < sequences.lengths[:, None]


TASK = Task(
    recipe=RECIPE,
    problem=problem,
    help="recognise nine speakers by a vowel (JapaneseVowels); bidirectional",
    picture_name="confusion_matrix.png",
    limits={"hold_out": (0, 29)},  # of 30 for each speaker
)
