"""The record in a checkpoint, a JSON file: what the leaves of the state are, checksums, and the position in the data.

It lets a state of another model be refused by the name of its first leaf that differs, and damage be noticed.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxlstm
from jaxlstm import _checks
from jaxlstm.training._errors import CheckpointError, as_checkpoint_error
from jaxlstm.training._state import TrainState
from jaxlstm.training._sums import array_sums, record_sum

FORMAT = 2
RECORD = "jaxlstm"  # its folder in a checkpoint, by the name that Orbax gives the file in it


def make_record(
    state: TrainState, arrays: Iterable[jax.Array], beside: dict[str, Any], score: float | None
) -> dict[str, Any]:
    """Describe a state, stored as these arrays, one a leaf, and what is recorded beside it."""
    record = {"format": FORMAT, "version": jaxlstm.__version__, "score": score, **beside}
    record |= {"leaves": _describe_leaves(state), "sums": _sums(arrays)}
    return record | {"record_sum": record_sum(record)}


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a checkpoint.

    Raises:
      CheckpointError: if the folder is not a checkpoint of jaxlstm, is damaged, or has another format.
    """
    if not (path / RECORD).is_dir():
        raise CheckpointError(f"{path} is not a checkpoint of jaxlstm")
    with as_checkpoint_error(f"{path} is damaged"):
        record = json.loads((path / RECORD / "metadata").read_bytes())
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"{path} has the format {found}; this version of jaxlstm reads format {FORMAT}")
    if record.pop("record_sum", None) != record_sum(record):
        raise CheckpointError(f"{path} is damaged (the checksum of its record is wrong)")
    return record


def check_leaves(path: Path, record: dict[str, Any], template: TrainState) -> None:
    """Refuse a checkpoint of another model. The error names the first leaf that differs."""
    wanted, found = dict(_describe_leaves(template)), dict(record["leaves"])
    for name in (*wanted, *found):
        want, got = (leaves.get(name, "no such leaf") for leaves in (wanted, found))
        if want != got:
            raise CheckpointError(f"{path} does not fit: state{name}: expected {want}, got {got}")


def check_sums(path: Path, record: dict[str, Any], arrays: Iterable[jax.Array]) -> None:
    """Refuse arrays that have changed on disk. The error names the first."""
    for (name, _), sums, recorded in zip(record["leaves"], _sums(arrays), record["sums"], strict=True):
        if sums != recorded:
            raise CheckpointError(f"{path} is damaged (the checksum of state{name} is wrong)")


def _describe_leaves(state: TrainState) -> list[list[str]]:
    """The name of each leaf, with its dtype and shape."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [[jax.tree_util.keystr(path), _checks.describe(leaf)] for path, leaf in leaves]


def _sums(arrays: Iterable[jax.Array]) -> list[list[int]]:
    return [np.asarray(array_sums(array)).tolist() for array in arrays]
