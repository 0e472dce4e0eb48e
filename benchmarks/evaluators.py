"""The loop, the associative scan and Newton's method on whatever device is present.

Times a minGRU by the loop and by the associative scan, an mLSTM by the loop and in chunks, and a GRU with its initial
params by the loop and by Newton's method: the outputs, and the gradient of mean(ys**2) in params and inputs, which
memory is compiled for too. Short sequences first. Each row is written to
OUT, a file of JSON lines, when it is done, and none begins once the seconds are spent. Prints Markdown at the end.
"""

import argparse
import itertools
import json
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

STEPS, BATCHES, UNITS = (1024, 8192, 65536), (1, 64), (16, 256)
TOY = [(64, 2, 4)]
PAIRS = {
    "minGRU": (jl.MinGRUCell, "associative"),
    "mLSTM, 4 heads": (partial(jl.MLSTMCell, num_heads=4), "chunkwise"),
    "GRU": (jl.GRUCell, "newton"),
}
REPEATS = 10
MOST = 2**28  # elements of all carries, or of all Jacobians; larger rows are left out


def main() -> None:
    """Measure until the seconds are spent, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="the file of JSON lines")
    parser.add_argument("--seconds", type=float, default=240, help="begin no row after this time (240)")
    parser.add_argument("--toy", action="store_true", help="one tiny size, to see that it works")
    parser.add_argument("--into", type=Path, metavar="FILE", help="replace this report's section of a Markdown file")
    args = parser.parse_args()
    began, rows = time.perf_counter(), []
    sizes = TOY if args.toy else list(itertools.product(STEPS, BATCHES, UNITS))
    with args.out.open("w", buffering=1) as out:
        for (steps, batch, units), (name, (make, evaluator)) in itertools.product(sizes, PAIRS.items()):
            matrices = {"associative": 1, "chunkwise": units // 4, "newton": units}[evaluator]
            if time.perf_counter() - began < args.seconds and steps * batch * units * matrices <= MOST:
                rows.append({"cell": name, **measure(make(units), evaluator, steps, batch)})
                out.write(json.dumps(rows[-1]) + "\n")
                common.note(str(rows[-1]))
    device = jax.devices()[0]
    about = f"- {device.device_kind} ({device.platform}), jaxlstm {jl.__version__} ({common.revision()}), "
    text = f"{about}{common.versions()}\n\n{table(rows)}"
    print(text)
    if args.into:
        common.write_section(args.into, "evaluators", text)


def measure(cell: jl.Cell, evaluator: str, steps: int, batch: int) -> dict[str, Any]:
    """Milliseconds and MB of both evaluators, and how far apart their outputs are."""
    params = cell.init(jax.random.key(0), cell.hidden_size)
    xs = jax.random.normal(jax.random.key(1), (steps, batch, cell.hidden_size))
    row: dict[str, Any] = {"T": steps, "B": batch, "H": cell.hidden_size}
    outputs = []
    for name in ("loop", evaluator):

        def forward(params: Any, xs: jax.Array, name: str = name) -> jax.Array:
            return jl.unroll(cell, params, xs, evaluator=name)[1]

        def loss(params: Any, xs: jax.Array, forward: Callable[..., jax.Array] = forward) -> jax.Array:
            return jnp.mean(forward(params, xs) ** 2)

        run = jax.jit(forward)
        train = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        outputs.append(run(params, xs))
        row[name] = {"forward": timed(lambda run=run: run(params, xs)), "train": timed(lambda f=train: f(params, xs))}
        memory = train.lower(params, xs).compile().memory_analysis()
        row[name]["MB"] = memory.temp_size_in_bytes / 1e6 if memory else None
    row["apart"] = float(jnp.abs(outputs[0] - outputs[1]).max())
    return row


def timed(call: Callable[[], Any]) -> float:
    """The median of the milliseconds of some calls; of fewer where they take long."""
    jax.block_until_ready(call())
    taken: list[float] = []
    while len(taken) < REPEATS and sum(taken) < 3000:
        began = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(1e3 * (time.perf_counter() - began))
    return median(taken)


def table(rows: list[dict[str, Any]]) -> str:
    """Milliseconds, and the loop's divided by the other's: above 1, the other is faster."""
    times, memory = ["loop", "at once", "ratio"], ["MB: loop", "at once"]
    head = ["cell, T, B, H", "forward: " + times[0], *times[1:], "train: " + times[0], *times[1:], *memory, "apart"]
    lines = []
    for row in rows:
        loop, other = row["loop"], row[PAIRS[row["cell"]][1]]
        both = [(loop[what], other[what]) for what in ("forward", "train")]
        shown = [text for one, two in both for text in (f"{one:.2f}", f"{two:.2f}", f"{one / two:.2f}")]
        shown += [f"{way['MB']:.1f}" for way in (loop, other)]
        lines.append([", ".join(str(row[name]) for name in ("cell", "T", "B", "H")), *shown, f"{row['apart']:.0e}"])
    return common.table(head, lines)


if __name__ == "__main__":
    main()
