"""The continual embedded Reber grammar (Gers, Schmidhuber & Cummins 2000): a stream of strings without separators.

This is the task that the forget gate was invented for. The network predicts each next symbol of an endless stream.
Nothing marks the end of a string, so the network has to learn when to clear its memory. The paper counts the symbols
that a trained network predicts correctly before its first mistake, up to a million. Without a forget gate no network
got that far; with one many did.

Here a network is trained on independent streams of `length` symbols and tested on streams ten times as long. The paper
trained on streams that ended at the first mistake or after a million symbols.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlstm.tasks import _pictures
from jaxlstm.tasks._generated import TEST_SEED, Sequences, generated, one_hot, share
from jaxlstm.tasks._grammar import ALPHABET, walk
from jaxlstm.tasks._reber import Following, predicted
from jaxlstm.tasks._task import Problem, Recipe, Task
from jaxlstm.tasks._types import Key
from jaxlstm.training import cross_entropy

TEST_SIZE = 64
SHOWN = 60  # steps in the picture
LONGER = 10  # length of a test stream, in training streams

RECIPE = Recipe(
    task="continual-reber",
    cell="all",
    hidden_size=32,
    steps=1500,
    batch_size=16,
    learning_rate=1e-2,
    evaluate_every=150,
    length=100,
)


@partial(jax.jit, static_argnames=("batch_size", "length"))
def make_batch(key: Key, batch_size: int, length: int) -> Sequences:
    """Draw streams of embedded Reber strings and the next symbols to predict.

    Args:
      key: a PRNG key.
      batch_size: B.
      length: T, the symbols of a stream that the network reads; the last string may be cut off.

    Returns:
      ``xs [T, B, 7]``: s_0 to s_{T-1}, one-hot in the order B, T, P, S, X, V, E. ``targets``: s_1 to s_T, and the
      symbols that the grammar allows there.

    >>> from jaxlstm.tasks._continual_reber import make_batch
    >>> xs, targets, _ = make_batch(jax.random.key(0), batch_size=4, length=30)
    >>> xs.shape, targets.legal.shape
    ((30, 4, 7), (30, 4, 7))
    """
    symbols, legal, _ = walk(key, batch_size, length + 1, within=False)
    return Sequences(one_hot(symbols[:-1], len(ALPHABET)), Following(symbols[1:], legal[1:]))


def problem(recipe: Recipe) -> Problem:
    """Fresh streams for training, and fixed, longer ones for testing."""
    length = recipe.length or 0
    test = make_batch(jax.random.key(TEST_SEED), TEST_SIZE, LONGER * length)
    truth = np.asarray(one_hot(test.targets.symbols[:SHOWN, 0], len(ALPHABET))) == 1
    return generated(
        recipe,
        partial(make_batch, length=length),
        measure,
        test=test,
        outputs=len(ALPHABET),
        last=False,
        score="unbroken",
        figure="share of a long test stream before its first mistake",
        picture=partial(_pictures.probabilities, truth, 0, jax.nn.softmax, ALPHABET),
    )


def measure(logits: Float[Array, "T B 7"], sequences: Sequences) -> tuple[Array, dict[str, Array]]:
    """The mean cross-entropy; the share of streams without a mistake, and of steps before the first one."""
    targets = sequences.targets
    right = predicted(logits, targets.legal)
    unbroken = jnp.cumprod(right.astype(jnp.int32), axis=0, dtype=jnp.int32)
    metrics = {"right": share(unbroken[-1] == 1), "unbroken": share(unbroken == 1)}
    return cross_entropy(logits, targets.symbols), metrics


TASK = Task(
    recipe=RECIPE,
    problem=problem,
    help="continual embedded Reber grammar: predict the next symbol of strings without separators",
    picture_name="probabilities.png",
)
