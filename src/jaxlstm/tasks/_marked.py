"""Adding and multiplication over long time lags (Hochreiter & Schmidhuber 1997, sections 5.4 and 5.5).

Each step of a sequence is a pair of a real number and a marker. The marker is 1 at two steps, -1 at the first and the
last step, and 0 elsewhere. At the end the network outputs the sum of the two marked numbers, scaled to [0, 1], or their
product. An answer counts as right if its error is below 0.04. The paper stops training when the mean error is below
0.01 and the last 2000 sequences were right (adding), or when fewer than 140 of the last 2000 were wrong
(multiplication).

The paper's networks needed 74 000 sequences for adding at T = 100, 209 000 at 500, 853 000 at 1000, and 482 000 for
multiplication at T = 100. They had no forget gate and truncated gradients, and were trained on one sequence at a time.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlstm.tasks import _pictures
from jaxlstm.tasks._generated import TEST_SEED, Sequences, generated, share
from jaxlstm.tasks._task import LARGEST_LENGTH, Problem, Recipe, Task
from jaxlstm.tasks._types import Key
from jaxlstm.training import squared_error

TEST_SIZE = 2560  # the paper's
TOLERANCE = 0.04

RECIPE = Recipe(
    task="adding-1997",
    cell="all",
    hidden_size=32,
    steps=2000,
    batch_size=32,
    learning_rate=1e-2,
    evaluate_every=250,
    length=100,
)


@partial(jax.jit, static_argnames=("batch_size", "length", "multiply"))
def make_batch(key: Key, batch_size: int, length: int, *, multiply: bool) -> Sequences:
    """Draw sequences of T to 11/10 T pairs and their targets.

        x_t = (v_t, m_t)    m_t = 1 at t = a and t = b, -1 at the first and the last step, else 0
        adding:             v_t ~ U(-1, 1)    target = 1/2 + (v_a + v_b) / 4
        multiplication:     v_t ~ U(0, 1)     target = v_a v_b
        a ~ U{0 .. 9}       b ~ U of {0 .. T/2 - 1} without a

    If the first step is drawn as a or b, its marker is -1 all the same, and its number counts as 0 (1 in a product).

    Args:
      key: a PRNG key.
      batch_size: B.
      length: T, the smallest number of pairs, at least 20.
      multiply: make the target the product instead of the sum.

    Returns:
      ``xs [T + T // 10, B, 2]``, 0 after the end of each sequence, and ``targets [B]`` in float32; ``lengths [B]``.

    >>> from jaxlstm.tasks._marked import make_batch
    >>> xs, targets, lengths = make_batch(jax.random.key(0), batch_size=4, length=50, multiply=False)
    >>> xs.shape, bool((lengths >= 50).all())
    ((55, 4, 2), True)
    """
    value_key, length_key, first_key, second_key = jax.random.split(key, 4)
    longest = length + length // 10
    lengths = jax.random.randint(length_key, (batch_size,), length, longest + 1, jnp.int32)
    a = jax.random.randint(first_key, (batch_size,), 0, 10, jnp.int32)
    b = jax.random.randint(second_key, (batch_size,), 0, length // 2 - 1, jnp.int32)
    b = b + (b >= a).astype(b.dtype)  # skip a

    steps, last = jnp.arange(longest, dtype=jnp.int32)[:, None], lengths[None] - 1
    values = jax.random.uniform(value_key, (longest, batch_size), jnp.float32, 0 if multiply else -1, 1)
    values = jnp.where(steps <= last, values, jnp.float32(0))
    ends = (steps == 0) | (steps == last)
    marked = (steps == a[None]) | (steps == b[None])
    markers = jnp.where(ends, jnp.float32(-1), marked.astype(jnp.float32))

    kept = marked & ~ends
    if multiply:
        targets = jnp.prod(jnp.where(kept, values, jnp.float32(1)), axis=0)
    else:
        targets = 0.5 + jnp.sum(jnp.where(kept, values, jnp.float32(0)), axis=0) / 4
    return Sequences(jnp.stack([values, markers], axis=-1), targets, lengths)


def problem(recipe: Recipe, *, multiply: bool) -> Problem:
    """Fresh batches for training, and a fixed test set."""
    draw = partial(make_batch, length=recipe.length or 0, multiply=multiply)
    test = draw(jax.random.key(TEST_SEED), TEST_SIZE)
    return generated(
        recipe,
        draw,
        measure,
        test=test,
        outputs=1,
        last=True,
        score="loss",
        figure="test mean squared error",
        baseline=("always answering the mean", float(jnp.var(test.targets))),
        longest=recipe.length,
        picture=partial(_pictures.predictions, test.targets, (0.0, 1.0)),
    )


def measure(answers: Float[Array, "B"], sequences: Sequences) -> tuple[Array, dict[str, Array]]:
    """The mean squared error; the mean absolute error, and the share of answers that the paper calls right."""
    errors = jnp.abs(answers - sequences.targets)
    return squared_error(answers, sequences.targets), {"error": jnp.mean(errors), "right": share(errors < TOLERANCE)}


ADDING_1997 = Task(
    recipe=RECIPE,
    problem=partial(problem, multiply=False),
    help="adding problem as in the 1997 paper: numbers in [-1, 1], varying lengths",
    picture_name="predictions.png",
    limits={"length": (20, LARGEST_LENGTH)},
)
MULTIPLICATION = Task(
    recipe=replace(RECIPE, task="multiplication"),
    problem=partial(problem, multiply=True),
    help="the product of two marked numbers",
    picture_name="predictions.png",
    limits={"length": (20, LARGEST_LENGTH)},
)
