"""The adding problem (Hochreiter & Schmidhuber 1997, section 5.4), in the form of Arjovsky et al. (2016, section 4.2).

A sequence has two channels: values from U(0, 1), and markers, which are 1 at two steps and 0 elsewhere. One marker is
in the first half of the sequence, one in the second. The target is the sum of the two marked values. Always answering 1
gives a mean squared error of 1/6, the variance of that sum. The task ``adding-1997`` is the paper's own variant, with
values from U(-1, 1), markers among the first ten steps and in the first half, and random lengths.

All cells have the same recipe and the library's default initialisation. Orthogonal recurrent weights help the RNN; with
torch's uniform initialisation it also stays at 1/6. After 2500 steps or more, some seeds of the RNN improve to 0.10:
the task shows how much later than the others it learns.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlstm.tasks import _pictures
from jaxlstm.tasks._generated import TEST_SEED, Sequences, generated
from jaxlstm.tasks._task import Problem, Recipe, Task
from jaxlstm.tasks._types import Key
from jaxlstm.training import squared_error

TEST_SIZE = 10_000

RECIPE = Recipe(
    task="adding",
    cell="all",
    hidden_size=32,
    steps=2000,
    batch_size=32,
    learning_rate=1e-2,
    evaluate_every=250,
    length=100,
)


@partial(jax.jit, static_argnames=("batch_size", "length"))
def make_batch(key: Key, batch_size: int, length: int) -> Sequences:
    """Draw sequences and targets.

        x_t = (v_t, m_t)    v_t ~ U(0, 1)    m_t = 1 at t = a and t = b, else 0    target = v_a + v_b
        a ~ U{0 .. T/2 - 1}    b ~ U{T/2 .. T - 1}

    Args:
      key: a PRNG key.
      batch_size: B.
      length: T, at least 2.

    Returns:
      ``xs [T, B, 2]`` and ``targets [B]`` in float32.

    >>> from jaxlstm.tasks._adding import make_batch
    >>> xs, targets, _ = make_batch(jax.random.key(0), batch_size=4, length=10)
    >>> bool(jnp.allclose((xs[..., 0] * xs[..., 1]).sum(axis=0), targets))
    True
    """
    value_key, first_key, second_key = jax.random.split(key, 3)
    values = jax.random.uniform(value_key, (length, batch_size), jnp.float32)
    first = jax.random.randint(first_key, (batch_size,), 0, length // 2, jnp.int32)
    second = jax.random.randint(second_key, (batch_size,), length // 2, length, jnp.int32)
    steps = jnp.arange(length, dtype=first.dtype)[:, None]
    markers = ((steps == first[None]) | (steps == second[None])).astype(jnp.float32)
    return Sequences(jnp.stack([values, markers], axis=-1), jnp.sum(values * markers, axis=0))


def problem(recipe: Recipe) -> Problem:
    """Fresh batches for training, and a fixed test set."""
    length = recipe.length or 0
    test = make_batch(jax.random.key(TEST_SEED), TEST_SIZE, length)
    return generated(
        recipe,
        partial(make_batch, length=length),
        measure,
        test=test,
        outputs=1,
        last=True,
        score="loss",
        figure="test mean squared error",
        baseline=("always answering 1", 1 / 6),
        picture=partial(_pictures.predictions, test.targets, (0.0, 2.0)),
    )


def measure(answers: Float[Array, "B"], sequences: Sequences) -> tuple[Array, dict[str, Array]]:
    """The mean squared error."""
    return squared_error(answers, sequences.targets), {}


TASK = Task(
    recipe=RECIPE,
    problem=problem,
    help="adding problem: the sum of two marked numbers",
    picture_name="predictions.png",
)
