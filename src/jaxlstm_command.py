"""The command ``jaxlstm``. It is outside the package so that Ctrl-C shows no traceback while JAX is imported."""

import contextlib
import os
import signal
import sys
from typing import Any, NoReturn


def main() -> int:
    """Run the command line of `jaxlstm.__main__`."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from jaxlstm.__main__ import main as run

    with contextlib.suppress(ImportError):  # run() reports it
        import jaxlstm.tasks  # noqa: F401
    signal.signal(signal.SIGINT, before)
    return run()


def _end(number: int, frame: Any) -> NoReturn:
    """Exit at once: some of the imported packages turn a KeyboardInterrupt into an ImportError, or ignore it."""
    print("jaxlstm: interrupted", file=sys.stderr, flush=True)
    os._exit(130)
