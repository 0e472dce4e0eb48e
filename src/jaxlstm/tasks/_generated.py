"""Common to all generated tasks: fresh sequences for every training step, and a fixed test set."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxlstm import Cell, Network, Stack
from jaxlstm.tasks._data import filled
from jaxlstm.tasks._model import ModelParams, dropout, linear
from jaxlstm.tasks._task import Problem, Recipe
from jaxlstm.tasks._types import Key

TEST_SEED = 2_000_000_000  # training splits keys off its own seed, so it never draws the test set


class Sequences(NamedTuple):
    """``xs [T, B, I]``, the task's targets, and ``lengths [B]``, or None if all sequences have T steps."""

    xs: Float[Array, "T B I"]
    targets: Any
    lengths: Int[Array, "B"] | None = None

    @property
    def mask(self) -> Bool[Array, "T B"]:
        """True at the steps of each sequence, False after its end."""
        steps, size, _ = self.xs.shape
        if self.lengths is None:
            return jnp.ones((steps, size), jnp.bool_)
        return jnp.arange(steps, dtype=self.lengths.dtype)[:, None] < self.lengths[None]

    def filled(self, real: Bool[Array, "B"] | None) -> "Sequences":
        """Pad xs and lengths with sequences of zeros where `real` is False. They get the sharding of `real`."""
        if real is None:
            return self

        def fill(leaf: Array, axis: int) -> Array:
            leaf = filled(leaf, axis, len(real))
            others = (*range(axis), *range(axis + 1, leaf.ndim))
            return jnp.where(jnp.expand_dims(real, others), leaf, jnp.zeros_like(leaf))

        return self._replace(xs=fill(self.xs, 1), lengths=None if self.lengths is None else fill(self.lengths, 0))


def generated(
    recipe: Recipe,
    draw: Callable[[Key, int], Sequences],
    measure: Callable[[Array, Sequences], tuple[Array, dict[str, Array]]],
    *,
    test: Sequences,
    outputs: int,
    last: bool,
    score: str,
    figure: str,
    picture: Callable[[Path, Mapping[str, Any]], None],
    baseline: tuple[str, float] | None = None,
    longest: int | None = None,
) -> Problem:
    """The problem of a generated task.

    Args:
      recipe: the options of the run.
      draw: ``(key, count) -> Sequences`` for training.
      measure: ``(answers, sequences) -> (loss, metrics)``. The shape of answers is ``[T, B, outputs]``, or
        ``[B, outputs]`` if `last`, without the last axis if `outputs` is 1.
      test: the test sequences.
      outputs: features of the model's output.
      last: read only the output at the last step of each sequence.
      score: the test figure: "loss", or the name of a metric.
      figure: as in `Problem`.
      picture: as in `Problem`.
      baseline: as in `Problem`.
      longest: as in `Problem`.
    """

    def network(cell: Cell) -> Network:
        return Stack(*[cell] * recipe.layers, dropout=recipe.dropout)

    def model(network: Network, params: ModelParams, sequences: Sequences, key: Key | None = None) -> Array:
        network_key, head_key = (None, None) if key is None else jax.random.split(key)
        xs, _, lengths = sequences
        _, ys = network.apply(params.network, xs, lengths=lengths, key=network_key)
        read = output_at_last_step(ys, lengths) if last else ys
        answers = linear(params.head, dropout(head_key, read, recipe.dropout))
        return answers[..., 0] if outputs == 1 else answers

    def loss(
        network: Network, params: ModelParams, batch: Bool[Array, "B"] | None, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        batch_key, dropout_key = jax.random.split(key)
        sequences = draw(batch_key, recipe.batch_size)
        answers = model(network, params, sequences.filled(batch), dropout_key)
        return measure(answers[: recipe.batch_size] if last else answers[:, : recipe.batch_size], sequences)

    def test_figure(answers: Array) -> Array:
        value, metrics = measure(answers, test)
        return ({"loss": value} | metrics)[score]

    return Problem(
        input_size=test.xs.shape[-1],
        outputs=outputs,
        network=network,
        batches=lambda seed: itertools.repeat(None),
        loss=loss,
        predict=lambda network, params: model(network, params, test),
        score=test_figure,
        figure=figure,
        baseline=baseline,
        picture=picture,
        longest=longest,
    )


def output_at_last_step(
    ys: Float[Array, "T *batch H"], lengths: Int[Array, "*batch"] | None
) -> Float[Array, "*batch H"]:
    """The output at the last step of each sequence, whose length is at least 1.

    >>> from jaxlstm.tasks._generated import output_at_last_step
    >>> output_at_last_step(jnp.array([[[1.0]], [[2.0]], [[0.0]]]), jnp.array([2]))
    Array([[2.]], dtype=float32)
    """
    if lengths is None:
        return ys[-1]
    return jnp.take_along_axis(ys, (lengths - 1)[None, ..., None], axis=0)[0]


def one_hot(symbols: Int[Array, "..."], count: int) -> Float[Array, "... C"]:
    """One-hot vectors of size `count` in float32."""
    return jax.nn.one_hot(symbols, count, dtype=jnp.float32)


def share(right: Bool[Array, "..."]) -> Float[Array, ""]:
    """The share of True."""
    return jnp.mean(right, dtype=jnp.float32)
