"""What all generated tasks share: sequences drawn afresh for every step of training, and a fixed test set."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxlstm import Cell, Network, Stack
from jaxlstm.tasks._data import filled
from jaxlstm.tasks._model import ModelParams, dropout, linear, output_at_last_step
from jaxlstm.tasks._task import Problem, Recipe
from jaxlstm.tasks._types import Key

TEST_SEED = 2_000_000_000  # training draws from keys split off its seed's, never from that key itself


class Sequences(NamedTuple):
    """``xs [T, B, I]``, the task's own targets, and ``lengths [B]``, None where all have T steps."""

    xs: Float[Array, "T B I"]
    targets: Any
    lengths: Int[Array, "B"] | None = None

    @property
    def mask(self) -> Bool[Array, "T B"]:
        """True at the steps that each sequence has."""
        steps, size, _ = self.xs.shape
        if self.lengths is None:
            return jnp.ones((steps, size), jnp.bool_)
        return jnp.arange(steps, dtype=self.lengths.dtype)[:, None] < self.lengths[None]

    def filled(self, real: Bool[Array, "B"] | None) -> "Sequences":
        """With zeros behind them where `real` is False, and laid out over devices as it is; the targets stay."""
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
      recipe: sizes and rates.
      draw: ``(key, count) -> Sequences`` to train on.
      measure: ``(answers, sequences) -> (loss, metrics)``. Answers are ``[T, B, outputs]``, or ``[B, outputs]`` where
        only the last one counts, without the last axis where outputs is 1.
      test: the sequences to evaluate on.
      outputs: numbers in an answer.
      last: whether only each sequence's last output is read, or all.
      score: which number is the test figure: "loss", or the name of a metric.
      figure: the test figure in words.
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


def one_hot(symbols: Int[Array, "..."], count: int) -> Float[Array, "... C"]:
    """Each symbol as a vector of `count` numbers: 1 in its place, else 0."""
    return jax.nn.one_hot(symbols, count, dtype=jnp.float32)


def share(right: Bool[Array, "..."]) -> Float[Array, ""]:
    """How many of them are, as a share of all."""
    return jnp.mean(right, dtype=jnp.float32)
