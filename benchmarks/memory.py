"""What each cell can remember: the tasks of `jaxlstm.tasks`, published results beside ours.

For tasks with a criterion of their own (Hochreiter & Schmidhuber 1997): how many training sequences a cell needs until
it meets it, and how many of the seeds get there within the row's budget. For the others: the test figure. Cells of a
row have one recipe, or one each that `choose.py` chose. All seeds are trained at once under vmap. Prints Markdown.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import common
import jaxlstm as jl
from jaxlstm.tasks import CELLS as NAMED
from jaxlstm.tasks import TASKS, Problem, Recipe
from jaxlstm.tasks._model import init_model
from jaxlstm.tasks._optimizers import clipped_adam
from jaxlstm.training import init_state, make_train_step
from memory_rows import COUNTED, FIGURES, MISSED, OF_RECENT, RECENT, ROWS, Criterion, Row

CHUNK = 50  # steps between two looks at what has been solved


class WithoutForgetGate(jl.LSTMCell):
    """The LSTM of 1997: c_t = c_{t-1} + i_t * g_t. The forget gate's weights are there, and have no effect."""

    def transition(self, params: jl.LSTMParams, z: jax.Array, carry: jl.LSTMCarry) -> jl.LSTMCarry:
        """As the LSTM's, with f = 1."""
        gates = jl.lstm_gates(z)
        return jl.lstm_transition(gates._replace(f=jnp.ones_like(gates.f)), carry.c)


