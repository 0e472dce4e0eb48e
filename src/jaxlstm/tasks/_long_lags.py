"""Long time lags without and with noise (Hochreiter & Schmidhuber 1997, section 5.2, tasks 2a and 2b).

The first symbol of a sequence, x or y, returns as its last one, p steps later. The network predicts each next symbol.
In task 2a, without noise, the p - 1 symbols in between are a_1, a_2, ... in every sequence. In task 2b, with noise,
they are random, so only the last symbol can be predicted. A sequence counts as right if every output is within 0.25 of
its target, at all steps (2a) or at the last step (2b).

At p = 100 the paper's networks needed 5 040 sequences for 2a, which neither BPTT nor RTRL solved, and 5 680 for 2b.
They had no forget gate, truncated gradients, sigmoid outputs instead of a softmax, and were trained on one sequence at
a time.

Without noise there are only two different sequences, and each batch here has equal numbers of both. This matters. If a
batch has more of one, the gradient mostly says that this one is more likely. With thousands of sequences drawn at
random, none of our cells solved the task at p = 50 or more.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlstm.tasks import _pictures
from jaxlstm.tasks._generated import TEST_SEED, Sequences, generated, one_hot, share
from jaxlstm.tasks._task import Problem, Recipe, Task
from jaxlstm.tasks._types import Key
from jaxlstm.training import cross_entropy

TEST_SIZE = 256
TOLERANCE = 0.25

RECIPE = Recipe(
    task="noise-free-lag",
    cell="all",
    hidden_size=128,
    steps=2500,
    batch_size=2,
    learning_rate=3e-2,
    evaluate_every=250,
    length=100,
)


@partial(jax.jit, static_argnames=("batch_size", "length", "noise"))
def make_batch(key: Key, batch_size: int, length: int, *, noise: bool) -> Sequences:
    """Draw sequences of p + 1 symbols and the next symbols to predict.

        s = (x, a_1, a_2, ..., a_{p-1}, x)  or  (y, a_1, a_2, ..., a_{p-1}, y)

    With noise, x or y is drawn for each sequence, and the symbols in between are drawn from a_1, ..., a_{p-1}. Without
    noise, x and y alternate in the batch, and which comes first is drawn.

    Args:
      key: a PRNG key.
      batch_size: B.
      length: p, the time lag, at least 2.
      noise: draw the symbols in between at random.

    Returns:
      ``xs [p, B, p + 1]``: s_0 to s_{p-1}, one-hot in the order a_1, ..., a_{p-1}, x, y. ``targets [p, B]``: s_1 to
      s_p.

    >>> from jaxlstm.tasks._long_lags import make_batch
    >>> xs, targets, _ = make_batch(jax.random.key(0), batch_size=2, length=4, noise=False)
    >>> targets[:-1, 0], bool((xs[0].argmax(-1) == targets[-1]).all())
    (Array([0, 1, 2], dtype=int32), True)
    """
    class_key, noise_key = jax.random.split(key)
    if noise:
        ends = jax.random.randint(class_key, (1, batch_size), length - 1, length + 1, jnp.int32)
        between = jax.random.randint(noise_key, (length - 1, batch_size), 0, length - 1, jnp.int32)
    else:
        first = jax.random.randint(class_key, (), 0, 2, jnp.int32)
        ends = (length - 1 + (first + jnp.arange(batch_size, dtype=jnp.int32)) % 2)[None]
        between = jnp.broadcast_to(jnp.arange(length - 1, dtype=jnp.int32)[:, None], (length - 1, batch_size))
    symbols = jnp.concatenate([ends, between, ends])
    return Sequences(one_hot(symbols[:-1], length + 1), symbols[1:])


def problem(recipe: Recipe, *, noise: bool) -> Problem:
    """Fresh batches for training, and a fixed test set."""
    length = recipe.length or 0
    draw = partial(make_batch, length=length, noise=noise)
    test = draw(jax.random.key(TEST_SEED), TEST_SIZE)
    truth = np.asarray(one_hot(test.targets[:, 0], length + 1)) == 1
    return generated(
        recipe,
        draw,
        partial(measure, noise=noise),
        test=test,
        outputs=length + 1,
        last=False,
        score="right",
        figure="share of test sequences right",
        longest=recipe.length,
        picture=partial(_pictures.probabilities, truth, 0, jax.nn.softmax, ()),
    )


def measure(logits: Float[Array, "T B C"], sequences: Sequences, *, noise: bool) -> tuple[Array, dict[str, Array]]:
    """The mean cross-entropy of all steps; the mean error of the last step, and the share of sequences right."""
    targets = sequences.targets
    errors = jnp.abs(jax.nn.softmax(logits) - one_hot(targets, logits.shape[-1]))
    counted = errors[-1:] if noise else errors
    right = share(jnp.max(counted, axis=(0, 2)) < TOLERANCE)
    return cross_entropy(logits, targets), {"error": jnp.mean(jnp.max(errors[-1], axis=-1)), "right": right}


NOISE_FREE = Task(
    recipe=RECIPE,
    problem=partial(problem, noise=False),
    help="recall the first symbol after a long fixed sequence",
    picture_name="probabilities.png",
)
NOISY = Task(
    recipe=replace(
        RECIPE,
        task="noisy-lag",
        hidden_size=32,
        steps=1500,
        batch_size=16,
        learning_rate=1e-2,
        evaluate_every=150,
        length=50,
    ),
    problem=partial(problem, noise=True),
    help="recall the first symbol after a long random sequence",
    picture_name="probabilities.png",
)
