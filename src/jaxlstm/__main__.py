"""The command line: ``jaxlstm train [TASK] --out DIR``, ``jaxlstm evaluate DIR`` and ``jaxlstm sample DIR``."""

import argparse
import dataclasses
import itertools
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import jaxlstm

if TYPE_CHECKING:
    from jaxlstm.tasks import Recipe, Task

MISTAKE, INTERRUPTED = 2, 130  # exit codes
DEFAULT_TASK = "vowels"

OPTIONS: dict[str, tuple[type, str, str]] = {
    "cell": (str, "NAME", "lstm, gru, rnn, or all: the three side by side"),
    "hidden_size": (int, "N", "units of each cell, in each direction"),
    "layers": (int, "N", "recurrent layers on top of each other"),
    "dropout": (float, "X", "rate between layers and before the output, in [0, 1)"),
    "steps": (int, "N", "steps of training"),
    "batch_size": (int, "N", "sequences a step"),
    "learning_rate": (float, "X", "of Adam at the start; it falls to 0 as half a cosine"),
    "seed": (int, "N", "of the first model"),
    "seeds": (int, "N", "models to train at once, with seeds SEED, SEED + 1, ..."),
    "evaluate_every": (int, "N", "steps between evaluations"),
    "length": (int, "N", "steps of each sequence, or of what is to be remembered"),
    "hold_out": (int, "N", "training sequences of each class to evaluate on, in place of the test set"),
    "file": (str, "FILE", "where the data lie"),
}

