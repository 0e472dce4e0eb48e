"""The copying task (Arjovsky, Shah & Bengio 2016, section 4.1, after Hochreiter & Schmidhuber 1997).

The input is ten symbols of eight kinds, blanks and a delimiter. After the delimiter the network has to repeat the ten
symbols in order. Without memory, the best it can do is answer blanks and then guess, which has a cross-entropy of
10 ln 8 / (T + 20). The paper's LSTM beats that at T = 100, but not at 200 or more; those of Bai et al. (2018) do not
beat it at 1000.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlstm.tasks import _pictures
from jaxlstm.tasks._generated import TEST_SEED, Sequences, generated, one_hot, share
from jaxlstm.tasks._task import LARGEST_LENGTH, Problem, Recipe, Task
from jaxlstm.tasks._types import Key
from jaxlstm.training import cross_entropy

TEST_SIZE = 512
KINDS, COPIED = 8, 10
BLANK, DELIMITER = KINDS, KINDS + 1

RECIPE = Recipe(
    task="copying",
    cell="all",
    hidden_size=64,
    steps=2000,
    batch_size=32,
    learning_rate=3e-3,
    evaluate_every=250,
    length=30,
)


@partial(jax.jit, static_argnames=("batch_size", "length"))
def make_batch(key: Key, batch_size: int, length: int) -> Sequences:
    """Draw sequences s and the targets of each step.

        s       = (s_1, ..., s_10, T - 1 blanks, delimiter, 10 blanks)     s_k ~ U{0 .. 7}
        targets = (T + 10 blanks,                           s_1, ..., s_10)

    Args:
      key: a PRNG key.
      batch_size: B.
      length: T, the time lag from the last symbol to the first answer, at least 1.

    Returns:
      ``xs [T + 20, B, 10]``, one-hot, with 8 for the blank and 9 for the delimiter; ``targets [T + 20, B]``.

    >>> from jaxlstm.tasks._copying import make_batch
    >>> xs, targets, _ = make_batch(jax.random.key(0), batch_size=1, length=3)
    >>> bool((xs[:10].argmax(-1) == targets[-10:]).all()), xs[10:].argmax(-1)[:5, 0]
    (True, Array([8, 8, 9, 8, 8], dtype=int32))
    """
    symbols = jax.random.randint(key, (COPIED, batch_size), 0, KINDS, jnp.int32)

    def blanks(steps: int) -> Array:
        return jnp.full((steps, batch_size), BLANK, jnp.int32)

    delimiter = jnp.full((1, batch_size), DELIMITER, jnp.int32)
    shown = jnp.concatenate([symbols, blanks(length - 1), delimiter, blanks(COPIED)])
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
        figure="test cross-entropy in nats per step",
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
    """The mean cross-entropy of all steps, and the share of the symbols that are repeated correctly."""
    targets = sequences.targets
    answers = jnp.argmax(logits[-COPIED:], axis=-1).astype(targets.dtype)
    return cross_entropy(logits, targets), {"copied": share(answers == targets[-COPIED:])}


TASK = Task(
    recipe=RECIPE,
    problem=problem,
    help="repeat ten symbols after a long blank",
    picture_name="probabilities.png",
    limits={"length": (1, LARGEST_LENGTH)},
)
