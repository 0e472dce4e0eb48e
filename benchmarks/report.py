"""What `peers.py` measured, as Markdown tables and as a bar chart."""

from pathlib import Path
from statistics import geometric_mean
from typing import Any

from common import circumstances, table

OURS, FLOOR = "jaxlstm", "floor"
JAX_LIBRARIES = ("linen", "nnx", "haiku", "equinox", "keras")
PASSES = ("forward", "train")
CUT = 5  # where the plot cuts a bar; its label tells how far it would go
COLORS = {
    "jaxlstm": "#c1121f",
    "scan": "#8d99ae",
    "linen": "#1d4e89",
    "jaxlstm.linen": "#e5383b",
    "nnx": "#4a90c2",
    "jaxlstm.nnx": "#f48c94",
    "haiku": "#2a9d8f",
    "equinox": "#7cb518",
    "keras": "#b5179e",
    "torch": "#f77f00",
    "onnxruntime": "#6f4e37",
    "floor": "#d9d9d9",
}


def markdown(report: dict[str, Any]) -> str:
    """The whole report: circumstances, a summary, a table a size."""
    sizes = report["sizes"]
    largest = {key: max(result["differences"][key] for result in sizes.values()) for key in ("ys", "gradients")}
    parts = [
        f"{circumstances(report)}\n- float32; {report['rounds']} interleaved rounds in one process; torch and "
        f"onnxruntime with {report['threads']} threads\n- All compute the same function: outputs differ by at most "
        f"{largest['ys']:.0e}, gradients relatively by {largest['gradients']:.0e}",
        "Median (minimum) in ms. Train: value and gradients of all weights and of xs for mean(ys**2). Ratio: time "
        "divided by jaxlstm's in the same round, median; **above 1, jaxlstm is faster**. Temp: compiled temporary "
        "memory of train. GEMM floor: the layer's matmul flops as one big matmul, for train three.",
        "\n".join(f"- {sentence}" for sentence in dict.fromkeys(s for r in sizes.values() for s in r["skipped"])),
        summary_table(report),
        *(size_table(report, size) for size in sizes),
    ]
    return "\n\n".join(part for part in parts if part)


def summary_table(report: dict[str, Any]) -> str:
    """jaxlstm's speed against the fastest JAX library, the plain scan and torch, at each size and on average."""
    head, columns = ["others' time / jaxlstm's"], []
    for what in PASSES:
        for title, names in (
            ("fastest JAX library", JAX_LIBRARIES),
            ("plain scan", ("scan",)),
            ("torch", ("torch",)),
        ):
            fastest = [_fastest(result[what], names) for result in report["sizes"].values()]
            if all(fastest):
                head.append(f"{what}: {title}")
                columns.append(fastest)
    if not columns:
        return ""
    rows = [
        [size, *(f"{ratio:.2f}" + (f" ({name})" if name in JAX_LIBRARIES else "") for ratio, name in cells)]
        for size, *cells in zip(report["sizes"], *columns, strict=True)
    ]
    rows.append(["geometric mean", *(f"{geometric_mean(ratio for ratio, _ in column):.2f}" for column in columns)])
    return table(head, rows)


def _fastest(results: dict[str, Any], names: tuple[str, ...]) -> tuple[float, str] | None:
    return min(((results[name]["ratio"], name) for name in names if name in results), default=None)


def size_table(report: dict[str, Any], size: str) -> str:
    """Everything measured at one size."""
    result = report["sizes"][size]
    rows = []
    for name, title in report["titles"].items():
        if name not in result["forward"]:
            continue
        cells = [title]
        for what in PASSES:
            one = result[what].get(name)
            cells += [f"{_ms(one['median_ms'])} ({_ms(one['min_ms'])})", f"{one['ratio']:.2f}"] if one else ["", ""]
        temp = result["temp_mb"].get(name)
        rows.append([*cells, f"{temp:.1f}" if temp is not None else ""])
    shape = ", ".join(f"{axis} {length}" for axis, length in result["shape"].items())
    head = [f"{size}: {shape}", "forward ms", "ratio", "train ms", "ratio", "temp MB"]
    return table(head, rows)


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def plot(report: dict[str, Any], path: Path) -> None:
    """Bars of the ratios, a panel each for forward and train, a group for each size."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    sizes = report["sizes"]
    names = [name for name in report["titles"] if any(name in result["forward"] for result in sizes.values())]
    width = 0.86 / len(names)
    figure, panels = plt.subplots(2, 1, figsize=(11, 8), layout="constrained")
    for panel, what in zip(panels, PASSES, strict=True):
        for index, name in enumerate(names):
            bars = [
                (at + (index - (len(names) - 1) / 2) * width, result[what][name]["ratio"])
                for at, result in enumerate(sizes.values())
                if name in result[what]
            ]
            if not bars:
                continue
            places, ratios = zip(*bars, strict=True)
            heights = [min(ratio, CUT) for ratio in ratios]
            drawn = panel.bar(places, heights, width, color=COLORS[name], label=report["titles"][name])
            panel.bar_label(drawn, [f"{ratio:.2f}" for ratio in ratios], fontsize=7, rotation=90, padding=2)
        panel.axhline(1, color=COLORS[OURS], linewidth=1, linestyle="--")
        panel.margins(y=0.15)
        labels = [f"{size}\n{', '.join(f'{k} {v}' for k, v in r['shape'].items())}" for size, r in sizes.items()]
        panel.set_xticks(range(len(sizes)), labels)
        panel.set_ylabel("time / jaxlstm's time")
        panel.set_title(f"{what} (above the dashed line: slower than jaxlstm)", loc="left", fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False, fontsize=9
    )
    figure.supxlabel(f"{report['machine']}\n{report['settings']}; median of {report['rounds']} rounds", fontsize=8)
    figure.savefig(path, dpi=150)
