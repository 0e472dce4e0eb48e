"""One writer at a time in a folder."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxlstm.training._errors import CheckpointError

LOCK, WRITER = "lock", "writer"


@contextlib.contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    """Make the folder, and hold the lock of it while this lasts; a process that dies lets it go, however it dies.

    Raises:
      CheckpointError: if the folder takes no files, or another process holds the lock.
    """
    import filelock  # of the extra "checkpoints", which `Checkpoints` has asked for

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
    """Who holds the lock of the folder, as this process finds it."""
    path = directory / WRITER
    return path.read_bytes() if path.exists() else b""
