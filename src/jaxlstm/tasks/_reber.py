"""The embedded Reber grammar (Hochreiter & Schmidhuber 1997, section 5.1): predict each next symbol of a string.

Where the grammar allows two symbols, both have to be predicted. A string counts as right if, at every step, the allowed
symbols have the largest outputs. The last symbol but one repeats the second, which takes memory.

The paper has 256 strings for training and 256 for testing, and counts the training strings until all of them are right:
8 440 for its networks (three blocks of two cells, rate 0.5). Elman's network never got there. The paper's networks had
no forget gate, truncated gradients and sigmoid outputs instead of a softmax, and were trained on one string at a time.
Here every string is drawn afresh.
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
from jaxlstm.tasks._task import LARGEST_LENGTH, Problem, Recipe, Task
from jaxlstm.tasks._types import Key
from jaxlstm.training import cross_entropy

TEST_SIZE = 512

RECIPE = Recipe(
    task="reber",
    cell="all",
    hidden_size=32,
    steps=1000,
    batch_size=8,
    learning_rate=1e-2,
    evaluate_every=100,
    length=50,
)


class Following(NamedTuple):
    """The next symbol, and all symbols that the grammar allows there."""

    symbols: Int[Array, "T B"]
    legal: Bool[Array, "T B 7"]


@partial(jax.jit, static_argnames=("batch_size", "length"))
def make_batch(key: Key, batch_size: int, length: int) -> Sequences:
    """Draw embedded Reber strings and the next symbols to predict.

    Transitions that would make a string longer than `length` are not taken. (The longest of 20 000 strings has 40.)

    Args:
      key: a PRNG key.
      batch_size: B.
      length: the largest number of symbols in a string, at least 9.

    Returns:
      For strings s_0, ..., s_{n-1} and T = length - 1: ``xs [T, B, 7]``, s_0 to s_{n-2} one-hot in the order B, T, P,
      S, X, V, E, then zeros; ``targets``, s_1 to s_{n-1} and the symbols that the grammar allows there; ``lengths
      [B]``, n - 1.

    >>> from jaxlstm.tasks._reber import make_batch
    >>> xs, targets, lengths = make_batch(jax.random.key(0), batch_size=4, length=50)
    >>> xs.shape, targets.symbols.shape, targets.legal.shape
    ((49, 4, 7), (49, 4), (49, 4, 7))
    """
    symbols, legal, ended = walk(key, batch_size, length, within=True)
    lengths = jnp.argmax(ended, axis=0).astype(jnp.int32)  # where the first string's E is
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
    """The mean cross-entropy of all symbols, and the share of strings right."""
    targets, mask = sequences.targets, sequences.mask
    right = jnp.all(predicted(logits, targets.legal) | ~mask, axis=0)
    return cross_entropy(logits, targets.symbols, mask), {"right": share(right)}


def predicted(logits: Float[Array, "T B C"], legal: Bool[Array, "T B C"]) -> Bool[Array, "T B"]:
    """Whether every allowed symbol has a larger output than every other one."""
    worst_legal = jnp.min(jnp.where(legal, logits, jnp.inf), axis=-1)
    best_illegal = jnp.max(jnp.where(legal, -jnp.inf, logits), axis=-1)
    return worst_legal > best_illegal


TASK = Task(
    recipe=RECIPE,
    problem=problem,
    help="embedded Reber grammar: predict the next symbol",
    picture_name="probabilities.png",
    limits={"length": (9, LARGEST_LENGTH)},
)
