"""A training state on disk and back: the one module that knows Orbax.

A checkpoint is a folder named after its step, with two items: "state", every leaf as an array (a typed PRNG key as its
data), and "jaxlstm", a record in JSON of what the leaves are, so that a state of another model is refused by the name
of its first leaf that differs, and of sums of their bits. Orbax writes it under another name, and renames it once it is
whole.
"""

import contextlib
import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxlstm
from jaxlstm import _checks
from jaxlstm.training._errors import CheckpointError
from jaxlstm.training._state import TrainState
from jaxlstm.training._sums import array_sums, record_sum

FORMAT = 2
LONGEST = 200  # characters of a reason
STATE, RECORD, DISCARDED = "state", "jaxlstm", "discarded"


_LOGGER = logging.getLogger("absl")  # where Orbax's threads write tracebacks of errors that are raised here as well


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


class Storage:
    """The checkpoints in one folder.

    Args:
      directory: an absolute path.
      keep: how many of the latest to keep, beside the best of those that have a score.
      write: whether checkpoints will be saved; what a run that was killed left half-written is removed then.
    """

    def __init__(self, directory: Path, *, keep: int = 1, write: bool = False) -> None:
        self._ocp = _orbax()
        self._directory = directory
        # A look at every record before any is deleted, since only our own are.
        self._scores = _recorded_scores(directory) if write else {}
        _LOGGER.addFilter(_not_of_orbax)
        try:
            with _as_sentence(f"{directory} cannot be opened"):
                self._manager = self._ocp.CheckpointManager(directory, options=self._options(keep, write))
        except CheckpointError:
            _LOGGER.removeFilter(_not_of_orbax)
            raise
        self._good = self.steps[-1] if self.steps else None
        self._saving: int | None = None

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that have a checkpoint, the one that is being saved included."""
        return tuple(sorted(self._manager.all_steps()))

    def save(self, state: TrainState, step: int, beside: dict[str, Any], score: float | None) -> None:
        """Begin to save the state, and what is recorded beside it; arrays are copied before this returns."""
        self.wait()
        record = {"format": FORMAT, "version": jaxlstm.__version__, "score": score, **beside}
        leaves = [_raw(leaf) for leaf in jax.tree.leaves(state)]
        record |= {"leaves": _described(state), "sums": _sums(leaves)}
        record["record_sum"] = record_sum(record)
        arrays = {f"{index:04}": leaf for index, leaf in enumerate(leaves) if leaf.size}  # Orbax takes no empty ones
        items = self._ocp.args.Composite(
            **{STATE: self._ocp.args.StandardSave(arrays), RECORD: self._ocp.args.JsonSave(record)}
        )
        self._saving, self._scores[step] = step, score
        with self._saving_errors():
            self._check_space(sum(leaf.nbytes for leaf in leaves))
            self._manager.save(step, args=items, force=True)

    def _check_space(self, size: int) -> None:
        """Ask before it is too late: what TensorStore prints of a write that fails cannot be held back."""
        free = shutil.disk_usage(self._directory).free
        if free < size:
            raise OSError(
                errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {size / 1e6:.3g} MB needed, {free / 1e6:.3g} free"
            )

    def wait(self) -> None:
        """Return when all is on disk.

        Raises:
          CheckpointError: if it could not be written.
        """
        with self._saving_errors():
            self._manager.wait_until_finished()
        if self._saving is not None:
            self._good, self._saving = self._saving, None
        if jax.process_index() == 0:
            shutil.rmtree(self._directory / DISCARDED, ignore_errors=True)

    def close(self) -> None:
        """Let go of threads, and of what Orbax may still say of a save that failed."""
        try:
            with contextlib.suppress(Exception) if self._saving is not None else contextlib.nullcontext():
                self._manager.close()
        finally:
            _LOGGER.removeFilter(_not_of_orbax)

    def restore(self, template: TrainState, step: int) -> TrainState:
        """The state of a step, laid out over devices as the template is.

        Raises:
          CheckpointError: if it is damaged, or is that of another model.
        """
        path = self._directory / str(step)
        record = read_record(path)
        _check_leaves(path, _described(template), record["leaves"])
        leaves, structure = jax.tree.flatten(template)
        wanted = {f"{index:04}": _abstract(leaf) for index, leaf in enumerate(leaves)}
        with _as_sentence(f"{path} is damaged"):
            stored = {name: leaf for name, leaf in wanted.items() if leaf.size}
            items = self._ocp.args.Composite(**{STATE: self._ocp.args.StandardRestore(stored)})
            found = self._manager.restore(step, args=items)[STATE]
        empty = {name: jnp.zeros_like(leaf) for name, leaf in wanted.items() if name not in stored}
        arrays = [(found | empty)[name] for name in wanted]
        for (name, _), sums, recorded in zip(record["leaves"], _sums(arrays), record["sums"], strict=True):
            if sums != recorded:
                raise CheckpointError(f"{path} is damaged (state{name} has another sum than was written)")
        return jax.tree.unflatten(structure, [_like(array, leaf) for array, leaf in zip(arrays, leaves, strict=True)])

    def _options(self, keep: int, write: bool) -> Any:
        return self._ocp.CheckpointManagerOptions(
            create=False,
            cleanup_tmp_directories=write,
            preservation_policy=_Preservation(self, keep),
            todelete_subdir=DISCARDED,  # renamed first, so that none is ever half deleted
        )

    @contextlib.contextmanager
    def _saving_errors(self) -> Iterator[None]:
        last = "there is none before it" if self._good is None else f"the last good one is that of step {self._good}"
        with _as_sentence(f"{self._directory}: the checkpoint of step {self._saving} could not be written; {last}"):
            yield


def finished_steps(directory: Path) -> tuple[int, ...]:
    """The steps that have a whole checkpoint in a folder, in order; any process may ask alone."""
    if not directory.is_dir():
        return ()
    return tuple(sorted(_orbax().utils.checkpoint_steps(directory)))


def best_step(directory: Path) -> int | None:
    """The step with the highest score; None where there is none. Any process may ask alone."""
    scores = _recorded_scores(directory)
    return _best(scores, list(scores))


def read_record(path: Path) -> dict[str, Any]:
    """What is said of a checkpoint's leaves, and the position in the data.

    Raises:
      CheckpointError: if the folder is not a checkpoint of ours, is damaged, or has another format.
    """
    if not (path / RECORD).is_dir():
        raise CheckpointError(f"{path} is not a checkpoint of jaxlstm")
    with _as_sentence(f"{path} is damaged"):
        record = json.loads((path / RECORD / "metadata").read_bytes())
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"{path} has the format {found}; this version of jaxlstm reads format {FORMAT}")
    if record.pop("record_sum", None) != record_sum(record):
        raise CheckpointError(f"{path} is damaged (its record has another sum than was written)")
    return record


def _recorded_scores(directory: Path) -> dict[int, float | None]:
    scores = {}
    for step in finished_steps(directory):
        try:
            scores[step] = read_record(directory / str(step))["score"]
        except CheckpointError:
            if step in finished_steps(directory):
                raise  # and is not one that the run in another process has removed since
    return scores


def _orbax() -> Any:
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError(f"checkpoints need Orbax: pip install 'jaxlstm[checkpoints]' ({error})") from error
    return ocp


@dataclass
class _Preservation:
    """Orbax's question which checkpoints to keep: the latest, and the best of those that are there."""

    storage: Storage
    latest: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: object) -> Sequence[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*steps[-self.latest :], _best(self.storage._scores, steps)}
        return [step in kept for step in steps]


