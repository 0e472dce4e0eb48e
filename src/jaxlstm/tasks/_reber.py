"""The embedded Reber grammar (Hochreiter & Schmidhuber 1997, section 5.1): predict each next symbol of a string.

Where two symbols can follow both are to be predicted, so a string is right if at each of its steps the symbols that can
follow have the largest outputs. The last but one symbol repeats the second: that takes memory.

The paper's networks (three blocks of two cells, rate 0.5) needed 8 440 strings until all of 256 strings to train on and
256 to test were right; Elman's never got there. They had no forget gate, gradients cut short, sigmoid outputs in place
of a softmax, and took strings one at a time, from a fixed set; here each is drawn afresh.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxlstm.tasks import _pictures
from jaxlstm.tasks._generated import TEST_SEED, Sequences, generated, one_hot, share
from jaxlstm.tasks._grammar import ALPHABET, walk
from jaxlstm.tasks._task import Problem, Recipe, Task
from jaxlstm.tasks._types import Key
from jaxlstm.training import cross_entropy

TEST_SIZE = 512

RECIPE = Recipe(
    task="reber",
    cell="all",
    hidden_size=32,
    layers=1,
    dropout=0.0,
    steps=1000,
    batch_size=8,
    learning_rate=1e-2,
    seed=0,
    seeds=1,
    evaluate_every=100,
    length=50,
)


class Following(NamedTuple):
    """What comes after each step: the symbol ``[T, B]``, and all that the grammar allows ``[T, B, 7]``."""

    symbols: Int[Array, "T B"]
    legal: Bool[Array, "T B 7"]


@partial(jax.jit, static_argnames=("batch_size", "length"))
def make_batch(key: Key, batch_size: int, length: int) -> Sequences:
    """Draw embedded Reber strings s, each symbol to be predicted from those before it.

    Arcs that lead to a string of more than `length` symbols are not taken (of 20 000 strings the longest has 40).

    Args:
      key: a PRNG key.
      batch_size: B.
      length: the most symbols of a string, at least 9.

    Returns:
      With T = length - 1, ``xs [T, B, 7]``, s_0 to s_{n-2} one-hot in the order of B, T, P, S, X, V, E, and 0 after
      them; ``targets``, s_1 to s_{n-1} and what else could have come there; ``lengths [B]``, n - 1 for n symbols.

    >>> from jaxlstm.tasks._reber import make_batch
    >>> xs, targets, lengths = make_batch(jax.random.key(0), batch_size=4, length=50)
    >>> xs.shape, targets.symbols.shape, targets.legal.shape
    ((49, 4, 7), (49, 4), (49, 4, 7))
    """
    symbols, legal, ended = walk(key, batch_size, length, within=True)
    lengths = jnp.argmax(ended, axis=0).astype(jnp.int32)  # the place of the first string's E
    shown = jnp.arange(length - 1, dtype=jnp.int32)[:, None] < lengths[None]
    xs = jnp.where(shown[..., None], one_hot(symbols[:-1], len(ALPHABET)), jnp.float32(0))
    return Sequences(xs, Following(symbols[1:], legal[1:]), lengths)


def problem(recipe: Recipe) -> Problem:
    """Fresh batches for training, and a fixed test set."""
    draw = partial(make_batch, length=recipe.length or 0)
    test = draw(jax.random.key(TEST_SEED), TEST_SIZE)
    truth = np.asarray(one_hot(test.targets.symbols[test.mask[:, 0], 0], len(ALPHABET))) == 1
    return generated(
        recipe,
        draw,
        measure,
        test=test,
        outputs=len(ALPHABET),
        last=False,
        score="right",
        figure="share of test strings right",
        picture=partial(_pictures.probabilities, truth, 0, jax.nn.softmax, ALPHABET),
    )


def measure(logits: Float[Array, "T B 7"], sequences: Sequences) -> tuple[Array, dict[str, Array]]:
    """The mean cross-entropy of all symbols, and the share of strings predicted throughout."""
    targets, mask = sequences.targets, sequences.mask
    right = jnp.all(predicted(logits, targets.legal) | ~mask, axis=0)
    return cross_entropy(logits, targets.symbols, mask), {"right": share(right)}


def predicted(logits: Float[Array, "T B C"], legal: Bool[Array, "T B C"]) -> Bool[Array, "T B"]:
    """Whether every symbol that can follow has a larger output than every one that cannot."""
    worst_legal = jnp.min(jnp.where(legal, logits, jnp.inf), axis=-1)
    best_illegal = jnp.max(jnp.where(legal, -jnp.inf, logits), axis=-1)
    return worst_legal > best_illegal


TASK = Task(
    recipe=RECIPE,
    problem=problem,
    help="strings of the embedded Reber grammar: predict what can follow",
    picture_name="probabilities.png",
)
