"""Where a training step spends its time: a profile, summed over the scopes that the core names.

For each size, the milliseconds that the threads together spend in each scope during a value and gradient of
`jaxlstm.unroll`, for an LSTM. Prints Markdown.
"""

import argparse
import collections
import re
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.profiler import ProfileData

import common
import jaxlstm as jl
from implementations import SIZES

SCOPES = ("project", "recur", "combine", "transition", "readout", "all_steps", "linear_scan")
RUNS = 5


def main() -> None:
    """Profile each size, and report it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="default: all")
    parser.add_argument("--into", type=Path, metavar="FILE", help="replace this report's section of a Markdown file")
    args = parser.parse_args()
    machine = common.circumstances(common.environment())
    found = {size: profile(*SIZES[size]) for size in args.sizes}
    scopes = sorted({scope for times in found.values() for scope in times})
    rows = [[scope, *(f"{found[size].get(scope, 0):.2f}" for size in args.sizes)] for scope in scopes]
    rows.append(["all", *(f"{sum(found[size].values()):.2f}" for size in args.sizes)])
    said = (
        f"Value and gradient of an LSTM, float32: ms of all threads together, mean of {RUNS} runs. What XLA merged of "
        "several scopes stands under that of its result. Without a scope: the zeros that a loop's outputs are filled "
        "with, stores, and the loss. XLA's own: what lost its name, such as copies of zeros, and matmuls of one row."
    )
    text = "\n\n".join([machine, said, common.table(["", *args.sizes], rows)])
    print(text)
    if args.into:
        common.write_section(args.into, "where", text)


def profile(batch: int, steps: int, features: int, hidden_size: int) -> dict[str, float]:
    """Milliseconds a run in each scope."""
    cell = jl.LSTMCell(hidden_size)
    params = cell.init(jax.random.key(0), features)
    xs = jax.random.normal(jax.random.key(1), (steps, batch, features))
    run = jax.jit(jax.value_and_grad(lambda params, xs: jnp.mean(jl.unroll(cell, params, xs)[1] ** 2), argnums=(0, 1)))
    compiled = run.lower(params, xs).compile()
    jax.block_until_ready(compiled(params, xs))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(RUNS):
                jax.block_until_ready(compiled(params, xs))
        (file,) = Path(folder).rglob("*.xplane.pb")
        planes = list(ProfileData.from_file(str(file)).planes)
    scopes = scopes_of(compiled.as_text())
    spent: dict[str, float] = collections.Counter()
    for event in (event for plane in planes for line in plane.lines for event in line.events):
        if event.name in scopes:
            spent[scopes[event.name]] += event.duration_ns / 1e6 / RUNS
    return spent


def scopes_of(hlo: str) -> dict[str, str]:
    """What each operation of a program belongs to, without those that hold others."""
    found = {}
    for name, operation, rest in re.findall(r"^ *(?:ROOT )?%([\w.-]+) = .*? ([\w-]+)\((.*)$", hlo, re.MULTILINE):
        if operation not in ("while", "conditional", "call"):
            path = re.findall(r'op_name="([^"]*)"', rest)
            found[name] = scope(path[0].split("/")) if path else f"XLA's own: {operation}"
    return found


def scope(path: list[str]) -> str:
    """The pass, the loop or the part outside the loops, and the innermost scope of an operation."""
    names = [part for part in path if part in SCOPES]
    direction = "backward" if any(part.startswith("transpose(") for part in path) else "forward"
    place = "loop" if "while" in path else "outside the loops"
    return ", ".join([direction, place, *names[-1:]]) if names else f"{direction}, {place}, no scope"


if __name__ == "__main__":
    main()
