"""What the command line takes: commands, options, their defaults and their help."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import jaxlstm

if TYPE_CHECKING:
    from jaxlstm.tasks import Task

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


class MistakeError(Exception):
    """What a user asked for cannot be done; the message is one sentence."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, without the usage."""
        raise MistakeError(f"{message} (see {self.prog} --help)")


def parser(tasks: "Mapping[str, Task]") -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    whole = _Parser(prog="jaxlstm", description="Train recurrent networks on tasks that show what they can do.")
    whole.add_argument("--version", action="version", version=f"jaxlstm {jaxlstm.__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands, tasks)
    evaluate = commands.add_parser(
        "evaluate",
        help="compute a run's test figure again",
        description="Load a run's weights and compute its test figure again.",
    )
    evaluate.add_argument("directory", metavar="DIR", type=Path, help="the directory of a run")
    _add_sample(commands)
    return whole


def flag(name: str) -> str:
    """An option as it is written."""
    return f"--{name.replace('_', '-')}"


def _add_train(commands: Any, tasks: "Mapping[str, Task]") -> None:
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
        train.add_argument(flag(name), metavar=metavar, type=kind, help=f"{text} (default: {_defaults(tasks, name)})")


def _add_sample(commands: Any) -> None:
    sample = commands.add_parser(
        "sample",
        help="draw characters from a model of text",
        description="Load a run of the task text and draw characters from its model, each shown as it comes.",
    )
    sample.add_argument("directory", metavar="DIR", type=Path, help="the directory of a run")
    for name, kind, metavar, default, text in SAMPLE_OPTIONS:
        shown = "" if default is None else f" (default: {default!r})"
        sample.add_argument(flag(name), metavar=metavar, type=kind, default=default, help=text + shown)


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
