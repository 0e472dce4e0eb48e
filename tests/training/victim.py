"""A program that trains, and is killed: each line of its input, "DIRECTORY SECONDS", is a training process.

It is sent SIGKILL so many seconds after its first save began, or where they are negative, after it began itself; with
"never" it runs to its end. The answer is one line, "killed" or "exit STATUS". Each is a fork of one process, so that
the libraries are loaded but once.
"""

import os
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint  # noqa: F401  (loaded here, before the fork)

import jaxlstm as jl
from jaxlstm.training import Checkpoints, Log, fit, init_state, make_train_step

STEPS = 60


def train(directory, began):
    """An RNN with a carried state and Adam, with a checkpoint every two steps; `began` is called in the first save."""
    cell, optimizer = jl.RNNCell(4), optax.adam(0.01)

    def loss_fn(params, carry, batch, key):
        carry, ys = jl.unroll(cell, params, batch + 0.1 * jax.random.normal(key, batch.shape), carry)
        return jnp.mean((ys - 0.5) ** 2), (carry, {})

    def batches():
        for step in range(STEPS):
            if step == resumed + 2:  # the batch before came with the step that was saved
                began()
            yield np.random.default_rng(step).normal(size=(3, 2, 3)).astype(np.float32)

    params = cell.init(jax.random.key(0), 3)
    state = init_state(params, optimizer, jax.random.key(1), carry=cell.init_carry(params, (2,)))
    checkpoints = Checkpoints(directory / "saved", every=2)
    resumed = max(checkpoints.steps, default=0)
    state = fit(
        make_train_step(loss_fn, optimizer),
        state,
        batches(),
        steps=STEPS,
        log=Log(directory / "log.csv"),
        checkpoints=replace(checkpoints, resume=resumed > 0),
        progress=False,
    )
    (directory / "final").write_bytes(b"".join(leaf.tobytes() for leaf in jax.tree.leaves(state.params)))


def answer(directory, seconds):
    """Run one process to its end, or kill it."""
    receive, send = os.pipe()
    process = os.fork()
    if not process:
        try:
            train(Path(directory), lambda: os.write(send, b"."))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(send)
    if seconds != "never" and (float(seconds) < 0 or os.read(receive, 1)):
        time.sleep(abs(float(seconds)))
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    os.close(receive)
    return "killed" if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL else f"exit {status}"


if __name__ == "__main__":
    for line in sys.stdin:
        print(answer(*line.split()), flush=True)
