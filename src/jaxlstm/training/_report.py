"""What a run tells of itself as it goes: evaluations, the rows of its log, a bar."""

import contextlib
import os
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from jaxlstm import _checks
from jaxlstm.training._log import Log
from jaxlstm.training._processes import is_first
from jaxlstm.training._state import TrainState
from jaxlstm.training._step import Metrics

Evaluate = Callable[[TrainState], Metrics]


class Report:
    """Evaluations when they are due, a log and a bar, of which the first process alone has any.

    Args:
      evaluate: as in `fit`.
      evaluate_every: as in `fit`.
      log: as in `fit`.
      log_every: as in `fit`.
      progress: as in `fit`.
      written: as in `Log`.
      step: that of the state which the run goes on from.
      last: that of the state which it is to end with.
    """

    def __init__(
        self,
        *,
        evaluate: Evaluate | None,
        evaluate_every: int | None,
        log: str | os.PathLike[str] | None,
        log_every: int,
        progress: bool,
        written: dict[str, Any] | None,
        step: int,
        last: int,
    ) -> None:
        self._evaluate, self._evaluate_every, self._log_every = evaluate, evaluate_every, log_every
        self._first, self._last = step, last
        self._log = Log(log if is_first() else None, after=step, written=written)
        self._silent = not (progress and is_first())
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "Report":
        self._open.enter_context(self._log)
        self._bar = self._open.enter_context(
            tqdm(total=self._last, initial=self._first, disable=self._silent, unit=" steps", dynamic_ncols=True)
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @property
    def written(self) -> dict[str, Any] | None:
        """What the log's file holds by now, for a checkpoint."""
        return self._log.written

    def begin(self, state: TrainState) -> Metrics:
        """Evaluate the state before the first step."""
        if self._evaluate is None:
            return {}
        evaluation = self._evaluated(state)
        self._log.begin(self._first, evaluation)
        return evaluation

    def add(self, step: int, state: TrainState, metrics: Metrics) -> Metrics:
        """A step was taken: what its evaluation gave, nothing where none was due."""
        self._log.know(metrics)
        every, ends = self._evaluate_every, step == self._last
        due = self._evaluate is not None and (ends or (every is not None and step % every == 0))
        evaluation = self._evaluated(state) if due else {}
        if due or ends or step % self._log_every == 0:
            self._log.add(step, metrics, evaluation)
            self._bar.set_postfix_str(self._log.text, refresh=False)
        self._bar.update()
        return evaluation

    def _evaluated(self, state: TrainState) -> Metrics:
        found: Any = self._evaluate(state) if self._evaluate else {}
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            _checks.reject("evaluate", "to return a dict with str keys", _checks.describe(found), TypeError)
        return found

    def flush(self) -> None:
        """Write the rows that wait."""
        self._log.flush()