def _best(scores: dict[int, float | None], steps: Sequence[int]) -> int | None:
    found = [(score, step) for step in steps if (score := scores.get(step)) is not None]
    return max(found)[1] if found else None


@contextlib.contextmanager
def _as_sentence(sentence: str) -> Iterator[None]:
    """Whatever Orbax and TensorStore raise, of many types, as a CheckpointError with a reason."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{sentence} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """The system's own words where it has some; else the first line, as far as it can be read."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def _sums(leaves: Iterable[jax.Array]) -> list[list[int]]:
    return [np.asarray(array_sums(leaf)).tolist() for leaf in leaves]


def _described(state: TrainState) -> list[list[str]]:
    """Each leaf's name, and its dtype and shape: JSON."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [[jax.tree_util.keystr(path), _checks.describe(leaf)] for path, leaf in leaves]


def _check_leaves(path: Path, expected: list[list[str]], got: Any) -> None:
    """Refuse another model's state, by the name of the first leaf that differs."""
    wanted, found = dict(expected), dict(got)
    for name in (*wanted, *found):
        want, got = (leaves.get(name, "no such leaf") for leaves in (wanted, found))
        if want != got:
            raise CheckpointError(f"{path} does not fit: state{name}: expected {want}, got {got}")


def _raw(leaf: Any) -> jax.Array:
    return jax.random.key_data(leaf) if _typed(leaf) else leaf


def _like(array: jax.Array, leaf: Any) -> jax.Array:
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if _typed(leaf) else array


def _typed(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    raw = jax.eval_shape(_raw, leaf)
    return jax.ShapeDtypeStruct(raw.shape, raw.dtype, sharding=_raw(leaf).sharding)
