"""The training gradient against T, B and H: its time, its compile time and its compiled temporary memory.

For each value without rematerialisation, with remat=True, and with chunks of about sqrt(T) steps. Also counts the
compilations of 1000 training steps. Prints Markdown.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

import common
import jaxlstm as jl
from implementations import Size

BASE = Size(B=8, T=256, I=128, H=128)
SWEEPS = {
    "T": [64, 256, 1024, 4096, 16384],
    "B": [1, 8, 32, 128],
    "H": [64, 128, 256, 512],
}
REMATS: dict[str, Callable[[int], bool | int | None]] = {
    "none": lambda steps: None,
    "True": lambda steps: True,
    "sqrt": math.isqrt,
}
MEASURES = {
    "ms": "time, ms",
    "temp_mb": "temporary memory, MB",
    "carry_temp_mb": "memory if the loss reads the last carry, MB",
    "compile_s": "compile time, s",
}


def main() -> None:
    """Measure what the arguments ask for, and report it."""
    args = arguments()
    if args.keep_pages:
        common.keep_pages()
    report: dict[str, Any] = {**common.environment(), "rounds": args.rounds, "base": BASE._asdict(), "sweeps": {}}
    report["compilations"] = compilations(steps=1000)
    for axis in args.sweeps:
        values = [value for value in SWEEPS[axis] if axis != "T" or value <= args.longest]
        report["sweeps"][axis] = {str(value): measure(at(axis, value), args.rounds) for value in values}
    text = markdown(report)
    print(text)
    if args.into:
        common.write_section(args.into, "scaling, pages kept" if args.keep_pages else "scaling", text)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.plot:
        plot(report, args.plot)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS), metavar="AXIS", help="T, B, H")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each (5)")
    parser.add_argument("--longest", type=int, default=16384, metavar="T", help="leave out longer sequences (16384)")
    parser.add_argument("--keep-pages", action="store_true", help="have glibc keep freed memory, in a new process")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every time measured")
    parser.add_argument("--plot", type=Path, metavar="OUT", help="draw the curves (needs matplotlib)")
    parser.add_argument("--into", type=Path, metavar="FILE", help="replace this report's section of a Markdown file")
    return parser.parse_args()


def at(axis: str, value: int) -> Size:
    """The base size but for one axis; inputs are as wide as the hidden state."""
    return BASE._replace(H=value, I=value) if axis == "H" else BASE._replace(**{axis: value})


def loss(cell: jl.LSTMCell, remat: bool | int | None, params: jl.LSTMParams, xs: jax.Array) -> jax.Array:
    """Mean of the squared outputs, as in peers.py."""
    return jnp.mean(jl.unroll(cell, params, xs, remat=remat)[1] ** 2)


def carry_loss(cell: jl.LSTMCell, remat: bool | int | None, params: jl.LSTMParams, xs: jax.Array) -> jax.Array:
    """A loss without ys, which with their gradient take ``2 T B H`` numbers whatever remat does."""
    return jnp.mean(jl.unroll(cell, params, xs, remat=remat)[0].h ** 2)


def temp_mb(compiled: jax.stages.Compiled) -> float:
    """The temporary memory that XLA planned."""
    memory = compiled.memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes / 1e6


def measure(size: Size, rounds: int) -> dict[str, dict[str, Any]]:
    """The three ways of remat at one size, their calls interleaved."""
    common.note(f"measuring {size}")
    cell = jl.LSTMCell(hidden_size=size.H)
    params = cell.init(jax.random.key(0), input_size=size.I)
    xs = jax.random.normal(jax.random.key(1), (size.T, size.B, size.I))
    results, calls = {}, {}
    for name, remat in REMATS.items():
        train, carry_train = (
            jax.jit(jax.value_and_grad(partial(f, cell, remat(size.T)), argnums=(0, 1))) for f in (loss, carry_loss)
        )
        begin = time.perf_counter()
        compiled = train.lower(params, xs).compile()
        results[name] = {"compile_s": time.perf_counter() - begin, "temp_mb": temp_mb(compiled)}
        results[name]["carry_temp_mb"] = temp_mb(carry_train.lower(params, xs).compile())
        calls[name] = partial(compiled, params, xs)
    for name, times in common.interleave(calls, rounds).items():
        results[name] |= {"ms": median(times), "min_ms": min(times), "times_ms": times}
    return results


def compilations(steps: int) -> int:
    """How often XLA compiles in that many training steps, the first included."""
    cell = jl.LSTMCell(hidden_size=16)
    params = cell.init(jax.random.key(0), input_size=8)
    batches = list(jax.random.normal(jax.random.key(1), (10, 16, 4, 8)))

    @jax.jit
    def step(params: jl.LSTMParams, xs: jax.Array) -> jl.LSTMParams:
        gradient = jax.grad(partial(loss, cell, None))(params, xs)
        return jax.tree.map(lambda param, slope: param - 0.1 * slope, params, gradient)

    events: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.block_until_ready((params, batches))
    for index in range(steps):
        params = step(params, batches[index % len(batches)])
    jax.monitoring.unregister_event_duration_listener(listen)
    return sum("backend_compile" in event for event in events)


def markdown(report: dict[str, Any]) -> str:
    """The whole report: circumstances, a table a sweep."""
    base = ", ".join(f"{axis} {length}" for axis, length in report["base"].items())
    parts = [
        f"{common.circumstances(report)}\n- float32; median of {report['rounds']} interleaved rounds; {base} but for "
        f"what varies, I = H\n- XLA compilations in 1000 training steps: {report['compilations']}",
        "Value and gradients of all weights and of xs for mean(ys**2). remat: none / True / chunks of about sqrt(T). "
        "In brackets: the quotient by the first. Compile time includes tracing.",
        *(sweep_table(axis, sweep) for axis, sweep in report["sweeps"].items()),
    ]
    return "\n\n".join(parts)


def sweep_table(axis: str, sweep: dict[str, Any]) -> str:
    """One row a value, the three ways of remat in each cell."""
    rows = []
    for value, results in sweep.items():
        cells = [value]
        for measure in ("ms", "temp_mb", "carry_temp_mb"):
            none, *others = (results[name][measure] for name in REMATS)
            cells.append(f"{none:.1f} / " + " / ".join(f"{other:.1f} ({other / none:.2f})" for other in others))
        cells.append(" / ".join(f"{results[name]['compile_s']:.2f}" for name in REMATS))
        rows.append(cells)
    return common.table([axis, *MEASURES.values()], rows)


def plot(report: dict[str, Any], path: Path) -> None:
    """A column for each sweep, a row for each measure, a line for each way of remat."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    sweeps = report["sweeps"]
    shape = len(MEASURES), len(sweeps)
    figure, panels = plt.subplots(*shape, figsize=(max(4 * shape[1], 8), 12), layout="constrained", squeeze=False)
    for column, (axis, sweep) in enumerate(sweeps.items()):
        for row, (measure, label) in enumerate(MEASURES.items()):
            panel = panels[row, column]
            for name, marker in zip(REMATS, "os^", strict=True):
                panel.plot(list(map(int, sweep)), [r[name][measure] for r in sweep.values()], marker=marker, label=name)
            panel.set_xscale("log", base=2)
            if measure == "compile_s":
                panel.set_ylim(bottom=0)
            else:
                panel.set_yscale("log")
            panel.set_xticks(list(map(int, sweep)), list(sweep))
            panel.set_xlabel(axis)
            panel.set_ylabel(label, fontsize=8)
            panel.grid(alpha=0.3)
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False, title="training gradient, remat =")
    figure.supxlabel(f"{report['machine']}\n{report['settings']}; median of {report['rounds']} rounds", fontsize=8)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
