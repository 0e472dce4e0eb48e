"""Checkpoints on disk. This module alone knows Orbax.

A checkpoint is a folder named after its step. It holds two items: "state", each leaf as an array (a typed PRNG key as
its data), and "jaxlstm", the record. Orbax writes the folder under a temporary name and renames it when it is complete.
"""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxlstm.training._errors import CheckpointError, as_checkpoint_error
from jaxlstm.training._record import RECORD, check_leaves, check_sums, make_record, read_record
from jaxlstm.training._state import TrainState

STATE, DISCARDED = "state", "discarded"
_LOGGER = logging.getLogger("absl")  # Orbax's threads log tracebacks here, of errors that are raised as well


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


class Storage:
    """The checkpoints in a folder.

    Args:
      directory: an absolute path.
      keep: how many of the latest to keep, in addition to the one with the highest score.
      write: whether checkpoints will be saved. If so, what a killed run left half-written is removed.
    """

    def __init__(self, directory: Path, *, keep: int = 1, write: bool = False) -> None:
        self.directory = directory
        self._ocp = _orbax()
        # This reads every record, so a foreign folder is refused before any checkpoint is deleted.
        self._scores = _recorded_scores(directory) if write else {}
        options = self._ocp.CheckpointManagerOptions(
            create=False,
            cleanup_tmp_directories=write,
            preservation_policy=_Preservation(self._scores, keep),
            todelete_subdir=DISCARDED,  # checkpoints are moved there first, so none is ever half deleted
        )
        _LOGGER.addFilter(_not_of_orbax)
        try:
            with as_checkpoint_error(f"{directory} cannot be opened"):
                self._manager = self._ocp.CheckpointManager(directory, options=options)
        except CheckpointError:
            _LOGGER.removeFilter(_not_of_orbax)
            raise
        self._good = self.steps[-1] if self.steps else None
        self._saving: int | None = None

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps with a checkpoint, including the one that is being saved."""
        return tuple(sorted(self._manager.all_steps()))

    def save(self, state: TrainState, step: int, beside: dict[str, Any], score: float | None) -> None:
        """Start to save. The arrays are copied before this returns; `wait` returns when they are written."""
        self.wait()
        leaves = [_raw(leaf) for leaf in jax.tree.leaves(state)]
        record = make_record(state, leaves, beside, score)
        arrays = {f"{index:04}": leaf for index, leaf in enumerate(leaves) if leaf.size}  # Orbax takes no empty ones
        items = self._ocp.args.Composite(
            **{STATE: self._ocp.args.StandardSave(arrays), RECORD: self._ocp.args.JsonSave(record)}
        )
        self._saving, self._scores[step] = step, score
        with self._saving_errors():
            self._check_space(sum(leaf.nbytes for leaf in leaves))
            self._manager.save(step, args=items, force=True)

    def wait(self) -> None:
        """Wait until the save is on disk.

        Raises:
          CheckpointError: if it failed.
        """
        with self._saving_errors():
            self._manager.wait_until_finished()
        if self._saving is not None:
            self._good, self._saving = self._saving, None
        if jax.process_index() == 0:
            shutil.rmtree(self.directory / DISCARDED, ignore_errors=True)

    def close(self) -> None:
        """Close Orbax's manager. It may repeat the error of a failed save, which was raised before."""
        try:
            with contextlib.suppress(Exception) if self._saving is not None else contextlib.nullcontext():
                self._manager.close()
        finally:
            _LOGGER.removeFilter(_not_of_orbax)

    def restore(self, template: TrainState, step: int) -> TrainState:
        """Load the state of a step, laid out over devices like the template.

        Raises:
          CheckpointError: if it is damaged, or of another model.
        """
        path = self.directory / str(step)
        record = read_record(path)
        check_leaves(path, record, template)
        leaves, structure = jax.tree.flatten(template)
        wanted = {f"{index:04}": _abstract(leaf) for index, leaf in enumerate(leaves)}
        stored = {name: leaf for name, leaf in wanted.items() if leaf.size}
        with as_checkpoint_error(f"{path} is damaged"):
            items = self._ocp.args.Composite(**{STATE: self._ocp.args.StandardRestore(stored)})
            found = self._manager.restore(step, args=items)[STATE]
        empty = {name: jnp.zeros_like(leaf) for name, leaf in wanted.items() if name not in stored}
        arrays = [(found | empty)[name] for name in wanted]
        check_sums(path, record, arrays)
        return jax.tree.unflatten(structure, [_like(array, leaf) for array, leaf in zip(arrays, leaves, strict=True)])

    def _check_space(self, size: int) -> None:
        """Raise an error before TensorStore does: what it prints about a failed write cannot be suppressed."""
        free = shutil.disk_usage(self.directory).free
        if free < size:
            reason = f"{os.strerror(errno.ENOSPC)}: {size / 1e6:.3g} MB needed, {free / 1e6:.3g} free"
            raise OSError(errno.ENOSPC, reason)

    @contextlib.contextmanager
    def _saving_errors(self) -> Iterator[None]:
        last = "there is none before it" if self._good is None else f"the last good one is that of step {self._good}"
        sentence = f"{self.directory}: the checkpoint of step {self._saving} could not be written; {last}"
        with as_checkpoint_error(sentence):
            yield


def finished_steps(directory: Path) -> tuple[int, ...]:
    """The steps with a complete checkpoint, in order. A single process may call this."""
    if not directory.is_dir():
        return ()
    return tuple(sorted(_orbax().utils.checkpoint_steps(directory)))


def best_step(directory: Path) -> int | None:
    """The step with the highest score, None without one. A single process may call this."""
    scores = _recorded_scores(directory)
    return _best(scores, list(scores))


def _recorded_scores(directory: Path) -> dict[int, float | None]:
    scores = {}
    for step in finished_steps(directory):
        try:
            scores[step] = read_record(directory / str(step))["score"]
        except CheckpointError:
            if step in finished_steps(directory):  # else another process, which writes here, has just removed it
                raise
    return scores


def _orbax() -> Any:
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError(f"checkpoints need Orbax: pip install 'jaxlstm[checkpoints]' ({error})") from error
    return ocp


@dataclass
class _Preservation:
    """Orbax's policy for what to keep: the latest checkpoints, and the one with the highest score."""

    scores: dict[int, float | None]
    latest: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: object) -> Sequence[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-self.latest :], _best(self.scores, steps)}
        return [step in kept for step in steps]


def _best(scores: dict[int, float | None], steps: Sequence[int]) -> int | None:
    found = [(score, step) for step in steps if (score := scores.get(step)) is not None]
    return max(found)[1] if found else None


def _raw(leaf: Any) -> jax.Array:
    """The leaf as it is stored."""
    return jax.random.key_data(leaf) if _typed(leaf) else leaf


def _like(array: jax.Array, leaf: Any) -> jax.Array:
    """A stored array as a leaf like this one."""
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if _typed(leaf) else array


def _typed(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    raw = jax.eval_shape(_raw, leaf)
    return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=_raw(leaf).sharding)
