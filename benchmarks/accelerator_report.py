"""What `accelerator.py` measured, as Markdown tables and as bars."""

from pathlib import Path
from statistics import median
from typing import Any

import common
from implementations import Size

OURS, PASSES = "jaxlstm", ("forward", "train")
COLORS = {"jaxlstm": "#c1121f", "torch": "#f77f00"}  # by the first word of a row; of the others "#4a90c2"


def markdown(about: str, errors: dict[str, float], rows: list[dict[str, Any]], sizes: dict[str, Size]) -> str:
    """The report."""
    parts = [
        f"- {about}\n- Largest relative error against float64 at small: "
        + "; ".join(f"{name} {error:.0e}" for name, error in errors.items()),
        "Median in ms, and us a time step. Train: value and gradients of all weights and of xs for mean(ys**2). Ratio: "
        "time divided by jaxlstm's of the first row; **above 1, jaxlstm is faster**. float32 where nothing else is "
        "said, matmuls in the device's default precision (TF32 on NVIDIA, here and in torch).",
    ]
    for name, size in sizes.items():
        here = [row for row in rows if row["size"] == name]
        base = next((row for row in here if row["who"] == OURS and "error" not in row), None)
        table = [[row["who"], *(cells(row, base, what, size.T) for what in PASSES)] for row in here]
        shape = ", ".join(f"{axis} {n}" for axis, n in size._asdict().items())
        parts.append(common.table([f"{name}: {shape}", "forward: ms, us, ratio", "train: ms, us, ratio"], table))
        parts += [f"- {row['who']}: {row['error']}" for row in here if "error" in row]
    return "\n\n".join(parts)


def cells(row: dict[str, Any], base: dict[str, Any] | None, what: str, steps: int) -> str:
    """One cell of a table."""
    if what not in row:
        return ""
    ms = median(row[what])
    ratio = f"{ms / median(base[what]):.2f}" if base else ""
    return f"{ms:.3f}, {1e3 * ms / steps:.1f}, {ratio}"


def plot(about: str, rows: list[dict[str, Any]], sizes: dict[str, Size], path: Path) -> None:
    """Microseconds a time step of each row: a panel for each size and pass."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    measured = {name: [row for row in rows if row["size"] == name and "error" not in row] for name in sizes}
    shown = {name: found for name, found in measured.items() if found}
    heights = [len(found) + 2 for found in shown.values()]
    figure, panels = plt.subplots(
        len(shown), 2, figsize=(12, 0.24 * sum(heights) + 1), height_ratios=heights, layout="constrained", squeeze=False
    )
    for (name, found), pair in zip(shown.items(), panels, strict=True):
        labels = [row["who"] for row in found]
        for panel, what in zip(pair, PASSES, strict=True):
            times = [1e3 * median(row[what]) / sizes[name].T for row in found]
            colors = [COLORS.get(label.replace(",", "").split()[0], "#4a90c2") for label in labels]
            bars = panel.barh(range(len(found)), times, color=colors)
            panel.bar_label(bars, [f"{us:.1f}" for us in times], fontsize=8, padding=2)
            panel.set_yticks(range(len(found)), labels, fontsize=8)
            panel.invert_yaxis()
            panel.margins(x=0.12)
            panel.set_title(f"{name}: {what}, us a step", loc="left", fontsize=10)
            panel.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(about, fontsize=7, wrap=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
