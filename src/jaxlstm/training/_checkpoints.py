"""When to save a checkpoint, how many to keep, and how a run takes up where another one ended."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlstm import _checks
from jaxlstm.training._data import Batches
from jaxlstm.training._errors import CheckpointError
from jaxlstm.training._lock import only_writer, writer_of
from jaxlstm.training._processes import first_alone, gathered
from jaxlstm.training._state import TrainState
from jaxlstm.training._step import Metrics
from jaxlstm.training._storage import Storage, best_step, finished_steps, read_record


class Checkpoints:
    """The checkpoints of a run, in a folder of their own: what `fit` saves, and goes on from.

    Each holds the whole `TrainState` and the position in the data, is written while training goes on, and is there
    either whole or not at all. Whatever ends a run, SIGKILL in the midst of a save included, the last whole one stays.
    Needs Orbax: ``pip install 'jaxlstm[checkpoints]'``.

    Args:
      directory: the folder; it is made by the first save. Several processes share it, also on several machines.
      every: save after every so many steps.
      minutes: save after so many minutes since the last save. `fit` saves at its end in any case.
      keep: how many of the latest checkpoints to keep.
      best: the name of a metric that `fit` is given by `evaluate`: every evaluation is followed by a save, and the one
        with the best value (its mean, if it is an array) is kept beside the latest.
      best_mode: "min" or "max", which values are better.

    Raises:
      ValueError, TypeError: if an option has no meaning.
      ImportError: if Orbax is missing.

    >>> import itertools, optax, tempfile
    >>> from jaxlstm.training import Checkpoints, fit, init_state, make_train_step
    >>> optimizer = optax.sgd(0.1)
    >>> train_step = make_train_step(lambda params, batch, key: ((params - batch) ** 2, {}), optimizer)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoints = Checkpoints(folder, every=10)
    ...     options = {"batches": itertools.repeat(jnp.array(1.0)), "checkpoints": checkpoints, "progress": False}
    ...     state = init_state(jnp.array(0.0), optimizer, jax.random.key(0))
    ...     state = fit(train_step, state, steps=30, **options)
    ...     state = init_state(jnp.array(0.0), optimizer, jax.random.key(0))  # in another process, as a rule
    ...     state = fit(train_step, state, steps=40, resume=True, **options)
    ...     checkpoints.steps
    (20, 30, 40)
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        every: int | None = None,
        minutes: int | float | None = None,
        keep: int = 3,
        best: str | None = None,
        best_mode: str = "min",
    ) -> None:
        if every is not None:
            _checks.check_size("every", every)
        if minutes is not None:
            _checks.check_number("minutes", minutes)
            if minutes <= 0:
                _checks.reject("minutes", "a positive number", minutes)
        _checks.check_size("keep", keep)
        if best_mode not in ("min", "max"):
            _checks.reject("best_mode", "'min' or 'max'", _checks.describe(best_mode))
        self.directory = Path(directory).absolute()
        self.every, self.minutes, self.keep, self.best, self.best_mode = every, minutes, keep, best, best_mode

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of which there is a whole checkpoint, in order."""
        return finished_steps(self.directory)

    @property
    def best_step(self) -> int | None:
        """The step whose evaluation was the best; None if there was none."""
        return best_step(self.directory)

    def restore(self, template: TrainState, step: int | None = None) -> TrainState:
        """Load a state; with several processes, in all of them at once.

        Args:
          template: a state of the same model and optimizer, such as `init_state` makes; it says what is expected, and
            how arrays are laid out over devices, which need not be as they were when the checkpoint was saved.
          step: which checkpoint; None means the latest.

        Raises:
          CheckpointError: if there is no such checkpoint, if it is damaged, or if it is that of another model.
        """
        with self._reading() as storage:
            if not storage:
                raise CheckpointError(f"{self.directory} holds no checkpoint")
            return storage.restore(template, _existing(self.directory, storage.steps, step))

    def check_best(self, evaluation: Metrics) -> None:
        """Refuse a `best` that is none of an evaluation's figures."""
        if self.best and self.best not in evaluation:
            _checks.reject("best", f"one of the figures of evaluate, {sorted(evaluation)}", repr(self.best))

    @contextlib.contextmanager
    def writer(self) -> Iterator["Writer"]:
        """What `fit` saves with; one at a time."""
        with contextlib.ExitStack() as stack:
            first_alone(lambda: stack.enter_context(only_writer(self.directory)), CheckpointError)
            if len(set(gathered(writer_of(self.directory)))) > 1:
                raise CheckpointError(f"{self.directory} is not the same folder in all processes; they must share it")
            storage = stack.enter_context(contextlib.closing(self._storage(write=True)))
            yield Writer(self, storage)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Storage | None]:
        if not self.directory.is_dir():
            yield None
            return
        with contextlib.closing(self._storage(write=False)) as storage:
            yield storage

    def _storage(self, *, write: bool) -> Storage:
        return Storage(self.directory, keep=self.keep, write=write)


