"""The training loop: batches in, progress bar and log out, and an end that keeps the last finished step."""

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxlstm import _checks
from jaxlstm.training._checkpoints import Checkpoints, Writer
from jaxlstm.training._data import Batches
from jaxlstm.training._guard import Watch, check_guards
from jaxlstm.training._processes import agreed, check_shared
from jaxlstm.training._report import Evaluate, Report
from jaxlstm.training._signals import deferred, ending
from jaxlstm.training._state import TrainState
from jaxlstm.training._step import TrainStep

_LOG = logging.getLogger(__name__)


def fit(
    train_step: TrainStep,
    state: TrainState,
    batches: Iterable[Any],
    *,
    steps: int,
    evaluate: Evaluate | None = None,
    evaluate_every: int | None = None,
    log: str | os.PathLike[str] | None = None,
    log_every: int = 1,
    save: Callable[[TrainState], None] | None = None,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TrainState:
    """Train for a number of steps: ``state, metrics = train_step(state, batch)``, once for each batch.

    Ctrl-C and SIGTERM let the running step finish, save, and raise KeyboardInterrupt or `Terminated`, which say how to
    go on and have the last state as `state`; a second one ends it at once. (In the main thread, where Python delivers
    them. A step cut short would have given its state away and returned none.) What Terminated says is logged as a
    warning too, and so seen on stderr: an exit shows nothing. Of several processes, each calls this with its own part
    of the batches; the first alone writes the log and shows the bar, what any is sent stops them all, within ten steps,
    and where batches end in one they end in all.

    Args:
      train_step: what `make_train_step` made, or anything like it.
      state: from `init_state`; its memory is given to the first step. One with steps behind it goes on from there.
      batches: an iterable of what the step takes as its batch; only as many as needed are drawn.
      steps: how many steps to take now.
      evaluate: a function of the state to a dict of numbers or arrays, called before the first step, whenever
        ``state.step`` is a multiple of `evaluate_every`, and after the last step.
      evaluate_every: in steps; None means at the two ends only.
      log: a CSV file with the columns "step", the step's metrics, and what `evaluate` returns, empty where it was not
        called. What has the shape [S] gets S columns, "name.0" to "name.S-1". A state at step 0 begins the file anew;
        any other goes on below the row of its step.
      log_every: log, and show, every so many steps; evaluations are always logged.
      save: a function of the state, called once: after the last step, or after the last finished one when a signal or
        a shortage of batches ends the training early.
      checkpoints: where and when to save the whole state and the position in the data; at the end in any case.
      resume: go on from the latest checkpoint, bit for bit as if the run had never ended. All other arguments are those
        of the run that it goes on with, a fresh state and fresh batches included; `steps` counts from that state. An
        iterator with get_state and set_state, as Grain's, is set to where it was; of any other iterable as many batches
        are drawn and dropped as there were steps. Rows of the log after the checkpoint's step are cut.
      progress: show a bar with the current loss.

    Returns:
      The state after the last step.

    Raises:
      ValueError, TypeError: if the batches run out before `steps`, or an option has no meaning.
      LogError: if the log's file is damaged, or has other columns.
      CheckpointError: if a checkpoint cannot be written, or there is none that fits to resume from; those there stay.
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
    _check_options(steps, evaluate, evaluate_every, log_every, checkpoints, resume)
    source = Batches(batches)
    first = _step(state)
    last = first + steps

    with checkpoints.writer() if checkpoints else contextlib.nullcontext() as writer, deferred() as caught:
        state = _begin(writer, resume, state, source, steps)
        step = _step(state)
        evaluation, stop, watch = {}, None, Watch()
        with Report(
            evaluate=evaluate,
            evaluate_every=evaluate_every,
            log=log,
            log_every=log_every,
            progress=progress,
            written=writer.log if writer else None,
            step=step,
            last=last,
        ) as report:
            before = report.begin(state)
            if checkpoints:
                checkpoints.check_best(before)
            for batch in source.take(last - step):
                state, metrics = train_step(state, batch)
                check_shared(state.params)
                step += 1
                evaluation = report.add(step, state, metrics)
                watch.look(metrics, state.opt_state, step)
                stop, overdue = agreed(step, caught(), writer is not None and writer.overdue())
                if writer and (overdue or writer.due(step, evaluation)):
                    report.flush()
                    check_guards(state.opt_state, step)  # a run that is to stop would stop again wherever it resumes
                    writer.save(state, step, source, evaluation, report.written)
                if stop:
                    break
            jax.block_until_ready(state)
            check_guards(state.opt_state, step)
        if writer:
            writer.save(state, step, source, evaluation, report.written)
            writer.wait()
        if save:
            save(state)
        stop = stop or agreed(0, caught(), False)[0]  # while it was saved
        if stop:
            raise _stopped(stop, state, checkpoints, saved=bool(checkpoints or save))
    if step < last:
        _checks.reject("batches", f"{steps} of them (steps)", f"only {step - first}")
    return state


def _check_options(
    steps: object,
    evaluate: object,
    evaluate_every: object,
    log_every: object,
    checkpoints: Checkpoints | None,
    resume: bool,
) -> None:
    every = 1 if evaluate_every is None else evaluate_every
    for name, size in (("steps", steps), ("evaluate_every", every), ("log_every", log_every)):
        _checks.check_size(name, size)
    if resume and checkpoints is None:
        _checks.reject("checkpoints", "the Checkpoints to resume from", None)
    if checkpoints and checkpoints.best and evaluate is None:
        _checks.reject("evaluate", f"a function, since the checkpoints ask for the best {checkpoints.best!r}", None)


def _step(state: TrainState) -> int:
    return int(np.ravel(state.step)[0])


def _begin(writer: Writer | None, resume: bool, state: TrainState, source: Batches, steps: int) -> TrainState:
    """The state to go on from: that of the latest checkpoint if the run resumes, else the one given."""
    if writer is None:
        return state
    first = _step(state)
    if not resume:
        writer.refuse_later(first)
        return state
    state = writer.resume(state, source, first)
    if _step(state) > first + steps:
        _checks.reject("steps", f"at least the {_step(state) - first} that the checkpoint has behind it", steps)
    return state


def _stopped(number: int, state: TrainState, checkpoints: Checkpoints | None, *, saved: bool) -> BaseException:
    """What a signal ends the run with; it says how to go on."""
    if checkpoints:
        how = f"; resume=True goes on from its checkpoint in {checkpoints.directory}"
    else:
        how = "" if saved else "; nothing was saved, and this error's `state` is the last"
    sentence = f"training stopped after step {_step(state)}{how}"
    if number == signal.SIGTERM:  # which leads to an exit without a word, where Ctrl-C shows its message
        _LOG.warning(sentence)
    return ending(number, sentence, saved=saved, state=state)