def closed_inputs(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
    """Biases of input gates that start nearly closed, as in 1997: without a forget gate, what is let in stays."""
    return jnp.zeros(shape, dtype).at[0].set(-3.0)


@dataclass(frozen=True)
class OnePosition(jl.CellWrapper):
    """A convolutional cell on a map of one position, for sequences of vectors."""

    cell: jl.Cell

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """None: inputs are vectors."""
        return ()

    def project(self, params: Any, x: jax.Array) -> Any:
        """zx of the cell, for the map whose one position has the features x."""
        return self.cell.project(params, x[..., None, :])

    def readout(self, params: Any, carry: Any) -> jax.Array:
        """The output at the one position."""
        return self.cell.readout(params, carry)[..., 0, :]


CELLS: dict[str, Callable[[Recipe], jl.Cell]] = {
    "RNN": lambda recipe: jl.RNNCell(recipe.hidden_size),
    "GRU": lambda recipe: jl.GRUCell(recipe.hidden_size),
    "LSTM": lambda recipe: jl.LSTMCell(recipe.hidden_size),
    "LSTM, no forget gate": lambda recipe: WithoutForgetGate(recipe.hidden_size, b_init=closed_inputs),
    "LSTM, forget bias 0": lambda recipe: jl.LSTMCell(recipe.hidden_size, forget_bias=0.0),
    "GRU, chrono": lambda recipe: jl.GRUCell(recipe.hidden_size, b_init=jl.chrono(max(3, recipe.length or 0))),
    "LSTM, chrono": lambda recipe: jl.LSTMCell(recipe.hidden_size, b_init=jl.chrono(max(3, recipe.length or 0))),
    "MGU": lambda recipe: NAMED["mgu"](recipe.hidden_size),
    "minGRU": lambda recipe: NAMED["min_gru"](recipe.hidden_size),
    "minLSTM": lambda recipe: NAMED["min_lstm"](recipe.hidden_size),
    "IndRNN": lambda recipe: NAMED["ind_rnn"](recipe.hidden_size),
    "sLSTM": lambda recipe: NAMED["slstm"](recipe.hidden_size),
    "mLSTM": lambda recipe: NAMED["mlstm"](recipe.hidden_size),
    "LRU": lambda recipe: NAMED["lru"](recipe.hidden_size),
    "ConvLSTM": lambda recipe: OnePosition(jl.ConvLSTMCell(recipe.hidden_size, spatial_shape=(1,), kernel_shape=1)),
}


class Outcome(NamedTuple):
    """What a cell's seeds came to: sequences until solved (None: not), test figures, steps trained, seconds."""

    solved: list[int | None]
    figures: list[float]
    steps: int
    seconds: float


def main() -> None:
    """Train what the arguments ask for, and report it."""
    args = arguments()
    report: dict[str, Any] = {**common.environment(), "rows": {}, "minutes": 0.0}
    if args.json and args.json.exists():
        report = json.loads(args.json.read_text())
    for name in args.rows:
        row = ROWS[name]
        recipe = replace(TASKS[row.task].recipe, **row.changes)
        if recipe.file is not None:
            if args.jsb is None:
                common.note(f"{name} left out: it needs the file that --jsb names")
                continue
            recipe = replace(recipe, file=str(args.jsb))
        if args.steps:
            recipe = replace(recipe, steps=min(args.steps, recipe.steps))
        outcomes = report["rows"].setdefault(name, {"recipe": vars(recipe), "outcomes": {}})["outcomes"]
        for cell in args.cells or (RECENT if args.recent else row.cells):
            if cell in outcomes:
                continue
            own = replace(recipe, **row.own.get(cell, {}))
            problem = TASKS[row.task].problem(own)
            outcome = run(problem, own, row.criterion, CELLS[cell](own), args.seeds or row.seeds)
            common.note(f"{name}, {cell}: {outcome}")
            outcomes[cell] = outcome._asdict()
            report["minutes"] += outcome.seconds / 60
            if args.json:
                args.json.write_text(json.dumps(report, indent=1) + "\n")
    text = markdown(report, recent=args.recent)
    print(text)
    if args.into:
        common.write_section(args.into, "memory-recent" if args.recent else "memory", text)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--cells", nargs="+", choices=CELLS, metavar="CELL", help=f"{'; '.join(CELLS)} (the row's own)")
    parser.add_argument(
        "--recent", action="store_true", help="cells since 2016 beside GRU and LSTM, in a section of their own"
    )
    parser.add_argument("--seeds", type=int, help="models of each cell (the row's own number)")
    parser.add_argument("--steps", type=int, help="train no longer than this, for a quick look")
    parser.add_argument("--jsb", type=Path, metavar="FILE", help="JSB_Chorales.mat; without it that row is left out")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write each cell at once, and run none that is there")
    parser.add_argument("--into", type=Path, metavar="FILE", help="replace this report's section of a Markdown file")
    return parser.parse_args()


def run(problem: Problem, recipe: Recipe, criterion: Criterion | None, cell: jl.Cell, seeds: int) -> Outcome:
    """Train one cell from all seeds at once, until all have solved the task or the recipe's steps are over."""
    began = time.perf_counter()
    network = problem.network(cell)
    optimizer = clipped_adam(recipe.learning_rate, recipe.steps)

    def loss(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return problem.loss(network, params, batch, key)

    step = jax.vmap(make_train_step(loss, optimizer))
    chunk = jax.jit(lambda state, batches, length: jax.lax.scan(step, state, batches, length=length), static_argnums=2)
    state = initial_state(problem, network, optimizer, seeds)
    streams = [problem.batches(seed) for seed in range(seeds)]
    history: list[dict[str, np.ndarray]] = []
    solved: list[int | None] = [None] * seeds
    done = 0
    while done < recipe.steps and not all(solved):
        size = min(CHUNK, recipe.steps - done)
        state, metrics = chunk(state, draw(streams, size), size)
        done += size
        if criterion:
            history.append(jax.device_get({name: metrics[name] for name in ("right", "error") if name in metrics}))
            solved = solved_after(history, criterion, recipe.batch_size)
    predict = jax.jit(jax.vmap(partial(problem.predict, network)))
    figures = [float(problem.score(answers)) for answers in predict(state.params)]
    return Outcome(solved, figures, done, time.perf_counter() - began)


def initial_state(problem: Problem, network: Any, optimizer: Any, seeds: int) -> Any:
    """One state for all seeds; drawn one by one, since QR decompositions under vmap can wait for ever on few cores."""
    states = []
    for seed in range(seeds):
        init_key, key = jax.random.split(jax.random.key(seed))
        params = init_model(network, init_key, problem.input_size, problem.outputs, problem.steps_read)
        states.append(init_state(params, optimizer, key))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def draw(streams: list[Any], steps: int) -> Any:
    """The next batches of every seed: each leaf ``[steps, seeds, ...]``, or None where the loss draws its own."""
    batches = [[next(stream) for stream in streams] for _ in range(steps)]
    return None if batches[0][0] is None else np.array(batches)


def solved_after(history: list[dict[str, np.ndarray]], criterion: Criterion, batch_size: int) -> list[int | None]:
    """How many sequences each seed had seen when the last ``criterion.window`` of them first met the criterion."""
    window = math.ceil(criterion.window / batch_size)
    right = np.concatenate([part["right"] for part in history])
    wrong = _sums((1 - right) * batch_size, window)
    met = wrong <= criterion.wrong + 1e-3  # shares in float32
    if criterion.error is not None:
        met &= _sums(np.concatenate([part["error"] for part in history]), window) / window < criterion.error
    first = [np.flatnonzero(seed) for seed in met.T]
    return [int(steps[0] + window) * batch_size if len(steps) else None for steps in first]


def _sums(values: np.ndarray, window: int) -> np.ndarray:
    """The sum of every `window` values in a row, for each seed: ``[n, S] -> [n - window + 1, S]``."""
    totals = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])
    return totals[window:] - totals[:-window] if len(totals) > window else totals[:0]


def markdown(report: dict[str, Any], *, recent: bool = False) -> str:
    """The whole report: circumstances, a table of those with a criterion, one of those with a figure."""
    done = {name: (ROWS[name], report["rows"][name]) for name in ROWS if name in report["rows"]}
    cells = [cell for cell in CELLS if any(cell in row["outcomes"] for _, row in done.values())]
    criteria = [_criterion_row(name, *both, cells) for name, both in done.items() if both[0].criterion]
    figures = [_figure_row(name, *both, cells) for name, both in done.items() if not both[0].criterion]
    parts = [common.circumstances(report) + f"\n- {report['minutes']:.0f} minutes in all"]
    if recent:
        parts.append(OF_RECENT)
    if criteria:
        parts += [
            *[COUNTED] * (not recent),
            common.table(["", "published", *cells], criteria),
            *[MISSED] * (not recent),
        ]
    if figures:
        parts += [*[FIGURES] * (not recent), common.table(["", "published", *cells], figures)]
    parts.append("\n".join(f"- {name}: {_setting(*both)}" for name, both in done.items()))
    return "\n\n".join(parts)


def _criterion_row(name: str, row: Row, result: dict[str, Any], cells: list[str]) -> list[str]:
    budget = result["recipe"]["steps"] * result["recipe"]["batch_size"]
    shares = [name, f"{row.published:_}".replace("_", " ")]
    for cell in cells:
        outcome = result["outcomes"].get(cell)
        if outcome is None:
            shares.append("")
            continue
        counts = [count for count in outcome["solved"] if count is not None]
        share = f"({len(counts)} of {len(outcome['solved'])})"
        shown = f"{np.median(counts):.0f} {share}" if counts else f"> {budget} {share}"
        missed = (np.median(counts) if counts else budget) > row.published
        verdict = " *missed*" if missed else "" if counts else " *open*"
        shares.append(shown + verdict)
    return shares


def _figure_row(name: str, row: Row, result: dict[str, Any], cells: list[str]) -> list[str]:
    assert isinstance(row.published, dict)
    shown = [f"{name} ({row.unit})", ", ".join(f"{kind} {figure}".strip() for kind, figure in row.published.items())]
    for cell in cells:
        outcome = result["outcomes"].get(cell)
        figures = outcome["figures"] if outcome else []
        spread = f" ({np.std(figures, ddof=1):.4f})" if len(figures) > 1 else ""
        shown.append(f"{np.mean(figures):.4f}{spread}{_verdict(row, cell, figures)}" if figures else "")
    return shown


def _verdict(row: Row, cell: str, figures: list[float]) -> str:
    """Whether a cell is worse than what is published for its kind."""
    assert isinstance(row.published, dict)
    published = row.published.get("", row.published.get(cell.partition(",")[0]))
    if published is None:
        return ""
    ours = np.mean(figures)
    return " *missed*" if (ours < published if row.unit == "accuracy" else ours > published) else ""


def _setting(row: Row, result: dict[str, Any]) -> str:
    recipe = result["recipe"]
    shown = ("hidden_size", "layers", "dropout", "batch_size", "learning_rate", "steps", "length")
    settings = [common.listed({name: recipe[name] for name in shown if recipe[name] is not None})]
    settings += [f"{cell}: {common.listed(own)}" for cell, own in row.own.items() if cell in result["outcomes"]]
    seconds = sum(outcome["seconds"] for outcome in result["outcomes"].values())
    return f"{'; '.join(settings)}; {seconds:.0f} s. {row.note}"


if __name__ == "__main__":
    main()
