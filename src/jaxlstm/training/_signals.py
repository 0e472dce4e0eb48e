"""Ctrl-C and SIGTERM: finish the step first."""

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
    """While this lasts, a first Ctrl-C or SIGTERM only shows in what is yielded, a function; a second ends the wait.

    In the main thread alone, where Python delivers signals.
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

    heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heeded}
    acted = False
    try:
        yield lambda: caught
    except (Interrupted, Terminated):
        acted = True
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if caught is not None and not acted:  # it came too late, or something else ended this
            signal.raise_signal(caught)


def ending(number: int, message: str, *, saved: bool = False, state: Any = None) -> BaseException:
    """What a signal ends a run with."""
    if number == signal.SIGTERM:
        return Terminated(message, saved=saved, state=state)
    return Interrupted(message, state=state)
