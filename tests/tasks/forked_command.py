"""A program that runs command lines of jaxlstm, each in a fork of itself, so that the libraries are loaded but once.

Each line of its input is a JSON object:

    arguments: the command line.
    signal, after: send this signal so many seconds after the start, if the command still runs.
    limit: no file may have more bytes, as on a disk that is full.
    unread: whether stdout is a pipe that nobody reads.

The answer is a line: the exit code, or minus the number of the signal that ended it; stdout; stderr; seconds.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback

import filelock  # noqa: F401  (these are loaded before the fork)
import matplotlib.figure  # noqa: F401
import orbax.checkpoint  # noqa: F401
import safetensors.numpy  # noqa: F401

import jaxlstm.tasks  # noqa: F401
from jaxlstm.__main__ import main


def run(arguments, limit):
    """In the fork: run the command line and exit, as Python itself would."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # some shells and test runners ignore it
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def answer(arguments, signal=None, after=0.0, limit=None, unread=False):
    """What came of one command line."""
    began = time.perf_counter()
    pipes = os.pipe(), os.pipe()
    process = os.fork()
    if not process:
        for descriptor, (reader, writer) in enumerate(pipes, start=1):
            os.dup2(writer, descriptor)
            os.close(reader)
            os.close(writer)
        run(arguments, limit)
    said = ["", ""]
    for _, writer in pipes:
        os.close(writer)
    threads = [threading.Thread(target=read, args=(pipes[which][0], said, which)) for which in (0, 1)]
    if unread:
        os.close(pipes[0][0])
        del threads[0]
    if signal is not None:
        threads.append(threading.Timer(after, os.kill, (process, signal)))
    for thread in threads:
        thread.start()
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)  # it stays a zombie, so that its number is not given away
    for thread in threads:
        if isinstance(thread, threading.Timer):
            thread.cancel()
        thread.join()
    status = os.waitpid(process, 0)[1]
    return os.waitstatus_to_exitcode(status), *said, time.perf_counter() - began


def read(reader, said, which):
    """All that comes out of a pipe."""
    with open(reader, errors="replace") as pipe:
        said[which] = pipe.read()


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)
