"""The command line: ``jaxlstm train [TASK] --out DIR``, ``jaxlstm evaluate DIR`` and ``jaxlstm sample DIR``."""

import collections
import contextlib
import dataclasses
import itertools
import logging
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from jaxlstm._arguments import DEFAULT_TASK, MistakeError, flag, parser

if TYPE_CHECKING:
    from jaxlstm.tasks import Recipe

MISTAKE, INTERRUPTED, PIPE_CLOSED = 2, 130, 141  # exit codes
LONGEST = 1000  # characters of a sentence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line: 0, or the exit code of a mistake (2) or of Ctrl-C (130), a sentence being on stderr.

    SIGTERM, which schedulers send, is no failure once the run is saved: 0, and a sentence that says how to go on. Where
    nobody reads the output any more, as behind ``| head``, it ends without a word (141).
    """
    logging.getLogger("jaxlstm").setLevel(logging.ERROR)  # what fit warns of is said here, in one line
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
    """Print this at once. After an error, what else is printed goes nowhere: Python itself would try it again."""
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


class _TerminatedError(Exception):
    """SIGTERM ended a run, which is saved; the message is one sentence."""


def _run(arguments: Sequence[str] | None) -> int:
    try:
        from jaxlstm import tasks
    except ImportError as error:
        raise MistakeError(
            f"the command line needs the extra 'tasks': pip install 'jaxlstm[tasks]' ({error})"
        ) from error
    options = vars(parser(tasks.TASKS).parse_args(arguments))
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
        raise MistakeError(f"{flag(next(iter(given)))}: with --resume a run goes on with the options that it has")
    if resume and task and task != (found := tasks.recipe_of(out).task):
        raise MistakeError(f"TASK: {out} holds a run of {found}, got {task}")
    progress = sys.stderr.isatty()
    try:
        if resume:
            report = tasks.resume(out, progress=progress)
        else:
            report = tasks.train(_recipe(tasks.TASKS[task or DEFAULT_TASK].recipe, given), out, progress=progress)
    except (KeyboardInterrupt, tasks.Terminated) as error:
        if not str(error):  # before the first step, or the second Ctrl-C or SIGTERM
            raise
        stopped = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else _TerminatedError
        sentence = str(error).partition(";")[0]
        how = f"jaxlstm train --out {shlex.quote(str(out))} --resume"
        if num_processes > 1:
            several = f"--num-processes {num_processes} --coordinator {shlex.quote(str(coordinator))}"
            how += f" {several} --process-id {process_id}"
        raise stopped(f"{sentence}; to go on: {how}") from error
    if process_id == 0:
        seconds = time.perf_counter() - began
        _write(f"{report}\n{out} has the weights, metrics and pictures of this run of {seconds:.0f} s\n")


def _connect(num_processes: int, process_id: int, coordinator: str | None) -> None:
    """Make this process one of several; every one of them is started with the same command line, but for its number."""
    from jaxlstm.training import connect

    if num_processes < 1:
        raise MistakeError(f"--num-processes: expected a positive number, got {num_processes}")
    if not 0 <= process_id < num_processes:
        raise MistakeError(f"--process-id: expected a number in 0..{num_processes - 1}, got {process_id}")
    if (coordinator is None) != (num_processes == 1):
        got = "nothing" if coordinator is None else "one, for a single process"
        raise MistakeError(f"--coordinator: expected HOST:PORT of process 0, of several (--num-processes), got {got}")
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
        raise MistakeError(f"--num-processes: expected as many devices in each, got {got}")


def _sample(tasks: Any, directory: Path, prompt: str, **options: Any) -> None:
    """The prompt, and then each character as it comes."""
    try:
        characters = tasks.sample(directory, prompt, **options)
    except (ValueError, TypeError) as error:
        name, _, sentence = str(error).partition(":")
        raise MistakeError(f"{flag(name)}:{sentence}") from error
    for text in itertools.chain([prompt], characters, ["\n"]):
        _write(text)


def _recipe(default: "Recipe", given: dict[str, Any]) -> "Recipe":
    """The task's own recipe, with what was given in its place."""
    for name in given:
        if getattr(default, name) is None:
            raise MistakeError(f"{flag(name)}: the task {default.task} has no such option")
    try:
        return dataclasses.replace(default, **given)
    except (ValueError, TypeError) as error:
        name, _, sentence = str(error).partition(":")
        raise MistakeError(f"{flag(name)}:{sentence}") from error


def _say(sentence: object, code: int) -> int:
    text = str(sentence)
    text = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."  # what was given may be of any length
    print(f"jaxlstm: error: {text}" if code == MISTAKE else f"jaxlstm: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