SAMPLE_OPTIONS: list[tuple[str, type, str, Any, str]] = [
    ("prompt", str, "TEXT", "\n", "what the model reads first"),
    ("length", int, "N", 500, "characters to draw"),
    ("temperature", float, "X", 1.0, "below 1 keeps to what is likely; 0 takes the likeliest always"),
    ("top_k", int, "K", None, "draw among the K likeliest characters alone"),
    ("seed", int, "N", 0, "of the draws"),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line: 0, or the exit code of a mistake (2) or of Ctrl-C (130), a sentence being on stderr.

    SIGTERM, which schedulers send, is no failure once the run is saved: 0, and a sentence that says how to go on.
    """
    logging.getLogger("jaxlstm").setLevel(logging.ERROR)  # what fit warns of is said here, in one line
    try:
        return _run(arguments)
    except _MistakeError as error:
        return _say(error, MISTAKE)
    except KeyboardInterrupt as error:
        return _say(str(error) or "interrupted", INTERRUPTED)
    except _TerminatedError as error:
        return _say(error, 0)


class _MistakeError(Exception):
    """What a user asked for cannot be done; the message is one sentence."""


class _TerminatedError(Exception):
    """SIGTERM ended a run, which is saved; the message is one sentence."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, without the usage."""
        raise _MistakeError(f"{message} (see {self.prog} --help)")


def _run(arguments: Sequence[str] | None) -> int:
    try:
        from jaxlstm import tasks
    except ImportError as error:
        raise _MistakeError(
            f"the command line needs the extra 'tasks': pip install 'jaxlstm[tasks]' ({error})"
        ) from error
    options = vars(_parser(tasks.TASKS).parse_args(arguments))
    try:
        match options.pop("command"):
            case "evaluate":
                print(tasks.evaluate(options["directory"]))
            case "sample":
                _sample(tasks, **options)
            case _:
                _train(tasks, **options)
    except (tasks.RunError, ImportError) as error:
        raise _MistakeError(error) from error
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
        raise _MistakeError(f"{_flag(next(iter(given)))}: with --resume a run goes on with the options that it has")
    if resume and task and task != (found := tasks.recipe_of(out).task):
        raise _MistakeError(f"TASK: {out} holds a run of {found}, got {task}")
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
        how = f"jaxlstm train --out {out} --resume"
        if num_processes > 1:
            how += f" --num-processes {num_processes} --coordinator {coordinator} --process-id {process_id}"
        raise stopped(f"{sentence}; to go on: {how}") from error
    if process_id == 0:
        print(report)
        print(f"{out} has the weights, metrics and pictures of this run of {time.perf_counter() - began:.0f} s")


def _connect(num_processes: int, process_id: int, coordinator: str | None) -> None:
    """Make this process one of several; every one of them is started with the same command line, but for its number."""
    from jaxlstm.training._processes import connect, devices_of_each

    if num_processes < 1:
        raise _MistakeError(f"--num-processes: expected a positive number, got {num_processes}")
    if not 0 <= process_id < num_processes:
        raise _MistakeError(f"--process-id: expected a number in 0..{num_processes - 1}, got {process_id}")
    if (coordinator is None) != (num_processes == 1):
        got = "nothing" if coordinator is None else "one, for a single process"
        raise _MistakeError(f"--coordinator: expected HOST:PORT of process 0, of several (--num-processes), got {got}")
    if coordinator is None:
        return
    try:
        connect(num_processes=num_processes, process_id=process_id, coordinator=coordinator)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise _MistakeError(f"--coordinator: {coordinator} could not be reached ({reason})") from error
    if len(set(devices_of_each())) != 1:
        raise _MistakeError(f"--num-processes: expected as many devices in each, got {devices_of_each()}")


def _sample(tasks: Any, directory: Path, prompt: str, **options: Any) -> None:
    """The prompt, and then each character as it comes."""
    try:
        characters = tasks.sample(directory, prompt, **options)
    except (ValueError, TypeError) as error:
        name, _, sentence = str(error).partition(":")
        raise _MistakeError(f"{_flag(name)}:{sentence}") from error
    for text in itertools.chain([prompt], characters, ["\n"]):
        print(text, end="", flush=True)


def _recipe(default: "Recipe", given: dict[str, Any]) -> "Recipe":
    """The task's own recipe, with what was given in its place."""
    for name in given:
        if getattr(default, name) is None:
            raise _MistakeError(f"{_flag(name)}: the task {default.task} has no such option")
    try:
        return dataclasses.replace(default, **given)
    except (ValueError, TypeError) as error:
        name, _, sentence = str(error).partition(":")
        raise _MistakeError(f"{_flag(name)}:{sentence}") from error


def _parser(tasks: "Mapping[str, Task]") -> argparse.ArgumentParser:
    parser = _Parser(prog="jaxlstm", description="Train recurrent networks on tasks that show what they can do.")
    parser.add_argument("--version", action="version", version=f"jaxlstm {jaxlstm.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        help="train on a task",
        description=_described(tasks),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument(
        "task",
        metavar="TASK",
        nargs="?",
        choices=list(tasks),
        help=f"one of those above (default: {DEFAULT_TASK}; with --resume, that of the run)",
    )
    train.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new directory for the run (required)")
    train.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in DIR, from its last checkpoint, with its own options",
    )
    several = "of several processes that train one model, a part of each batch each"
    train.add_argument("--num-processes", metavar="N", type=int, default=1, help=f"the number {several} (default: 1)")
    train.add_argument("--process-id", metavar="I", type=int, default=0, help="which of them this is, from 0 on")
    train.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens, the same for all")
    for name, (kind, metavar, text) in OPTIONS.items():
        train.add_argument(_flag(name), metavar=metavar, type=kind, help=f"{text} (default: {_defaults(tasks, name)})")
    evaluate = commands.add_parser(
        "evaluate",
        help="compute a run's test figure again",
        description="Load a run's weights and compute its test figure again.",
    )
    evaluate.add_argument("directory", metavar="DIR", type=Path, help="the directory of a run")
    sample = commands.add_parser(
        "sample",
        help="draw characters from a model of text",
        description="Load a run of the task text and draw characters from its model, each shown as it comes.",
    )
    sample.add_argument("directory", metavar="DIR", type=Path, help="the directory of a run")
    for name, kind, metavar, default, text in SAMPLE_OPTIONS:
        shown = "" if default is None else f" (default: {default!r})"
        sample.add_argument(_flag(name), metavar=metavar, type=kind, default=default, help=text + shown)
    return parser


def _described(tasks: "Mapping[str, Task]") -> str:
    width = max(map(len, tasks))
    return "Train on a task:\n" + "\n".join(f"  {name:{width}}  {task.help}" for name, task in tasks.items())


def _defaults(tasks: "Mapping[str, Task]", name: str) -> str:
    """What the tasks' own recipes say: the commonest value, if all have one, then the others with their tasks."""
    groups: dict[str, list[str]] = {}
    for task, value in ((task, getattr(tasks[task].recipe, name)) for task in tasks):
        if value is not None:
            groups.setdefault(str(value), []).append(task)
    common = max(groups, key=lambda value: len(groups[value]))
    if sum(map(len, groups.values())) < len(tasks):
        common = ""
    words = [f"{', '.join(group)} {value}" for value, group in groups.items() if value != common]
    return "; ".join([common] * bool(common) + words)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _say(sentence: object, code: int) -> int:
    print(f"jaxlstm: error: {sentence}" if code == MISTAKE else f"jaxlstm: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
