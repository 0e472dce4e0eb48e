"""The command ``jaxlstm``: outside the package, so that Ctrl-C leaves no traceback while JAX is being imported."""

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

    with contextlib.suppress(ImportError):  # which is told once it runs
        import jaxlstm.tasks  # noqa: F401
    signal.signal(signal.SIGINT, before)
    return run()


def _end(number: int, frame: Any) -> NoReturn:
    """At once: some of what is imported turns a KeyboardInterrupt into an ImportError, or passes over it."""
    print("jaxlstm: interrupted", file=sys.stderr, flush=True)
    os._exit(130)
