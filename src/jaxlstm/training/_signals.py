"""Ctrl-C and SIGTERM, deferred until the running step is finished."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from jaxlstm.training._errors import Interrupted, Terminated

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int | None]]:
    """Defer Ctrl-C and SIGTERM. Yields a function that returns the signal received, if any.

    A second signal is raised at once. In other threads than the main one, where Python delivers no signals, nothing is
    deferred.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    caught: int | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal caught
        if caught is not None:
            raise ending(number, "")
        caught = number

    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in handled}
    acted = False
    try:
        yield lambda: caught
    except (Interrupted, Terminated):
        acted = True
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if caught is not None and not acted:  # nobody acted on it: it came too late, or an error came first
            signal.raise_signal(caught)


def ending(number: int, message: str, *, saved: bool = False, state: Any = None) -> BaseException:
    """The error that a signal ends a run with."""
    if number == signal.SIGTERM:
        return Terminated(message, saved=saved, state=state)
    return Interrupted(message, state=state)
