"""What training raises beside ValueError and TypeError."""

from typing import Any


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message is a sentence for the user."""


class Terminated(SystemExit):
    """Training was ended by SIGTERM, after a step and a save. Left alone, it ends the process with exit code 0.

    Where nothing was saved the exit code is 143: there was nowhere to, or it was a second SIGTERM, which did not wait.
    `state` is the state after the last finished step; None after a second SIGTERM.
    """

    def __init__(self, message: str, *, saved: bool = False, state: Any = None) -> None:
        super().__init__(0 if saved else 143)
        self.message, self.state = message, state

    def __str__(self) -> str:
        return self.message


class Interrupted(KeyboardInterrupt):
    """Training was ended by Ctrl-C. `state` is the state after the last finished step; None after a second Ctrl-C."""

    def __init__(self, message: str, *, state: Any = None) -> None:
        super().__init__(message)
        self.state = state


class LogError(ValueError):
    """The file of a log cannot be gone on with: it is damaged, or has other columns; the message is a sentence."""
