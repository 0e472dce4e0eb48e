"""The training loop: batches in, progress bar and log out, and an end that keeps the last finished step."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxlstm import _checks
from jaxlstm.training._log import Log
from jaxlstm.training._state import TrainState
from jaxlstm.training._step import Metrics, TrainStep


def fit(
    train_step: TrainStep,
    state: TrainState,
    batches: Iterable[Any],
    *,
    steps: int,
    evaluate: Callable[[TrainState], Metrics] | None = None,
    evaluate_every: int | None = None,
    log: str | os.PathLike[str] | None = None,
    log_every: int = 1,
    save: Callable[[TrainState], None] | None = None,
    progress: bool = True,
) -> TrainState:
    """Train for a number of steps: ``state, metrics = train_step(state, batch)``, once for each batch.

    Ctrl-C lets the running step finish, saves, and raises KeyboardInterrupt; a second one interrupts at once. (In the
    main thread, where Python delivers it. A step cut short would have given its state away and returned none.)

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
        any other goes on writing at its end.
      log_every: log, and show, every so many steps; evaluations are always logged.
      save: a function of the state, called once: after the last step, or after the last finished one when Ctrl-C or a
        shortage of batches ends the training early.
      progress: show a bar with the current loss.

    Returns:
      The state after the last step.

    Raises:
      ValueError, TypeError: if the batches run out before `steps`, or an option has no meaning.
      KeyboardInterrupt: after Ctrl-C.

    >>> import itertools, optax
    >>> from jaxlstm.training import fit, init_state, make_train_step
    >>> optimizer = optax.sgd(0.1)
    >>> train_step = make_train_step(lambda params, batch, key: ((params - batch) ** 2, {}), optimizer)
    >>> state = init_state(jnp.array(0.0), optimizer, jax.random.key(0))
    >>> state = fit(train_step, state, itertools.repeat(jnp.array(1.0)), steps=100, progress=False)
    >>> int(state.step), round(float(state.params), 3)
    (100, 1.0)
    """
    every = steps if evaluate_every is None else evaluate_every
    for name, size in (("steps", steps), ("evaluate_every", every), ("log_every", log_every)):
        _checks.check_size(name, size)
    step = first = int(np.ravel(state.step)[0])
    last = first + steps

    with (
        Log(log, resume=first > 0) as rows,
        tqdm(total=last, initial=first, disable=not progress, unit=" steps", dynamic_ncols=True) as bar,
        _interrupts() as interrupted,
    ):
        if evaluate:
            rows.begin(first, evaluate(state))
        for batch in _take(batches, steps):
            state, metrics = train_step(state, batch)
            step += 1
            due = evaluate and (step % every == 0 or step == last)
            evaluation = evaluate(state) if evaluate and due else {}
            if due or step % log_every == 0 or step == last:
                rows.add(step, metrics, evaluation)
                bar.set_postfix_str(rows.text, refresh=False)
            bar.update()
            if interrupted():
                break
        jax.block_until_ready(state)
        if save:
            save(state)
        if interrupted():
            raise KeyboardInterrupt(f"training stopped after step {step}")
    if step < last:
        _checks.reject("batches", f"{steps} of them (steps)", f"only {step - first}")
    return state


def _take(batches: Iterable[Any], count: int) -> Iterator[Any]:
    """At most `count` batches; drawing one more than needed could block, or waste it."""
    for _, batch in zip(range(count), batches, strict=False):
        yield batch


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """While this lasts, a first Ctrl-C only makes the function that it yields return True."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # Python has handlers of signals in its main thread alone
        return
    caught = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal caught
        if caught:
            raise KeyboardInterrupt
        caught = True

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: caught
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
