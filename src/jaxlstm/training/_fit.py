"""The training loop: take the steps, report and save them, and keep the last state whatever ends the run."""

import contextlib
import logging
import signal
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxlstm import _checks
from jaxlstm.training._checkpoints import Checkpoints, Writer
from jaxlstm.training._data import Batches
from jaxlstm.training._evaluation import Evaluation
from jaxlstm.training._guard import Watch, check_guards
from jaxlstm.training._log import Log
from jaxlstm.training._loss_fn import Metrics
from jaxlstm.training._processes import agreed, check_shared
from jaxlstm.training._report import Report, reporting
from jaxlstm.training._signals import deferred, ending
from jaxlstm.training._state import TrainState, step_of
from jaxlstm.training._step import TrainStep

_LOG = logging.getLogger(__name__)


def fit(
    train_step: TrainStep,
    state: TrainState,
    batches: Iterable[Any],
    *,
    steps: int,
    evaluation: Evaluation | None = None,
    log: Log | None = None,
    checkpoints: Checkpoints | None = None,
    save: Callable[[TrainState], None] | None = None,
    progress: bool = True,
) -> TrainState:
    """Train for a number of steps: ``state, metrics = train_step(state, batch)``, once for each batch.

    Ctrl-C and SIGTERM let the running step finish, because a step that is cut short loses the state. Then `fit` saves
    and raises KeyboardInterrupt or `Terminated`. The message says how to continue, and the error's `state` is the last
    state. The message of `Terminated` is also logged as a warning, since Python shows nothing when it exits. A second
    signal raises at once. In other threads than the main one, Python delivers no signals.

    With several processes, each calls this with its own part of the batches. Only the first writes the log and shows
    the bar. A signal to any of them stops all within ten steps, and when the batches of one end, training ends in all.

    Args:
      train_step: from `make_train_step`, or any other `TrainStep`.
      state: from `init_state`, or the result of a `fit` to continue. The first step reuses its memory.
      batches: an iterable of batches for `train_step`. Only as many as needed are drawn.
      steps: how many steps to take now.
      evaluation: what to compute from the state, and when: an `Evaluation`.
      log: which file gets the metrics, and how often: a `Log`.
      checkpoints: where and when to save state and position in the data, and whether to resume: `Checkpoints`.
      save: a function of the state, called once at the end: after the last step, or after the last finished one if a
        signal or a lack of batches ends the training early.
      progress: show a bar with the current loss.

    Returns:
      The state after the last step.

    Raises:
      ValueError, TypeError: if an argument does not fit, or there are fewer batches than `steps`.
      LogError: if the log's file is damaged, or has other columns.
      CheckpointError: if a checkpoint cannot be written, or the latest cannot be resumed from. No other is lost.
      FloatingPointError: if `skip_nonfinite` found too many gradients in a row that were not finite.
      KeyboardInterrupt, Terminated: after Ctrl-C or SIGTERM.

    >>> import itertools, optax
    >>> from jaxlstm.training import fit, init_state, make_train_step
    >>> optimizer = optax.sgd(0.1)
    >>> train_step = make_train_step(lambda params, batch, key: ((params - batch) ** 2, {}), optimizer)
    >>> state = init_state(jnp.array(0.0), optimizer, jax.random.key(0))
    >>> state = fit(train_step, state, itertools.repeat(jnp.array(1.0)), steps=100, progress=False)
    >>> int(state.step), round(float(state.params), 3)
    (100, 1.0)
    """
    _check_options(steps, evaluation, log, checkpoints, save)
    source, first = Batches(batches), step_of(state)
    last = first + steps
    with checkpoints.writer() if checkpoints else contextlib.nullcontext() as writer, deferred() as caught:
        state = writer.begin(state, source) if writer else state
        step = step_of(state)
        if step > last:
            _checks.reject("steps", f"at least {step - first}, which the checkpoint already has", steps)
        with reporting(
            evaluation, log, progress=progress, step=step, last=last, written=writer and writer.log
        ) as report:
            state, results, stop = _take_steps(train_step, state, source, last - step, report, writer, caught)
        if writer:
            writer.save(state, step_of(state), source, results, report.file.written)
            writer.wait()
        if save:
            save(state)
        if stop := stop or agreed(0, caught(), False)[0]:  # or one that came during the save
            raise _stopped(stop, state, checkpoints, saved=bool(checkpoints or save))
    taken = step_of(state) - first
    if taken < steps:
        _checks.reject("batches", f"{steps} of them (steps)", f"only {taken}")
    return state


def _take_steps(
    train_step: TrainStep,
    state: TrainState,
    source: Batches,
    count: int,
    report: Report,
    writer: Writer | None,
    caught: Callable[[], int | None],
) -> tuple[TrainState, Metrics, int | None]:
    """Take `count` steps, or fewer. Returns the state, the results of its evaluation, and the signal that came."""
    step, results, stop, watch = step_of(state), {}, None, Watch()
    before = report.begin(step, state)
    if writer:
        writer.check_best(before)
    for batch in source.take(count):
        state, metrics = train_step(state, batch)
        check_shared(state.params)
        step += 1
        results = report.add(step, state, metrics)
        watch.look(metrics, state.opt_state, step)
        stop, overdue = agreed(step, caught(), writer is not None and writer.overdue())
        if writer and (overdue or writer.due(step, results)):
            report.file.flush()
            check_guards(state.opt_state, step)  # resumed from this state, a run that is to stop would stop again
            writer.save(state, step, source, results, report.file.written)
        if stop:
            break
    jax.block_until_ready(state)
    check_guards(state.opt_state, step)
    return state, results, stop


def _check_options(steps: object, evaluation: Any, log: Any, checkpoints: Any, save: object) -> None:
    _checks.check_size("steps", steps)
    for name, group, kind, usage in (
        ("evaluation", evaluation, Evaluation, "Evaluation(fn, every=...)"),
        ("log", log, Log, "Log(path, every=...)"),
        ("checkpoints", checkpoints, Checkpoints, "Checkpoints(directory, every=...)"),
    ):
        if group is not None and not isinstance(group, kind):
            _checks.reject(name, f"{usage} of jaxlstm.training, or None", _checks.describe(group), TypeError)
    if save is not None:
        _checks.check_callable("save", save)
    if checkpoints and checkpoints.best and evaluation is None:
        _checks.reject("evaluation", f"an Evaluation, since checkpoints has best={checkpoints.best!r}", None)


def _stopped(number: int, state: TrainState, checkpoints: Checkpoints | None, *, saved: bool) -> BaseException:
    """The error that a signal ends the run with. It says how to continue."""
    if checkpoints:
        how = f"; Checkpoints(..., resume=True) continues from its checkpoint in {checkpoints.directory}"
    else:
        how = "" if saved else "; nothing was saved, and this error's `state` is the last"
    sentence = f"training stopped after step {step_of(state)}{how}"
    if number == signal.SIGTERM:  # unlike KeyboardInterrupt, SystemExit does not show its message
        _LOG.warning(sentence)
    return ending(number, sentence, saved=saved, state=state)
