"""A run's directory: what is in it, how it comes to be, and how it is read back."""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxlstm import _checks, interop
from jaxlstm.tasks._task import Recipe
from jaxlstm.tasks._types import Params
from jaxlstm.training import CheckpointError, LogError

CONFIG, METRICS, LEARNING_CURVE = "config.json", "metrics.csv", "learning_curve.png"
VOCABULARY, CHECKPOINTS = "vocabulary.json", "checkpoints"


class RunError(Exception):
    """A run's directory is not what was asked for; the message is a sentence for the user."""


def weights_path(directory: Path, cell: str, seed: int) -> Path:
    """Where the weights of one model are."""
    return directory / f"weights_{cell}_seed{seed}.safetensors"


def create(directory: Path, recipe: Recipe, version: str, data_sum: str | None = None) -> None:
    """Make the directory, with its config.json: the options, the versions, and sums of the options and of the data.

    Raises:
      RunError: if it holds a run already, or cannot be made.
    """
    refuse_existing(directory)
    config = dataclasses.asdict(recipe)
    config |= {
        "versions": {"jaxlstm": version, "jax": jax.__version__, "python": platform.python_version()},
        "sums": {"options": sum_of(config), "data": data_sum},
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / CONFIG).open("x") as file:  # x: should two begin at once, one of them stops here
            try:
                file.write(json.dumps(config, indent=2) + "\n")
                file.flush()
            except OSError:
                (directory / CONFIG).unlink()
                raise
    except OSError as error:
        raise RunError(f"{directory} cannot be written to: {error.strerror}") from error


def sum_of(value: Any) -> str:
    """By which a change of options or characters is noticed."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def refuse_existing(directory: Path) -> None:
    """Raise RunError where a run's files lie already, so that none is ever overwritten, or where none can lie."""
    nearest = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise RunError(f"{directory} cannot be written to: {nearest} is not a directory that takes files")
    for pattern in (CONFIG, METRICS, "*.safetensors", "*.png"):
        if found := sorted(directory.glob(pattern)):
            raise RunError(f"{directory} already holds a run ({found[0].name}); choose another directory")


def has_checkpoint(directory: Path, steps: Sequence[int]) -> bool:
    """Whether there is a checkpoint to go on from; none is needed if the run ended before its first.

    Raises:
      RunError: if there is none, and there was one.
    """
    beyond = [*directory.glob("*.safetensors"), *directory.glob(METRICS)]
    if not steps and beyond and (beyond[0].suffix == ".safetensors" or not (directory / CHECKPOINTS).is_dir()):
        raise RunError(f"{directory} holds {beyond[0].name}, but no checkpoint to go on from in {CHECKPOINTS}")
    return bool(steps)


@contextlib.contextmanager
def errors_of_files(directory: Path) -> Iterator[None]:
    """What training says of checkpoints, and the system of other files in a run's directory, as a RunError."""
    try:
        yield
    except (CheckpointError, LogError) as error:
        raise RunError(str(error)) from error
    except OSError as error:
        raise RunError(f"{error.filename or directory} cannot be written ({error.strerror or error})") from error


def read_recipe(directory: Path, defaults: Mapping[str, Recipe]) -> Recipe:
    """The recipe in config.json, which has the same options as its task's default.

    Raises:
      RunError: if there is none, or it makes no sense.
    """
    path = directory / CONFIG
    try:
        config, sums = _read_config(directory)
        recipe = Recipe(**config)
        _check_options(recipe, defaults)
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if sums["options"] != sum_of(config):
        raise RunError(f"{path} is damaged: its options have another sum than when they were written")
    return recipe


def check_data(directory: Path, recipe: Recipe, data_sum: str | None) -> None:
    """Refuse other data than the run began with.

    Raises:
      RunError: if they have another sum.
    """
    if _read_config(directory)[1]["data"] != data_sum:
        raise RunError(f"{recipe.file} is not what it was when the run in {directory} began (it has another sum)")


def _read_config(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options and the sums in config.json; of a damaged one a ValueError, a TypeError or an AttributeError."""
    try:
        config: Any = json.loads((directory / CONFIG).read_text())
    except OSError as error:
        raise RunError(f"{directory} holds no run: {CONFIG} cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    sums = config.pop("sums", None)
    config.pop("versions", None)
    if not isinstance(sums, dict) or sums.keys() != {"options", "data"}:
        _checks.reject("sums", "those of the options and the data", _checks.describe(sums))
    return config, sums


def _check_options(recipe: Recipe, defaults: Mapping[str, Recipe]) -> None:
    """A recipe's task exists, and has those of the options that only some tasks have."""
    if recipe.task not in defaults:
        _checks.reject("task", f"one of {', '.join(defaults)}", repr(recipe.task))
    for name in ("length", "hold_out", "file"):
        value = getattr(recipe, name)
        if (value is None) != (getattr(defaults[recipe.task], name) is None):
            _checks.reject(name, f"what the task {recipe.task} has", value)


def write_vocabulary(directory: Path, vocabulary: str) -> None:
    """Keep the characters that a model's inputs and outputs stand for."""
    stored = {"characters": vocabulary, "sum": sum_of(vocabulary)}
    (directory / VOCABULARY).write_text(json.dumps(stored) + "\n")


def read_vocabulary(directory: Path) -> str:
    """The characters that the models of a run on text know.

    Raises:
      RunError: if they are missing or damaged.
    """
    path = directory / VOCABULARY
    try:
        stored = json.loads(path.read_text())
        vocabulary, stored_sum = stored["characters"], stored["sum"]
    except OSError as error:
        raise RunError(f"{directory} holds no vocabulary: {VOCABULARY} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not isinstance(vocabulary, str) or not vocabulary or sum_of(vocabulary) != stored_sum:
        raise RunError(f"{path} is damaged: its characters have another sum than when they were written")
    return vocabulary


def read_weights(directory: Path, cell: str, seed: int, template: Params) -> Params:
    """The weights of one model.

    Raises:
      RunError: if they are missing or damaged, or are those of another model.
    """
    path = weights_path(directory, cell, seed)
    try:
        return interop.load_params(path, template)
    except FileNotFoundError as error:
        raise RunError(f"{directory} holds no weights of the {cell} with seed {seed} ({path.name})") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RunError(str(error)) from error
