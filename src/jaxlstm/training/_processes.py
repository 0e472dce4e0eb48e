"""Several processes that train one model, and what they must agree on."""

import signal
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxlstm import _checks

AGREE_EVERY = 10  # steps, since agreeing waits for the devices and for every process


def connect(*, num_processes: int, process_id: int, coordinator: str) -> None:
    """Make this process one of several that train one model. Call this before anything else that uses JAX.

    The handler of SIGTERM stays as it was. JAX would install one that only takes note of the signal, so a process
    that is not in `fit` yet could not be ended.

    Args:
      num_processes: how many there are.
      process_id: which of them this is, counted from 0.
      coordinator: HOST:PORT where process 0 listens, the same for all.

    Raises:
      RuntimeError: from JAX, if it cannot reach the others.
    """
    jax.distributed.initialize(coordinator, num_processes, process_id)
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)


def check_shared(params: Any) -> None:
    """Refuse several processes that each train a model of their own without noticing."""
    if jax.process_count() > 1 and all(leaf.is_fully_addressable for leaf in jax.tree.leaves(params)):
        _checks.reject("train_step", "a mesh of the devices of all processes (mesh=)", "devices of this process alone")


def is_first() -> bool:
    """Whether this is the process that writes logs."""
    return jax.process_index() == 0


def agreed(step: int, stop: int | None, overdue: bool) -> tuple[int | None, bool]:
    """The signal that any process received, and whether a save is overdue for the first.

    Several processes exchange this every few steps only, and so act at the same step.
    """
    if jax.process_count() == 1:
        return stop, overdue
    if step % AGREE_EVERY:
        return None, False
    everyone = multihost_utils.process_allgather(np.array([stop or 0, overdue], np.int32))
    return int(everyone[:, 0].max()) or None, bool(everyone[0, 1])


def first_alone(action: Callable[[], object], error: type[Exception]) -> None:
    """Let the first process do something while the others wait, such as make a directory for all.

    Args:
      action: a function without arguments.
      error: an exception of one message that the action may raise. All processes then raise it.

    >>> from jaxlstm.training import first_alone
    >>> first_alone(lambda: print("once"), OSError)
    once
    """
    failed = None
    if is_first():
        try:
            action()
        except error as raised:
            failed = raised
    sentence = gathered(str(failed or "").encode())[0].decode()
    if failed:
        raise failed
    if sentence:
        raise error(sentence)


def gathered(value: bytes) -> list[bytes]:
    """The values of all processes, in order."""
    if jax.process_count() == 1:
        return [value]
    sizes = multihost_utils.process_allgather(np.array([len(value)], np.int32)).ravel()
    padded = np.frombuffer(value.ljust(int(sizes.max()), b" "), np.uint8)
    everyone = multihost_utils.process_allgather(padded)
    return [row.tobytes()[:size] for row, size in zip(everyone, sizes, strict=True)]


def largest(number: int) -> int:
    """The largest number of any process."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.array([number], np.int32)).max())
