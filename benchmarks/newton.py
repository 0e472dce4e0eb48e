"""Newton's method beside what the Lyapunov exponents predict, for six cells, as drawn and trained.

Each cell has 16 units and is trained on the adding task of 50 steps. Then sequences of the task with 512 steps are
evaluated by Newton's method, with the initial params, with those times 2 and 3, and with the trained ones. Prints
Markdown; needs the extra ``jaxlstm[tasks]``.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import common
import jaxlstm as jl
from jaxlstm.inspect import lyapunov_exponents, newton_converges, newton_report
from jaxlstm.tasks import make_adding
from jaxlstm.training import init_state, make_train_step

UNITS, STEPS, SEQUENCES, BATCH, TRAINING, LEARNING_RATE = 16, 512, 8, 64, 3000, 3e-3
CELLS = ("LSTMCell", "GRUCell", "RNNCell", "MGUCell", "IndRNNCell", "SLSTMCell")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=TRAINING, help=f"training steps ({TRAINING})")
    parser.add_argument("--into", type=Path, metavar="FILE", help="replace this report's section of a Markdown file")
    args = parser.parse_args()
    lines = [line for name in CELLS for line in of_cell(getattr(jl, name)(UNITS), args.steps)]
    head = ["cell, params", "largest exponent", "predicted", "converged", "iterations"]
    text = common.table(head, lines)
    print(text)
    if args.into:
        common.write_section(args.into, "newton", text)


def of_cell(cell: jl.Cell, steps: int) -> list[list[str]]:
    """A line for each kind of params."""
    drawn = cell.init(jax.random.key(0), 2)
    trained, loss = train(cell, drawn, steps)
    name = type(cell).__name__
    kinds = {"as drawn": drawn} | {f"times {n}": jax.tree.map(lambda leaf, n=n: n * leaf, drawn) for n in (2, 3)}
    kinds[f"trained to a loss of {loss:.4f}"] = trained
    return [[f"{name}, {kind}", *measure(cell, params)] for kind, params in kinds.items()]


def measure(cell: jl.Cell, params: Any) -> list[str]:
    """The largest exponents, what they predict, and what comes of it."""
    xs = make_adding(jax.random.key(1), SEQUENCES, STEPS).xs
    exponents = lyapunov_exponents(cell, params, xs)
    report = newton_report(cell, params, xs)
    largest, iterations = np.asarray(exponents[:, 0]), np.asarray(report.iterations)
    return [
        f"{largest.min():.2f} to {largest.max():.2f}",
        f"{int(newton_converges(exponents).sum())} of {SEQUENCES}",
        f"{int(report.converged.sum())} of {SEQUENCES}",
        f"{iterations.min()} to {iterations.max()}",
    ]


def train(cell: jl.Cell, params: Any, steps: int) -> tuple[Any, float]:
    """The cell's params after training on sums that its last output predicts through a vector, and the last loss."""

    def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        _, ys = jl.unroll(cell, params["cell"], batch.xs)
        return jnp.mean((ys[-1] @ params["w"] + params["b"] - batch.targets) ** 2), {}

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(LEARNING_RATE))
    first = {"cell": params, "w": jnp.zeros(cell.output_size), "b": jnp.zeros(())}
    state = init_state(first, optimizer, jax.random.key(2))
    step = make_train_step(loss_fn, optimizer)
    batches = jax.jit(lambda n: make_adding(jax.random.key(n), BATCH, 50))
    for n in range(steps):
        state, metrics = step(state, batches(n))
    return state.params["cell"], float(metrics["loss"])


if __name__ == "__main__":
    main()
