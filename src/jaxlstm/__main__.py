"""The command line: ``jaxlstm train [TASK] --out DIR``, ``jaxlstm evaluate DIR`` and ``jaxlstm sample DIR``."""

import collections
import contextlib
import itertools
import logging
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from jaxlstm._arguments import DEFAULT_TASK, MistakeError, flag, parser

if TYPE_CHECKING:
    from jaxlstm.tasks import Recipe, Task

MISTAKE, INTERRUPTED, PIPE_CLOSED = 2, 130, 141  # exit codes
LONGEST = 1000  # characters of a message


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code. Every failure is one line on stderr.

    2 is a mistake or a failure, 130 Ctrl-C. After SIGTERM, which schedulers send, the run is saved and the code is 0.
    If the reader of stdout is gone, as behind ``| head``, the code is 141 and nothing is printed.
    """
    logging.getLogger("jaxlstm").setLevel(logging.ERROR)  # fit's warnings are printed here, in one line
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable
    try:
        try:
            return _run(arguments)
        finally:
            _write("")
    except MistakeError as error:
        return _say(error, MISTAKE)
    except BrokenPipeError:
        return PIPE_CLOSED
    except OSError as error:
        return _say(f"{error.filename or 'the system'}: {error.strerror or error}", MISTAKE)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            return _say("there is not enough memory for this", MISTAKE)
        raise
    except KeyboardInterrupt as error:
        return _say(str(error) or "interrupted", INTERRUPTED)
    except _TerminatedError as error:
        return _say(error, 0)


def _write(text: str) -> None:
    """Print and flush. After an error stdout goes to /dev/null, since Python would try to flush it again at exit."""
    try:
        print(text, end="", flush=True)
    except UnicodeEncodeError as error:
        found = ascii(error.object[error.start])
        raise MistakeError(f"the output's encoding, {error.encoding}, has no character {found}") from error
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise MistakeError(f"the output cannot be written ({error.strerror})") from error


def _unraisable(error: Any) -> None:
    """Errors that Python would print and ignore.

    Ctrl-C, which can come within a callback of JAX's, is raised once more. What TensorStore's threads print of other
    writes after one has failed is dropped, since that one is reported.
    """
    if error.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    elif str(error.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(error)


class _TerminatedError(Exception):
    """SIGTERM ended a run, which was saved. The message is one sentence."""


def _run(arguments: Sequence[str] | None) -> int:
    try:
        from jaxlstm import tasks
    except ImportError as error:
        raise MistakeError(
            f"the command line needs the extra 'tasks': pip install 'jaxlstm[tasks]' ({error})"
        ) from error
    options = vars(parser(tasks).parse_args(arguments))
    try:
        match options.pop("command"):
            case "evaluate":
                _write(f"{tasks.evaluate(options['directory'])}\n")
            case "sample":
                _sample(tasks, **options)
            case _:
                _train(tasks, **options)
    except (tasks.RunError, ImportError) as error:
        raise MistakeError(error) from error
    return 0


def _train(
    tasks: Any,
    task: str | None,
    out: Path,
    resume: bool,
    num_processes: int,
    process_id: int,
    coordinator: str | None,
    **options: Any,
) -> None:
    began = time.perf_counter()
    _connect(num_processes, process_id, coordinator)
    given = {name: value for name, value in options.items() if value is not None}
    if resume and given:
        raise MistakeError(f"{flag(next(iter(given)))}: a resumed run keeps its own options")
    if resume and task and task != (found := tasks.recipe_of(out).task):
        raise MistakeError(f"TASK: {out} holds a run of {found}, got {task}")
    progress = sys.stderr.isatty()
    try:
        if resume:
            report = tasks.resume(out, progress=progress)
        else:
            report = tasks.train(_recipe(tasks.TASKS[task or DEFAULT_TASK], given), out, progress=progress)
    except (KeyboardInterrupt, tasks.Terminated) as error:
        if not str(error):  # before the first step, or a second signal
            raise
        stopped = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else _TerminatedError
        sentence = str(error).partition(";")[0]
        how = f"jaxlstm train --out {shlex.quote(str(out))} --resume"
        if num_processes > 1:
            several = f"--num-processes {num_processes} --coordinator {shlex.quote(str(coordinator))}"
            how += f" {several} --process-id {process_id}"
        raise stopped(f"{sentence}; to continue: {how}") from error
    if process_id == 0:
        seconds = time.perf_counter() - began
        _write(f"{report}\nweights, metrics and pictures are in {out} (after {seconds:.0f} s)\n")


def _connect(num_processes: int, process_id: int, coordinator: str | None) -> None:
    """Connect this process to the others that share the run."""
    from jaxlstm.training import connect

    if num_processes < 1:
        raise MistakeError(f"--num-processes: expected a positive number, got {num_processes}")
    if not 0 <= process_id < num_processes:
        raise MistakeError(f"--process-id: expected a number in 0..{num_processes - 1}, got {process_id}")
    if (coordinator is None) != (num_processes == 1):
        got = f"{coordinator} and --num-processes {num_processes}"
        raise MistakeError(f"--coordinator: expected HOST:PORT of process 0 for several processes alone, got {got}")
    if coordinator is None:
        return
    try:
        connect(num_processes=num_processes, process_id=process_id, coordinator=coordinator)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MistakeError(f"--coordinator: {coordinator} could not be reached ({reason})") from error
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) != 1:
        got = [counts[process] for process in range(num_processes)]
        raise MistakeError(f"--num-processes: expected the same number of devices in each process, got {got}")


def _sample(tasks: Any, directory: Path, prompt: str, **options: Any) -> None:
    """Print the prompt, and each character as soon as it is drawn."""
    try:
        characters = tasks.sample(directory, prompt, **options)
    except (ValueError, TypeError) as error:
        raise _of_option(error) from error
    for text in itertools.chain([prompt], characters, ["\n"]):
        _write(text)


def _recipe(task: "Task", given: dict[str, Any]) -> "Recipe":
    try:
        return task.recipe_with(**given)
    except (ValueError, TypeError) as error:
        raise _of_option(error) from error


def _of_option(error: Exception) -> MistakeError:
    """An error whose message starts with the name of an argument, which becomes that of the option."""
    name, _, sentence = str(error).partition(":")
    return MistakeError(f"{flag(name)}:{sentence}")


def _say(sentence: object, code: int) -> int:
    text = str(sentence)
    text = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."  # arguments may be of any length
    print(f"jaxlstm: error: {text}" if code == MISTAKE else f"jaxlstm: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
