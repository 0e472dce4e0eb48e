"""The copying task (Arjovsky, Shah & Bengio 2016, section 4.1, after Hochreiter & Schmidhuber 1997).

Ten symbols of eight kinds, blanks, a sign, and then the ten symbols are to be given back in order. A network without
memory can only say blanks, then guess: its cross-entropy is 10 ln 8 / (T + 20). The paper's LSTM gets below that at
T = 100 and not at 200 or more; those of Bai et al. (2018) stay there at 1000.
"""

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

TEST_SIZE = 512
KINDS, COPIED = 8, 10
BLANK, SIGN = KINDS, KINDS + 1

RECIPE = Recipe(
    task="copying",
    cell="all",
    hidden_size=64,
    layers=1,
    dropout=0.0,
    steps=2000,
    batch_size=32,
    learning_rate=3e-3,
    seed=0,
    seeds=1,
    evaluate_every=250,
    length=30,
)


@partial(jax.jit, static_argnames=("batch_size", "length"))
def make_batch(key: Key, batch_size: int, length: int) -> Sequences:
    """Draw sequences s of ten symbols and what is to be said at each step.

        s       = (s_1, ..., s_10, T - 1 blanks, the sign, 10 blanks)      s_k ~ U{0 .. 7}
        targets = (T + 10 blanks,                          s_1, ..., s_10)

    Args:
      key: a PRNG key.
      batch_size: B.
      length: T, the steps from the last symbol to the first one asked for, at least 1.

    Returns:
      ``xs [T + 20, B, 10]``, one-hot, the blank being 8 and the sign 9; ``targets [T + 20, B]``.

    >>> from jaxlstm.tasks._copying import make_batch
    >>> xs, targets, _ = make_batch(jax.random.key(0), batch_size=1, length=3)
    >>> bool((xs[:10].argmax(-1) == targets[-10:]).all()), xs[10:].argmax(-1)[:5, 0]
    (True, Array([8, 8, 9, 8, 8], dtype=int32))
    """
    symbols = jax.random.randint(key, (COPIED, batch_size), 0, KINDS, jnp.int32)

    def blanks(steps: int) -> Array:
        return jnp.full((steps, batch_size), BLANK, jnp.int32)

    sign = jnp.full((1, batch_size), SIGN, jnp.int32)
    shown = jnp.concatenate([symbols, blanks(length - 1), sign, blanks(COPIED)])
    return Sequences(one_hot(shown, KINDS + 2), jnp.concatenate([blanks(length + COPIED), symbols]))


def problem(recipe: Recipe) -> Problem:
    """Fresh batches for training, and a fixed test set."""
    length = recipe.length or 0
    test = make_batch(jax.random.key(TEST_SEED), TEST_SIZE, length)
    truth = np.asarray(one_hot(test.targets[-COPIED:, 0], KINDS + 2)) == 1
    return generated(
        recipe,
        partial(make_batch, length=length),
        measure,
        test=test,
        outputs=KINDS + 2,
        last=False,
        score="loss",
        figure="test cross-entropy, nats a step",
        baseline=("without memory", floor(length)),
        longest=recipe.length,
        picture=partial(_pictures.probabilities, truth, length + COPIED, jax.nn.softmax, ()),
    )


def floor(length: int) -> float:
    """The cross-entropy of a network without memory: 10 ln 8 / (T + 20).

    >>> from jaxlstm.tasks._copying import floor
    >>> round(floor(100), 4)
    0.1733
    """
    return COPIED * float(np.log(KINDS)) / (length + 2 * COPIED)


def measure(logits: Float[Array, "T B 10"], sequences: Sequences) -> tuple[Array, dict[str, Array]]:
    """The mean cross-entropy of all steps, and the share of the ten symbols that are given back right."""
    targets = sequences.targets
    answers = jnp.argmax(logits[-COPIED:], axis=-1).astype(targets.dtype)
    return cross_entropy(logits, targets), {"copied": share(answers == targets[-COPIED:])}


TASK = Task(
    recipe=RECIPE,
    problem=problem,
    help="give ten symbols back after a long blank",
    picture_name="probabilities.png",
)
