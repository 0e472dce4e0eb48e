"""What a training run reports as it goes: evaluations, rows of the log, a progress bar."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from jaxlstm.training._evaluation import Evaluation
from jaxlstm.training._log import Log, LogFile
from jaxlstm.training._loss_fn import Metrics
from jaxlstm.training._processes import is_first
from jaxlstm.training._state import TrainState


@contextlib.contextmanager
def reporting(
    evaluation: Evaluation | None,
    log: Log | None,
    *,
    progress: bool,
    step: int,
    last: int,
    written: dict[str, Any] | None,
) -> Iterator["Report"]:
    """Open the log and the bar of a run from `step` to `last`. Only the first process has them."""
    path = log.path if log and is_first() else None
    silent = not (progress and is_first())
    with (
        LogFile(path, after=step, written=written) as file,
        tqdm(total=last, initial=step, disable=silent, unit=" steps", dynamic_ncols=True) as bar,
    ):
        yield Report(evaluation, log.every if log else 1, file, bar, last)


@dataclass(frozen=True)
class Report:
    """Evaluates, logs and shows each step of a run, when due. A log's interval is that of the bar's loss, too."""

    evaluation: Evaluation | None
    log_every: int
    file: LogFile
    bar: Any  # tqdm's own type depends on what it iterates over
    last: int

    def begin(self, step: int, state: TrainState) -> Metrics:
        """Evaluate the state before the first step, and return the results, {} without an evaluation."""
        results = self.evaluation(state) if self.evaluation else {}
        if self.evaluation:
            self.file.begin(step, results)
        return results

    def add(self, step: int, state: TrainState, metrics: Metrics) -> Metrics:
        """Report a step, and return the results of its evaluation, {} if none was due."""
        self.file.set_columns(metrics)
        ends = step == self.last
        evaluate = self.evaluation if self.evaluation and (ends or self.evaluation.due(step)) else None
        results = evaluate(state) if evaluate else {}
        if evaluate or ends or step % self.log_every == 0:
            self.file.add(step, metrics, results)
            self.bar.set_postfix_str(self.file.text, refresh=False)
        self.bar.update()
        return results
