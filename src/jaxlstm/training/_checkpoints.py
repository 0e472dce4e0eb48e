"""Checkpoints of a run: when to save them, which to keep, and how a later run continues from one."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxlstm import _checks
from jaxlstm.training._data import Batches
from jaxlstm.training._errors import CheckpointError
from jaxlstm.training._lock import only_writer, writer_of
from jaxlstm.training._loss_fn import Metrics
from jaxlstm.training._processes import first_alone, gathered
from jaxlstm.training._record import read_record
from jaxlstm.training._state import TrainState, step_of
from jaxlstm.training._storage import Storage, best_step, finished_steps


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run, in a folder of their own. `fit` saves them, and resumes from the latest.

    Each holds the whole `TrainState` and the position in the data. It is written while training goes on, and appears in
    the folder only when it is complete. So whatever ends a run, even SIGKILL during a save, the last complete one
    stays. Needs Orbax: ``pip install 'jaxlstm[checkpoints]'``.

    Args:
      directory: the folder, which `fit` makes. Several processes share it, on several machines too.
      every: save after each step whose number is a multiple of this. `fit` also saves at its end, in any case.
      minutes: save when so many minutes have passed since the last save.
      keep: how many of the latest checkpoints to keep.
      best: the name of a result of the `Evaluation`. Then `fit` saves after every evaluation, and the checkpoint with
        the best value (the mean, if it is an array) is kept in addition to the latest.
      best_mode: "min" or "max": which values are better.
      resume: continue from the latest checkpoint, bit for bit as if the run had never ended. Give `fit` the arguments
        of that run again, with a fresh state and fresh batches; its `steps` count from that state. An iterator with
        get_state and set_state, such as Grain's, is set to where it was. From any other, as many batches as steps were
        taken are drawn and dropped. The log loses its rows of steps after the checkpoint.

    Raises:
      ValueError, TypeError: if an argument does not fit.

    >>> import dataclasses, itertools, optax, tempfile
    >>> from jaxlstm.training import Checkpoints, fit, init_state, make_train_step
    >>> optimizer = optax.sgd(0.1)
    >>> train_step = make_train_step(lambda params, batch, key: ((params - batch) ** 2, {}), optimizer)
    >>> def train(steps, checkpoints):
    ...     state = init_state(jnp.array(0.0), optimizer, jax.random.key(0))
    ...     batches = itertools.repeat(jnp.array(1.0))
    ...     return fit(train_step, state, batches, steps=steps, checkpoints=checkpoints, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoints = Checkpoints(folder, every=10)
    ...     state = train(30, checkpoints)
    ...     state = train(40, dataclasses.replace(checkpoints, resume=True))  # usually in another process
    ...     checkpoints.steps
    (20, 30, 40)
    """

    directory: str | os.PathLike[str]
    _: KW_ONLY
    every: int | None = None
    minutes: int | float | None = None
    keep: int = 3
    best: str | None = None
    best_mode: str = "min"
    resume: bool = False

    def __post_init__(self) -> None:
        _checks.check_path("directory", self.directory)
        object.__setattr__(self, "directory", self._path.absolute())  # whatever directory the process changes to
        if self.every is not None:
            _checks.check_size("every", self.every)
        if self.minutes is not None and _checks.check_number("minutes", self.minutes) <= 0:
            _checks.reject("minutes", "a positive number", self.minutes)
        _checks.check_size("keep", self.keep)
        if self.best_mode not in ("min", "max"):
            _checks.reject("best_mode", "'min' or 'max'", _checks.describe(self.best_mode))
        _checks.check_flag("resume", self.resume)

    @property
    def _path(self) -> Path:
        return Path(self.directory)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that have a complete checkpoint, in order."""
        return finished_steps(self._path)

    @property
    def best_step(self) -> int | None:
        """The step with the best evaluation, None without one."""
        return best_step(self._path)

    def restore(self, template: TrainState, step: int | None = None) -> TrainState:
        """Load a state. With several processes, all of them call this.

        Args:
          template: a state of the same model and optimizer, from `init_state` for example. The result has its shapes,
            dtypes and layout over devices. The layout may differ from that of the state that was saved.
          step: which checkpoint; None for the latest.

        Raises:
          CheckpointError: if there is no such checkpoint, or it is damaged or of another model.
        """
        if not self._path.is_dir():
            raise CheckpointError(f"{self.directory} holds no checkpoint")
        with contextlib.closing(Storage(self._path)) as storage:
            return storage.restore(template, _existing(self._path, storage.steps, step))

    @contextlib.contextmanager
    def writer(self) -> Iterator["Writer"]:
        """Lock and open the folder for the saves of one `fit`."""
        with contextlib.ExitStack() as stack:
            first_alone(lambda: stack.enter_context(only_writer(self._path)), CheckpointError)
            if len(set(gathered(writer_of(self._path)))) > 1:
                raise CheckpointError(f"{self.directory} is not the same folder in all processes; they must share it")
            storage = stack.enter_context(contextlib.closing(Storage(self._path, keep=self.keep, write=True)))
            yield Writer(self, storage)


class Writer:
    """The folder of checkpoints of the current run, locked and open."""

    def __init__(self, options: Checkpoints, storage: Storage) -> None:
        self._options, self._storage = options, storage
        self._last_save = time.monotonic()
        self.log: dict[str, Any] | None = None  # size and checksum of the log at the checkpoint that is resumed

    def begin(self, state: TrainState, batches: Batches) -> TrainState:
        """The state to start from, with the batches set to it: the given one, or the latest checkpoint's."""
        directory, saved, first = self._storage.directory, self._storage.steps, step_of(state)
        if self._options.resume:
            step = _existing(directory, saved, None)
            state = self._storage.restore(state, step)
            record = read_record(directory / str(step))
            self.log = record.get("log")
            batches.go_to(_own(record["data"], directory), step - first)
        elif saved and saved[-1] > first:
            raise CheckpointError(
                f"{directory} already holds a checkpoint of step {saved[-1]}; "
                "resume from it, or choose another directory"
            )
        return state

    def check_best(self, results: Metrics) -> None:
        """Raise an error unless the metric that `best` names is among the results of an evaluation."""
        best = self._options.best
        if best and best not in results:
            _checks.reject("best", f"the name of one of the evaluation's results, {sorted(results)}", repr(best))

    def overdue(self) -> bool:
        """Whether `minutes` have passed since the last save."""
        minutes = self._options.minutes
        return minutes is not None and time.monotonic() - self._last_save >= 60 * minutes

    def due(self, step: int, results: Metrics) -> bool:
        """Whether to save after this step, by its number and the results of its evaluation."""
        best, every = self._options.best, self._options.every
        return bool(best and results) or (every is not None and step % every == 0)

    def save(self, state: TrainState, step: int, batches: Batches, results: Metrics, log: Any) -> None:
        """Wait for the save before, then start this one. A step that has a checkpoint is not saved again."""
        if step in self._storage.steps:
            return
        self._storage.save(state, step, {"data": _positions(batches), "log": log}, self._score(results))
        self._last_save = time.monotonic()

    def wait(self) -> None:
        """Wait until all saves are on disk. Raises CheckpointError if one failed."""
        self._storage.wait()

    def _score(self, results: Metrics) -> float | None:
        """The value of `best`, such that higher is better; None if there is none, or it is not finite."""
        if not self._options.best or not results:
            return None
        self.check_best(results)
        value = float(np.mean(jax.device_get(results[self._options.best])))
        sign = 1 if self._options.best_mode == "max" else -1
        return sign * value if np.isfinite(value) else None


def _existing(directory: Path, steps: tuple[int, ...], step: int | None) -> int:
    """The given step, or the latest; CheckpointError if it has no checkpoint."""
    if not steps:
        raise CheckpointError(f"{directory} holds no checkpoint")
    if step is not None and step not in steps:
        raise CheckpointError(f"{directory} holds no checkpoint of step {step}, only of {', '.join(map(str, steps))}")
    return steps[-1] if step is None else step


def _positions(batches: Batches) -> list[Any]:
    """The position of each process in its own part of the data."""
    return [json.loads(position) for position in gathered(json.dumps(batches.position()).encode())]


def _own(positions: list[Any], directory: Path) -> Any:
    """The position of this process. If the number of processes has changed, only counted batches have one."""
    if all(position is None for position in positions):
        return None
    if len(positions) != jax.process_count():
        raise CheckpointError(
            f"{directory} has positions in the data of {len(positions)} processes; {jax.process_count()} are running"
        )
    return positions[jax.process_index()]
