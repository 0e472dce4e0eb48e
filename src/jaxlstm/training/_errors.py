"""The errors that training raises besides ValueError and TypeError."""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

LONGEST = 200  # characters of a reason


class CheckpointError(Exception):
    """A checkpoint cannot be written or read. The message is one sentence for the user."""


class LogError(ValueError):
    """An existing log cannot be continued: it is damaged, or has other columns. The message is one sentence."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended the training. `state` is the state after the last finished step; None after a second Ctrl-C."""

    def __init__(self, message: str, *, state: Any = None) -> None:
        super().__init__(message)
        self.state = state


class Terminated(SystemExit):
    """SIGTERM ended the training, after a step and a save. If nobody catches it, the process exits with code 0.

    The exit code is 143 if nothing was saved: because `fit` had nowhere to save to, or because a second SIGTERM came.
    `state` is the state after the last finished step; None after a second SIGTERM.
    """

    def __init__(self, message: str, *, saved: bool = False, state: Any = None) -> None:
        super().__init__(0 if saved else 143)
        self.message, self.state = message, state

    def __str__(self) -> str:
        return self.message


@contextlib.contextmanager
def as_checkpoint_error(sentence: str) -> Iterator[None]:
    """Raise any error of Orbax and TensorStore, which are of many types, as a CheckpointError with a short reason."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{sentence} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """The system's message if there is one, else the start of the first line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."
