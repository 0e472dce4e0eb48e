"""Choose a recipe for each cell in a row of `memory.py`: the same trials for every cell, compared on validation data.

So far for the chorales. Their test set is not looked at. Trials that --json already holds are not run again. Prints
Markdown.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
from jaxlstm.tasks import TASKS, Problem, Recipe
from memory import CELLS, run
from memory_rows import ROWS

RATES = (1e-2, 3e-3, 1e-3)
TRIALS: dict[str, list[dict[str, Any]]] = {
    "jsb": [
        *({"hidden_size": 300, "dropout": 0.7, "learning_rate": rate} for rate in RATES),
        {"hidden_size": 200, "dropout": 0.5, "learning_rate": 3e-3},
        {"hidden_size": 200, "dropout": 0.5, "learning_rate": 1e-2},
        {"hidden_size": 200, "dropout": 0.5, "learning_rate": 3e-3, "steps": 1600},
        {"hidden_size": 300, "dropout": 0.7, "learning_rate": 1e-2, "steps": 1600},
        {"hidden_size": 300, "dropout": 0.7, "learning_rate": 1e-2, "steps": 3200},
        {"layers": 2, "hidden_size": 200, "dropout": 0.5, "learning_rate": 1e-2},
        {"layers": 2, "hidden_size": 200, "dropout": 0.2, "learning_rate": 3e-3},  # as published, but for the rate
    ],
}
SEEDS = 1


def main() -> None:
    """Run the trials of each cell, and say which was best."""
    args = arguments()
    done: dict[str, Any] = json.loads(args.json.read_text()) if args.json.exists() else common.environment()
    for name in args.rows:
        for cell in args.cells:
            figures = done.setdefault("rows", {}).setdefault(name, {}).setdefault(cell, {})
            for trial in TRIALS[name]:
                if common.listed(trial) in figures:
                    continue
                figures[common.listed(trial)] = validated(name, cell, trial, args.jsb)
                common.note(f"{name}, {cell}, {common.listed(trial)}: {figures[common.listed(trial)]}")
                args.json.write_text(json.dumps(done, indent=1) + "\n")
    text = markdown(done)
    print(text)
    if args.into:
        common.write_section(args.into, "choose", text)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=TRIALS, default=list(TRIALS), metavar="ROW")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=["RNN", "GRU", "LSTM"], metavar="CELL")
    parser.add_argument("--jsb", type=Path, required=True, metavar="FILE", help="JSB_Chorales.mat")
    parser.add_argument("--json", type=Path, required=True, metavar="OUT", help="the trials, written one by one")
    parser.add_argument("--into", type=Path, metavar="FILE", help="replace this report's section of a Markdown file")
    return parser.parse_args()


def validated(name: str, cell: str, trial: dict[str, Any], jsb: Path) -> float:
    """The validation figure of one trial."""
    row = ROWS[name]
    recipe = replace(TASKS[row.task].recipe, **{**row.changes, **trial})
    with validation_problem(recipe, jsb) as problem:
        return run(problem, recipe, None, CELLS[cell](recipe), SEEDS).figures[0]


@contextmanager
def validation_problem(recipe: Recipe, jsb: Path) -> Iterator[Problem]:
    """The problem of a recipe for the chorales, with those to validate in place of those to test."""
    from scipy.io import loadmat, savemat

    data = loadmat(jsb, variable_names=["traindata", "validdata"])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "chorales.mat")
        parts = {"traindata": data["traindata"], "validdata": data["validdata"], "testdata": data["validdata"]}
        savemat(file, parts)
        yield TASKS[recipe.task].problem(replace(recipe, file=str(file)))


def markdown(done: dict[str, Any]) -> str:
    """A table of each row's trials, the best of each cell in bold."""
    parts = [common.circumstances(done)]
    for name, cells in done["rows"].items():
        best = {cell: min(figures.values()) for cell, figures in cells.items() if figures}
        lines = []
        for trial in map(common.listed, TRIALS[name]):
            figures = [(cells[cell].get(trial), best[cell]) for cell in best]
            lines.append([trial, *(_shown(*both) for both in figures)])
        parts.append(common.table([f"{name} ({ROWS[name].unit}, validation)", *best], lines))
    return "\n\n".join(parts)


def _shown(figure: float | None, best: float) -> str:
    return "" if figure is None else f"**{figure:.4f}**" if figure == best else f"{figure:.4f}"


if __name__ == "__main__":
    main()
