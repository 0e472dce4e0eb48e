"""A lock on a folder: one writer at a time."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxlstm.training._errors import CheckpointError

LOCK, WRITER = "lock", "writer"


@contextlib.contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    """Make the folder and hold its lock. The system releases the lock of a process that dies.

    Raises:
      CheckpointError: if the folder cannot be written to, or another process holds the lock.
    """
    import filelock  # of the extra "checkpoints"

    lock = filelock.FileLock(directory / LOCK, timeout=0)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        (directory / WRITER).write_text(f"{os.getpid()} on {socket.gethostname()}\n")
    except filelock.Timeout as error:
        writer = writer_of(directory).decode(errors="replace").strip()
        raise CheckpointError(f"{directory} is being written to by another run, process {writer}") from error
    except OSError as error:
        lock.release()
        raise CheckpointError(f"{directory} cannot be written to: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def writer_of(directory: Path) -> bytes:
    """Which process holds the lock, as far as this one can see."""
    path = directory / WRITER
    return path.read_bytes() if path.exists() else b""