class Writer:
    """An open folder of checkpoints, of the run that is going on."""

    def __init__(self, options: Checkpoints, storage: Storage) -> None:
        self._options, self._storage = options, storage
        self._last_save = time.monotonic()
        self.log: dict[str, Any] | None = None  # what the log held at the checkpoint that the run goes on from

    def refuse_later(self, step: int) -> None:
        """A run that begins, or goes on from elsewhere, does not write over checkpoints of steps to come."""
        later = [saved for saved in self._storage.steps if saved > step]
        if later:
            raise CheckpointError(
                f"{self._options.directory} already holds a checkpoint of step {later[-1]}; "
                "resume it, or choose another directory"
            )

    def resume(self, template: TrainState, batches: Batches, first: int) -> TrainState:
        """The state of the latest checkpoint, and batches from there on; the run began at step `first`."""
        directory = self._options.directory
        step = _existing(directory, self._storage.steps, None)
        state = self._storage.restore(template, step)
        record = read_record(directory / str(step))
        self.log = record.get("log")
        batches.go_to(_own(record["data"], directory), step - first)
        return state

    def overdue(self) -> bool:
        """More minutes have gone by than there may be between saves."""
        minutes = self._options.minutes
        return minutes is not None and time.monotonic() - self._last_save >= 60 * minutes

    def due(self, step: int, evaluation: Metrics) -> bool:
        """A save comes after this step, whatever the time."""
        best, every = self._options.best, self._options.every
        return bool(best and evaluation) or (every is not None and step % every == 0)

    def save(self, state: TrainState, step: int, batches: Batches, evaluation: Metrics, log: Any) -> None:
        """Begin to save, once the save before is done; of a step that has a checkpoint, nothing."""
        if step in self._storage.steps:
            return
        self._storage.save(state, step, {"data": _positions(batches), "log": log}, self._score(evaluation))
        self._last_save = time.monotonic()

    def wait(self) -> None:
        """Return when what was saved is on disk, or raise CheckpointError if it could not be written."""
        self._storage.wait()

    def _score(self, evaluation: Metrics) -> float | None:
        """The higher the better; None where there is no finite number to go by."""
        if not self._options.best or not evaluation:
            return None
        value = float(np.mean(jax.device_get(evaluation[self._options.best])))
        sign = 1 if self._options.best_mode == "max" else -1
        return sign * value if np.isfinite(value) else None


def _existing(directory: Path, steps: tuple[int, ...], step: int | None) -> int:
    """The step asked for, or the latest, if there is a checkpoint of it."""
    if not steps:
        raise CheckpointError(f"{directory} holds no checkpoint")
    if step is not None and step not in steps:
        raise CheckpointError(f"{directory} holds no checkpoint of step {step}, only of {', '.join(map(str, steps))}")
    return steps[-1] if step is None else step


def _positions(batches: Batches) -> list[Any]:
    """Where each process is in its own part of the data."""
    return [json.loads(position) for position in gathered(json.dumps(batches.position()).encode())]


def _own(positions: list[Any], directory: Path) -> Any:
    """The position of this process; where the number of processes has changed, only counted batches have one."""
    if all(position is None for position in positions):
        return None
    if len(positions) != jax.process_count():
        raise CheckpointError(
            f"{directory} has positions in the data of {len(positions)} processes; {jax.process_count()} are running"
        )
    return positions[jax.process_index()]
