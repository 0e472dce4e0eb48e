"""Pictures of a run. Figures are objects of their own here: no window, no global state, any backend."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import ArrayLike

COLOURS = {"rnn": "tab:red", "gru": "tab:green", "lstm": "tab:blue"}


def learning_curve(
    path: Path, metrics: Path, cells: Sequence[str], figure_name: str, baseline: tuple[str, float] | None
) -> None:
    """Training loss, and the test figure beside it, by step, as metrics.csv has them: a line for each seed."""
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure = _figure(11.0, 4.2)
    loss_axes, test_axes = figure.subplots(1, 2)
    for cell in cells:
        _curves(loss_axes, rows, f"{cell}.loss", cell, smooth=max(1, len(rows) // 100))
        _curves(test_axes, rows, f"{cell}.test", cell, smooth=1, marker="o", markersize=3)
    loss_axes.set(title="training", xlabel="step", ylabel="loss, running mean", yscale="log")
    test_axes.set(title=figure_name, xlabel="step", ylabel=figure_name)
    if "error" in figure_name:
        test_axes.set_yscale("log")
    elif min(line.get_ydata()[-1] for line in test_axes.get_lines()) > 0.9:
        test_axes.set_ylim(0.8, 1.005)  # the first evaluations would flatten all the others
    if baseline:
        name, value = baseline
        test_axes.axhline(value, color="black", linestyle="--", linewidth=1, label=f"{name}: {value:.4g}")
    for axes in (loss_axes, test_axes):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def confusion_matrix(labels: ArrayLike, path: Path, logits: Mapping[str, Any]) -> None:
    """How often each class was taken for each: rows are the truth, columns the answers."""
    labels = np.asarray(labels)
    classes = int(labels.max()) + 1
    figure = _figure(5.6 * len(logits), 5.2)
    for axes, (cell, values) in zip(np.ravel(figure.subplots(1, len(logits))), logits.items(), strict=True):
        answers = np.argmax(values, axis=-1)
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (labels, answers), 1)
        axes.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(counts):
            colour = "white" if row == column else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
        names = [str(index + 1) for index in range(classes)]
        axes.set_xticks(range(classes), names)
        axes.set_yticks(range(classes), names)
        right = int(np.trace(counts))
        axes.set(title=f"{cell}: {right} of {len(labels)} right", xlabel="answer (speaker)", ylabel="truth (speaker)")
    figure.savefig(path, dpi=150)


def predictions(targets: ArrayLike, path: Path, answers: Mapping[str, Any]) -> None:
    """Answers against targets: on the diagonal where right, on a level line where the target is not seen at all."""
    targets = np.asarray(targets)[:1000]
    figure = _figure(4.2 * len(answers), 4.4)
    panels = np.ravel(figure.subplots(1, len(answers), sharex=True, sharey=True))
    for axes, (cell, values) in zip(panels, answers.items(), strict=True):
        axes.plot([0, 2], [0, 2], color="black", linestyle="--", linewidth=1, label="right")
        axes.scatter(targets, values[: len(targets)], s=6, alpha=0.5, color=COLOURS[cell], label="answers")
        error = np.mean((values[: len(targets)] - targets) ** 2)
        axes.set_title(f"{cell}: mean squared error {error:.2g}")
        axes.set(xlabel=f"target, {len(targets)} test sequences", aspect="equal")
        axes.set(xlim=(0, 2), ylim=(-0.1, 2.1))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("answer")
    panels[0].legend(loc="upper left")
    figure.savefig(path, dpi=150)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # here, since it takes a second that an evaluation need not wait

    return Figure(figsize=(width, height), layout="constrained")


def _curves(axes: Any, rows: list[dict[str, str]], name: str, cell: str, smooth: int, **style: Any) -> None:
    """A line for each seed: the columns name.0, name.1, ..., empty cells left out, and a mean over `smooth` steps."""
    seeds = [column for column in rows[0] if column.rpartition(".")[0] == name]
    for index, column in enumerate(seeds):
        points = np.array([(float(row["step"]), float(row[column])) for row in rows if row[column]])
        kernel = np.ones(min(smooth, len(points))) / min(smooth, len(points))
        steps, values = (np.convolve(points[:, axis], kernel, mode="valid") for axis in (0, 1))
        label = cell if index == 0 else None
        axes.plot(steps, values, color=COLOURS[cell], linewidth=1.2, alpha=1 / len(seeds) ** 0.5, label=label, **style)
