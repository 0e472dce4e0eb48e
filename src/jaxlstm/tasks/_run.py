"""A run's directory: creating it, checking it and reading it back."""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxlstm import _checks, interop
from jaxlstm.tasks._task import Recipe
from jaxlstm.tasks._types import Params
from jaxlstm.training import CheckpointError, LogError

CONFIG, METRICS, LEARNING_CURVE = "config.json", "metrics.csv", "learning_curve.png"
CHECKPOINTS = "checkpoints"


class RunError(Exception):
    """A run cannot be started, continued or read. The message is one sentence for the user."""


def weights_path(directory: Path, cell: str, seed: int) -> Path:
    """The file with the weights of one model."""
    return directory / f"weights_{cell}_seed{seed}.safetensors"


def create(directory: Path, recipe: Recipe, version: str, data_sum: str | None = None) -> None:
    """Create the directory and its config.json: options, versions, and checksums of the options and the data.

    Raises:
      RunError: if the directory already holds a run, or cannot be created.
    """
    refuse_existing(directory)
    config = dataclasses.asdict(recipe)
    config |= {
        "versions": {"jaxlstm": version, "jax": jax.__version__, "python": platform.python_version()},
        "sums": {"options": sum_of(config), "data": data_sum},
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / CONFIG).open("x") as file:  # x: if two runs start at once, one of them stops here
            try:
                file.write(json.dumps(config, indent=2) + "\n")
                file.flush()
            except OSError:
                (directory / CONFIG).unlink()
                raise
    except OSError as error:
        raise RunError(f"{directory} cannot be written to: {error.strerror}") from error


def sum_of(value: Any) -> str:
    """A checksum of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def refuse_existing(directory: Path) -> None:
    """Raise RunError if the directory already holds files of a run, or cannot be written to."""
    nearest = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise RunError(f"{directory} cannot be written to: {nearest} is not a directory that takes files")
    for pattern in (CONFIG, METRICS, "*.safetensors", "*.png"):
        if found := sorted(directory.glob(pattern)):
            raise RunError(f"{directory} already holds a run ({found[0].name}); choose another directory")


def has_checkpoint(directory: Path, steps: Sequence[int]) -> bool:
    """Whether there is a checkpoint to resume from. A run that ended before its first checkpoint starts again.

    Raises:
      RunError: if the run's checkpoints have gone missing.
    """
    beyond = [*directory.glob("*.safetensors"), *directory.glob(METRICS)]
    if not steps and beyond and (beyond[0].suffix == ".safetensors" or not (directory / CHECKPOINTS).is_dir()):
        raise RunError(f"{directory} holds {beyond[0].name}, but no checkpoint to resume from in {CHECKPOINTS}")
    return bool(steps)


@contextlib.contextmanager
def errors_of_files(directory: Path) -> Iterator[None]:
    """Turns errors of checkpoints, the log and other files into a RunError."""
    try:
        yield
    except (CheckpointError, LogError) as error:
        raise RunError(str(error)) from error
    except OSError as error:
        raise RunError(f"{error.filename or directory} cannot be written ({error.strerror or error})") from error


def read_recipe(directory: Path, check: Callable[[Recipe], object]) -> Recipe:
    """The recipe in config.json, once `check` has accepted it.

    Raises:
      RunError: if config.json is missing or damaged.
    """
    path = directory / CONFIG
    try:
        config, sums = _read_config(directory)
        recipe = Recipe(**config)
        check(recipe)
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if sums["options"] != sum_of(config):
        raise RunError(f"{path} is damaged: the checksum of its options has changed")
    return recipe


def check_data(directory: Path, recipe: Recipe, data_sum: str | None) -> None:
    """Check that the data have not changed since the run began.

    Raises:
      RunError: if their checksum has changed.
    """
    if _read_config(directory)[1]["data"] != data_sum:
        raise RunError(f"{recipe.file} has changed since the run in {directory} began (its checksum is different)")


def _read_config(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options and checksums in config.json. If it is damaged: ValueError, TypeError or AttributeError."""
    try:
        config: Any = json.loads((directory / CONFIG).read_text())
    except OSError as error:
        raise RunError(f"{directory} holds no run: {CONFIG} cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    sums = config.pop("sums", None)
    config.pop("versions", None)
    if not isinstance(sums, dict) or sums.keys() != {"options", "data"}:
        _checks.reject("sums", "checksums of the options and the data", _checks.describe(sums))
    return config, sums


def write_kept(directory: Path, keep: Mapping[str, str]) -> None:
    """Write the files that a problem keeps in the run, unless they are there and undamaged."""
    for name, content in keep.items():
        path = directory / name
        if not path.is_file() or path.read_bytes() != content.encode():
            path.write_text(content)


def read_weights(directory: Path, cell: str, seed: int, template: Params) -> Params:
    """The weights of one model.

    Raises:
      RunError: if they are missing, damaged, or belong to another model.
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
