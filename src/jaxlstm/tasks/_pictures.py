"""Pictures of a run. They use no window and no global state of Matplotlib."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool

COLOURS = {"rnn": "tab:red", "gru": "tab:green", "lstm": "tab:blue", "mgu": "tab:olive", "min_gru": "tab:cyan"}
COLOURS |= {"min_lstm": "tab:purple", "ind_rnn": "tab:orange", "slstm": "tab:pink", "mlstm": "tab:brown"}
COLOURS |= {"lru": "tab:gray"}


def learning_curve(
    path: Path, metrics: Path, cells: Sequence[str], figure_name: str, baseline: tuple[str, float] | None
) -> None:
    """The training loss and the test figure of metrics.csv against the step, one line for each seed."""
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure = figure_of(11.0, 4.2)
    loss_axes, test_axes = figure.subplots(1, 2)
    for cell in cells:
        _curves(loss_axes, rows, f"{cell}.loss", cell, smooth=max(1, len(rows) // 100))
        _curves(test_axes, rows, f"{cell}.test", cell, smooth=1, marker="o", markersize=3)
    loss_axes.set(title="training", xlabel="step", ylabel="loss, running mean", yscale="log")
    test_axes.set(title=figure_name, xlabel="step", ylabel=figure_name)
    if "error" in figure_name:
        test_axes.set_yscale("log")
    elif "share" in figure_name or "accuracy" in figure_name:
        low = 0.8 if min(line.get_ydata()[-1] for line in test_axes.get_lines()) > 0.9 else 0
        test_axes.set_ylim(low, 1.005)  # low first evaluations would squeeze the rest
    if baseline:
        name, value = baseline
        test_axes.axhline(value, color="black", linestyle="--", linewidth=1, label=f"{name}: {value:.4g}")
    for axes in (loss_axes, test_axes):
        axes.legend()
        axes.grid(alpha=0.3)
        if axes.get_yscale() == "log":
            _plain_numbers(axes.yaxis)
    figure.savefig(path, dpi=150)


def confusion_matrix(
    labels: ArrayLike, classes: tuple[str, Sequence[str]], path: Path, logits: Mapping[str, Any]
) -> None:
    """Confusion matrices: rows are the true classes, columns the answers.

    `classes` is a word for a class, such as "digit", and the names of the classes.
    """
    labels = np.asarray(labels)
    what, names = classes
    figure = figure_of(5.6 * len(logits), 5.2)
    for axes, (cell, values) in zip(np.ravel(figure.subplots(1, len(logits))), logits.items(), strict=True):
        answers = np.argmax(values, axis=-1)
        counts = np.zeros((len(names), len(names)), np.int64)
        np.add.at(counts, (labels, answers), 1)
        axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(counts):
            colour = "white" if row == column else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        right = int(np.trace(counts))
        axes.set(title=f"{cell}: {right} of {len(labels)} right", xlabel=f"answer ({what})", ylabel=f"truth ({what})")
    figure.savefig(path, dpi=150)


def predictions(targets: ArrayLike, limits: tuple[float, float], path: Path, answers: Mapping[str, Any]) -> None:
    """Answers against targets. Right answers lie on the diagonal; a model that learns nothing gives a level line."""
    low, high = limits
    margin = (high - low) / 20
    targets = np.asarray(targets)[:1000]
    figure = figure_of(4.2 * len(answers), 4.4)
    panels = np.ravel(figure.subplots(1, len(answers), sharex=True, sharey=True))
    for axes, (cell, values) in zip(panels, answers.items(), strict=True):
        axes.plot(limits, limits, color="black", linestyle="--", linewidth=1, label="right")
        axes.scatter(targets, values[: len(targets)], s=6, alpha=0.5, color=COLOURS[cell], label="answers")
        error = np.mean((values[: len(targets)] - targets) ** 2)
        axes.set_title(f"{cell}: mean squared error {error:.2g}")
        axes.set(xlabel=f"target, {len(targets)} test sequences", aspect="equal")
        axes.set(xlim=limits, ylim=(low - margin, high + margin))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("answer")
    panels[0].legend(loc="upper left")
    figure.savefig(path, dpi=150)


def probabilities(
    truth: Bool[np.ndarray, "n C"],
    first: int,
    activation: Callable[[Any], Any],
    names: Sequence[str],
    path: Path,
    logits: Mapping[str, Any],
) -> None:
    """The predicted probabilities, with dots for the targets, at n steps of the first test sequence from `first` on.

    `activation` turns logits ``[T, B, C]`` into probabilities. `names` labels the C outputs; if empty, by number.
    """
    steps = len(truth)
    figure = figure_of(max(5.0, min(11.0, 1.5 + steps / 6)), 0.6 + 2.4 * len(logits))
    panels = np.ravel(figure.subplots(len(logits), 1, sharex=True))
    for axes, (cell, values) in zip(panels, logits.items(), strict=True):
        shown = np.asarray(activation(values[first : first + steps, 0]))
        axes.imshow(shown.T, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="none", origin="lower")
        axes.plot(*np.nonzero(truth), ".", color="tab:red", markersize=3, label="target")
        axes.set(title=cell, ylabel="output")
        if names:
            axes.set_yticks(range(len(names)), names)
    panels[0].legend(loc="upper left")
    panels[-1].set_xlabel(f"step, from {first}")
    figure.colorbar(panels[0].images[0], ax=list(panels), label="probability")
    figure.savefig(path, dpi=150)


def figure_of(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure  # slow to import, and only needed after training

    return Figure(figsize=(width, height), layout="constrained")


def _plain_numbers(axis: Any) -> None:
    """Label a logarithmic axis with 0.4 rather than 4 x 10^-1, also between powers of ten if the axis spans few."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain(labelOnlyBase=False, minor_thresholds=(1, 0.5)))


def _curves(axes: Any, rows: list[dict[str, str]], name: str, cell: str, smooth: int, **style: Any) -> None:
    """One line for each seed from the columns name.0, name.1, ..., skipping empty cells; a mean over `smooth` rows."""
    seeds = [column for column in rows[0] if column.rpartition(".")[0] == name]
    for index, column in enumerate(seeds):
        points = np.array([(float(row["step"]), float(row[column])) for row in rows if row[column]])
        kernel = np.ones(min(smooth, len(points))) / min(smooth, len(points))
        steps, values = (np.convolve(points[:, axis], kernel, mode="valid") for axis in (0, 1))
        label = cell if index == 0 else None
        axes.plot(steps, values, color=COLOURS[cell], linewidth=1.2, alpha=1 / len(seeds) ** 0.5, label=label, **style)
