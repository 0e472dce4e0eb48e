"""One training step on many devices: steps per second, and what the devices have to tell each other.

An LSTM layer and Adam on a mesh of 1 to 8 virtual CPU devices, the batch divided among them, and in two processes. The
devices share this machine's cores, so more of them are not expected to be faster: what can be seen is what dividing the
work costs.
The bytes of all collectives are read from the compiled programs. `pod.py` says what they mean on real devices.
Prints Markdown.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import common
import pod

LAYOUTS: dict[str, dict[str, int]] = {  # axes of the mesh, and processes
    "no mesh": {},
    "1 device": {"data": 1},
    "2 devices": {"data": 2},
    "4 devices": {"data": 4},
    "8 devices": {"data": 8},
    "2 processes, 1 device each": {"data": 2, "processes": 2},
    "2 processes, 4 devices each": {"data": 8, "processes": 2},
    "8 devices, 2 of them for the gates": {"data": 4, "model": 2},
}
SIZES = {"hidden": 256, "inputs": 256, "batch": 64, "steps": 128}
LENGTHS = (64, 128, 256)  # T at which bytes are read
TYPES = {"f32": 4, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8, "pred": 1, "u8": 1, "s8": 1, "f64": 8}


def main() -> None:
    """Measure what the arguments ask for, and report it."""
    args = arguments()
    if args.worker:
        print(json.dumps(work(json.loads(args.worker), args.rounds)))
        return
    report: dict[str, Any] = {**common.environment(), "rounds": args.rounds, "layouts": {}}
    for name in args.layouts:
        common.note(f"measuring {name}")
        report["layouts"][name] = launch(LAYOUTS[name], args.rounds)
    text = markdown(report)
    print(text)
    if args.into:
        common.write_section(args.into, "scale", text)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), metavar="NAME", help="; ".join(LAYOUTS)
    )
    parser.add_argument("--rounds", type=int, default=20, help="timed steps of each (20)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything measured")
    parser.add_argument("--into", type=Path, metavar="FILE", help="replace this report's section of a Markdown file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # what one process is to do, as JSON
    return parser.parse_args()


def launch(layout: dict[str, int], rounds: int) -> dict[str, Any]:
    """Measure a layout in processes of its own, whose devices have to be there before JAX is loaded."""
    processes = layout.get("processes", 1)
    devices = layout.get("data", 1) * layout.get("model", 1) // processes
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip(),
    }
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    jobs = [{"layout": layout, "process": process, "coordinator": coordinator} for process in range(processes)]
    commands = [[sys.executable, __file__, "--rounds", str(rounds), "--worker", json.dumps(job)] for job in jobs]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for command in commands]
    answers = [process.communicate()[0] for process in running]
    if failed := [process.returncode for process in running if process.returncode]:
        raise RuntimeError(f"{layout}: a process ended with exit code {failed[0]}")
    return json.loads(answers[0].splitlines()[-1])


def work(job: dict[str, Any], rounds: int) -> dict[str, Any]:
    """What one process does: time steps at the base length, and read the collectives at every length."""
    import jax
    import numpy as np
    import optax
    from jax.sharding import Mesh

    import jaxlstm as jl
    from jaxlstm.training import connect, init_state, make_train_step

    layout = job["layout"]
    processes = layout.get("processes", 1)
    if processes > 1:
        connect(num_processes=processes, process_id=job["process"], coordinator=job["coordinator"])
    cell, optimizer = jl.LSTMCell(SIZES["hidden"]), optax.adam(1e-3)
    mesh = None
    if "data" in layout:
        axes = {name: layout[name] for name in ("data", "model") if name in layout}
        mesh = Mesh(np.array(jax.devices()).reshape(*axes.values()), tuple(axes))

    def loss(params: jl.LSTMParams, xs: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return (jl.unroll(cell, params, xs)[1] ** 2).mean(), {}

    def batch(length: int) -> np.ndarray:
        shape = (length, SIZES["batch"] // processes, SIZES["inputs"])
        return np.random.default_rng(job["process"]).normal(size=shape).astype(np.float32)

    params = cell.init(jax.random.key(0), SIZES["inputs"])
    state = init_state(params, optimizer, jax.random.key(1))
    step = make_train_step(loss, optimizer, mesh=mesh)
    found = {}
    if mesh is not None:
        for length in LENGTHS:
            found[str(length)] = collectives(step.lower(state, batch(length)).compile().as_text())
    xs, seconds = batch(SIZES["steps"]), []
    for round_ in range(rounds + 2):
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, xs))
        if round_ >= 2:
            seconds.append(time.perf_counter() - begin)
    return {"ms": median(seconds) * 1e3, "collectives": found, "weights": sum(leaf.nbytes for leaf in params)}


def collectives(text: str) -> dict[str, float]:
    """Bytes that come out of collectives, once a step of training (entry) and in loops over time, once a time step."""
    before, _, entry = text.partition("\nENTRY ")
    return {"once": _bytes(entry), "each time step": _bytes(before)}


def _bytes(text: str) -> float:
    lines = re.findall(
        r"= (.*?) (?:all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?[(]", text
    )
    total = 0
    for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", " ".join(lines)):
        size = TYPES[kind]
        for axis in filter(None, shape.split(",")):
            size *= int(axis)
        total += size
    return total


def markdown(report: dict[str, Any]) -> str:
    """The whole report: circumstances, what was measured, and the model of a pod."""
    first = next(iter(report["layouts"].values()))["ms"]
    rows = []
    for name, result in report["layouts"].items():
        cells = [name, f"{1e3 / result['ms']:.2f}", f"{first / result['ms']:.2f}"]
        for kind in ("once", "each time step"):
            sizes = [f"{found[kind] / 1e6:.3f}" for found in result["collectives"].values()]
            cells.append(" / ".join(dict.fromkeys(sizes)) if sizes else "")
        rows.append(cells)
    shape = "B {batch}, T {steps}, I {inputs}, H {hidden}".format(**SIZES)
    parts = [
        common.circumstances(report),
        f"LSTM, {shape}, float32, Adam; median of {report['rounds']} steps. The devices are virtual ones of one CPU.",
        common.table(
            ["", "steps a second", "of the first's", "MB of collectives a step", "and in each step of the loops"], rows
        ),
        f"MB of collectives for T {', '.join(map(str, LENGTHS))}; one number where all three are the same. Weights and "
        f"biases: {next(iter(report['layouts'].values()))['weights'] / 1e6:.3f} MB.",
        pod.markdown(),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
