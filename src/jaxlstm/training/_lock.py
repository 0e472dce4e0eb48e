"""One writer at a time in a folder."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from jaxlstm.training._errors import CheckpointError

NAME = "lock"
_held: set[TextIO] = set()


def _let_go() -> None:
    """In a process that was forked, such as a loader of data: the lock is not its to keep alive."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    """Make the folder, and hold the lock of it while this lasts; a process that dies lets it go, however it dies.

    Raises:
      CheckpointError: if the folder takes no files, or another process holds the lock.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / NAME).open("a+")
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be written to: {error.strerror}") from error
    with file:
        try:
            acquired = _acquire(file.fileno())
        except OSError as error:
            raise CheckpointError(f"{directory} cannot be locked: {error.strerror}") from error
        if not acquired:
            file.seek(0)
            raise CheckpointError(f"{directory} is being written to by another run, process {file.read().strip()}")
        try:
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{os.getpid()} on {socket.gethostname()}\n".encode())  # not to fail at close again
        except OSError as error:
            raise CheckpointError(f"{directory} cannot be written to: {error.strerror}") from error
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)


def writer_of(directory: Path) -> bytes:
    """Who holds the lock of the folder, as this process finds it."""
    path = directory / NAME
    return path.read_bytes() if path.exists() else b""


if sys.platform == "win32":
    import msvcrt

    def _acquire(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _acquire(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
