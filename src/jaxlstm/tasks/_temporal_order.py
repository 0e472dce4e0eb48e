"""Temporal order (Hochreiter & Schmidhuber 1997, section 5.6): classify the order of widely separated symbols.

A sequence starts with E and ends with B. In between are random symbols from a, b, c, d, and X or Y at two steps (task
6a) or three steps (task 6b) that are far apart. The class is the order of the X and Y: XX, XY, YX or YY in task 6a, and
one of eight in task 6b. An answer counts as right if the probability of every class is within 0.3 of its target. The
paper stops training when the mean error is below 0.1 and the last 2000 sequences were right.

The paper's networks needed 31 390 sequences for 6a and 571 100 for 6b. They had no forget gate, truncated gradients and
sigmoid outputs with squared errors instead of a softmax, and were trained on one sequence at a time.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlstm.tasks import _pictures
from jaxlstm.tasks._generated import TEST_SEED, Sequences, generated, one_hot, share
from jaxlstm.tasks._task import LARGEST_LENGTH, Problem, Recipe, Task
from jaxlstm.tasks._types import Key
from jaxlstm.training import cross_entropy

TEST_SIZE = 2560
TOLERANCE = 0.3
ALPHABET = "abcdEBXY"
WINDOWS = {2: (10, 50), 3: (10, 33, 66)}  # where X or Y can start, in percent of the length

RECIPE = Recipe(
    task="temporal-order-6a",
    cell="all",
    hidden_size=32,
    steps=1000,
    batch_size=32,
    learning_rate=1e-2,
    evaluate_every=100,
    length=100,
)


@partial(jax.jit, static_argnames=("batch_size", "length", "relevant"))
def make_batch(key: Key, batch_size: int, length: int, *, relevant: int) -> Sequences:
    """Draw sequences of T to 11/10 T symbols and their classes.

        E ... X|Y ... X|Y ... B        class = sum_k 2^(n - 1 - k) [relevant symbol k is Y]      k = 0 .. n - 1

    For T = 100, as in the paper, the steps of the relevant symbols are drawn from 10..20 and 50..60 (n = 2), or from
    10..20, 33..43 and 66..76 (n = 3). Other lengths scale these ranges.

    Args:
      key: a PRNG key.
      batch_size: B.
      length: T, the smallest number of symbols, at least 10.
      relevant: n, the number of X and Y: 2 (task 6a) or 3 (task 6b).

    Returns:
      ``xs [T + T // 10, B, 8]``, one-hot in the order a, b, c, d, E, B, X, Y, zeros after the end of each sequence;
      ``targets [B]``, the classes; ``lengths [B]``.

    >>> from jaxlstm.tasks._temporal_order import make_batch
    >>> xs, targets, lengths = make_batch(jax.random.key(0), batch_size=4, length=100, relevant=2)
    >>> xs.shape, bool((targets < 4).all())
    ((110, 4, 8), True)
    """
    length_key, symbol_key, place_key, order_key = jax.random.split(key, 4)
    longest = length + length // 10
    lengths = jax.random.randint(length_key, (batch_size,), length, longest + 1, jnp.int32)
    symbols = jax.random.randint(symbol_key, (longest, batch_size), 0, 4, jnp.int32)
    begins = jnp.array([length * percent // 100 for percent in WINDOWS[relevant]], jnp.int32)[:, None]
    places = begins + jax.random.randint(place_key, (relevant, batch_size), 0, length // 10 + 1, jnp.int32)
    is_y = jax.random.randint(order_key, (relevant, batch_size), 0, 2, jnp.int32)

    steps, last = jnp.arange(longest, dtype=jnp.int32)[:, None], lengths[None] - 1
    for place, y in zip(places[:, None], is_y[:, None], strict=True):
        symbols = jnp.where(steps == place, ALPHABET.index("X") + y, symbols)
    symbols = jnp.where(steps == 0, ALPHABET.index("E"), symbols)
    symbols = jnp.where(steps == last, ALPHABET.index("B"), symbols)
    xs = jnp.where((steps <= last)[..., None], one_hot(symbols, len(ALPHABET)), jnp.float32(0))
    weights = 2 ** jnp.arange(relevant - 1, -1, -1, dtype=jnp.int32)[:, None]
    return Sequences(xs, jnp.sum(weights * is_y, axis=0, dtype=jnp.int32), lengths)


def problem(recipe: Recipe, *, relevant: int) -> Problem:
    """Fresh batches for training, and a fixed test set."""
    draw = partial(make_batch, length=recipe.length or 0, relevant=relevant)
    test = draw(jax.random.key(TEST_SEED), TEST_SIZE)
    names = [f"{number:0{relevant}b}".replace("0", "X").replace("1", "Y") for number in range(2**relevant)]
    return generated(
        recipe,
        draw,
        measure,
        test=test,
        outputs=2**relevant,
        last=True,
        score="right",
        figure="share of test sequences right",
        baseline=("guessing the class", 0.5**relevant),
        longest=recipe.length,
        picture=partial(_pictures.confusion_matrix, test.targets, ("class", names)),
    )


def measure(logits: Float[Array, "B C"], sequences: Sequences) -> tuple[Array, dict[str, Array]]:
    """The mean cross-entropy; the mean error of the probabilities, and the share of sequences right."""
    targets = sequences.targets
    errors = jnp.abs(jax.nn.softmax(logits) - one_hot(targets, logits.shape[-1]))
    right = share(jnp.max(errors, axis=-1) < TOLERANCE)
    return cross_entropy(logits, targets), {"error": jnp.mean(errors), "right": right}


ORDER_6A = Task(
    recipe=RECIPE,
    problem=partial(problem, relevant=2),
    help="classify the order of two symbols far apart among random ones",
    picture_name="confusion_matrix.png",
    limits={"length": (10, LARGEST_LENGTH)},
)
ORDER_6B = Task(
    recipe=replace(RECIPE, task="temporal-order-6b", steps=2000, evaluate_every=200),
    problem=partial(problem, relevant=3),
    help="classify the order of three symbols far apart among random ones",
    picture_name="confusion_matrix.png",
    limits={"length": (10, LARGEST_LENGTH)},
)
