"""The commands and options of the command line.

The options of a run are the fields of `tasks.Recipe`, those of sampling the arguments of `tasks.sample`. Types and
defaults come from the signatures, help texts from the docstrings.
"""

import argparse
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args, get_type_hints

import jaxlstm

if TYPE_CHECKING:
    from jaxlstm.tasks import Task

DEFAULT_TASK = "vowels"
RESERVED = ("task", "directory")  # positional


class MistakeError(Exception):
    """The command cannot be carried out. The message is one sentence for the user."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise MistakeError instead of printing the usage."""
        raise MistakeError(f"{message} (see {self.prog} --help)")


class _TaskHelp(argparse.Action):
    """--help after the name of a task shows the options and defaults of that task alone."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        if namespace.task:
            task = self.const[namespace.task]
            parser = _Parser(prog=f"{parser.prog} {namespace.task}", description=f"{namespace.task}: {task.help}")
            _add_train_options(parser, {namespace.task: task})
        parser.print_help()
        parser.exit()


def parser(tasks: Any) -> argparse.ArgumentParser:
    """The parser of the whole command line, given the module `jaxlstm.tasks`."""
    whole = _Parser(prog="jaxlstm", description="Train recurrent networks on classic tasks and on text.")
    whole.add_argument("--version", action="version", version=f"jaxlstm {jaxlstm.__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands, tasks.TASKS)
    evaluate = commands.add_parser(
        "evaluate",
        help="compute the test figures of a run again",
        description="Load the weights of a run and compute its test figures again.",
    )
    evaluate.add_argument("directory", metavar="DIR", type=Path, help="the directory of the run")
    sample = commands.add_parser(
        "sample",
        help="generate text with a trained model",
        description="Generate text with the model of a run of the task text.",
    )
    sample.add_argument("directory", metavar="DIR", type=Path, help="the directory of the run")
    _add_options(sample, tasks.sample)
    return whole


def flag(name: str) -> str:
    """An option as it is typed."""
    return f"--{name.replace('_', '-')}"


def documented(function: Any) -> dict[str, str]:
    """The description of each argument in a docstring."""
    section = re.search(r"^Args:\n((?: .*\n)+)", f"{inspect.getdoc(function)}\n", re.M)
    entries = re.findall(r"^  (\w+): ((?:.*\n)(?:    .*\n)*)", section[1] if section else "", re.M)
    return {name: " ".join(text.split()).rstrip(".") for name, text in entries}


def _add_train(commands: Any, tasks: "Mapping[str, Task]") -> None:
    width = max(map(len, tasks))
    train = commands.add_parser(
        "train",
        help="train on a task",
        description="Train on a task:\n" + "\n".join(f"  {name:{width}}  {tasks[name].help}" for name in tasks),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    train.add_argument(
        "task",
        metavar="TASK",
        nargs="?",
        choices=list(tasks),
        help=f"one of the tasks above (default: {DEFAULT_TASK}; with --resume, that of the run)",
    )
    text = "show this help message and exit; after TASK, show only the options and defaults of that task"
    train.add_argument("-h", "--help", action=_TaskHelp, nargs=0, const=tasks, help=text)
    _add_train_options(train, tasks)


def _add_train_options(train: argparse.ArgumentParser, tasks: "Mapping[str, Task]") -> None:
    train.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new directory for the run (required)")
    train.add_argument("--resume", action="store_true", help="continue the run in DIR from its latest checkpoint")
    train.add_argument(
        "--num-processes", metavar="N", type=int, default=1, help="number of processes that share the run (default: 1)"
    )
    train.add_argument("--process-id", metavar="I", type=int, default=0, help="number of this process, from 0")
    train.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, the same for all processes")
    recipe = type(next(iter(tasks.values())).recipe)
    _add_options(train, recipe, tasks)


def _add_options(command: argparse.ArgumentParser, function: Any, tasks: "Mapping[str, Task] | None" = None) -> None:
    """An option for each argument of a function, or for each field of the recipes of these tasks that is not None."""
    hints, texts = get_type_hints(function), documented(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if name in RESERVED:
            continue
        (kind,) = {*get_args(hints[name]), hints[name]} & {int, float, str}
        default = None if tasks else parameter.default
        shown = _defaults(tasks, name) if tasks else repr(default) * (default is not None)
        if tasks and not shown:
            continue
        command.add_argument(
            flag(name),
            metavar={int: "N", float: "X"}.get(kind, name.upper()),
            type=kind,
            default=default,
            help=texts.get(name, "") + f" (default: {shown})" * bool(shown),
        )


def _defaults(tasks: "Mapping[str, Task]", name: str) -> str:
    """The default of an option: the most common one, if all tasks have the option, and the others with their tasks."""
    groups: dict[str, list[str]] = {}
    for task, value in ((task, getattr(tasks[task].recipe, name)) for task in tasks):
        if value is not None:
            groups.setdefault(str(value), []).append(task)
    common = max(groups, key=lambda value: len(groups[value]), default="")
    if sum(map(len, groups.values())) < len(tasks):
        common = ""
    words = [f"{', '.join(group)} {value}" for value, group in groups.items() if value != common]
    return "; ".join([common] * bool(common) + words)
