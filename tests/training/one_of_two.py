"""Run twice by test_processes.py, as two processes that train one model: PROCESS PORT DIRECTORY STEPS RESUME.

Each has two devices, and the sequences' carries lie on all four. Of seven sequences the one has four and the other
three, or in every other batch two; nothing counts in the places that are left.
"""

import itertools
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

import jaxlstm as jl
from jaxlstm.training import Checkpoints, Log, connect, fit, init_state, make_train_step, squared_error

CELL, OPTIMIZER = jl.GRUCell(4), optax.adam(0.1)


class OwnPart:
    """This process's sequences of every batch, with a position of its own in them."""

    def __init__(self, process, processes):
        self.process, self.processes, self.n = process, processes, 0

    def __iter__(self):
        return self

    def __next__(self):
        sequences = 7 - self.n % 2
        xs = np.random.default_rng(self.n).normal(size=(3, sequences, 2)).astype(np.float32)
        self.n += 1
        if self.processes == 1:  # nothing else pads them
            xs = np.pad(xs, [(0, 0), (0, 7 - sequences), (0, 0)])
            return {"xs": xs, "mask": np.arange(7) < sequences}
        own = np.split(xs, [4], axis=1)[self.process]
        return {"xs": own, "mask": np.ones(own.shape[1], bool)}

    def get_state(self):
        return {"n": self.n, "process": self.process}

    def set_state(self, state):
        assert state["process"] == self.process
        self.n = state["n"]


def loss_fn(params, carry, batch, key):
    carry, ys = jl.unroll(CELL, params, batch["xs"], carry)
    last = ys[-1]
    return squared_error(last, jax.numpy.ones_like(last), batch["mask"]), (carry, {})


def make_step(mesh):
    padded = {} if mesh is None else {"mesh": mesh, "batch_size": 8, "mask": "mask"}
    return make_train_step(loss_fn, OPTIMIZER, batch_axis={"xs": 1, "mask": 0}, **padded)


def begin(carried):
    """A first state, with the carries of so many sequences."""
    params = CELL.init(jax.random.key(0), 2)
    return init_state(params, OPTIMIZER, jax.random.key(1), carry=CELL.init_carry(params, (carried,)))


def train(process, processes, directory, steps, mesh, resume, carried):
    """The last state, begun or resumed."""
    options = {
        "log": Log(directory / "log.csv"),
        "checkpoints": Checkpoints(directory / "saved", every=2, resume=resume),
    }
    return fit(make_step(mesh), begin(carried), OwnPart(process, processes), steps=steps, progress=False, **options)


def check_refusals(process, mesh, state):
    """What one of them does wrong, both say."""
    step, batch = make_step(mesh), next(OwnPart(process, 2))
    state, _ = step(state, batch)
    larger = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf], axis=-2 if leaf.ndim > 1 else 0), batch)
    with pytest.raises(ValueError, match=r"batch: expected at most 4 sequences of each process \(batch_size\), got"):
        step(state, larger)

    def untrained(message, batch, **options):
        step = make_train_step(lambda params, carry, xs, key: None, OPTIMIZER, **options)
        with pytest.raises(ValueError, match=message):
            step(state, batch)

    xs = np.ones((3, 4, 2), np.float32)
    untrained(r"expected 4 sequences, .*mask=.* got 3 and", xs[:, process:], mesh=mesh, batch_size=8)
    untrained(r"batch: expected the same shapes in every process", xs[process:], mesh=mesh)
    with pytest.raises(ValueError, match="mesh: expected the same number of devices from each of the 2 processes, got"):
        make_step(Mesh(np.array(jax.local_devices()), ("data",)))


def check_ends(process, mesh, directory):
    """Batches that end, or fail, in one process alone."""

    def batches(count, error=None):
        yield from itertools.islice(OwnPart(process, 2), count)
        if error:
            raise error

    def ended(message, batches, step, **options):
        with pytest.raises(ValueError, match=message):
            fit(step, begin(8), batches, steps=5, progress=False, **options)

    checkpoints = Checkpoints(directory / "ended")
    ended("batches: expected 5 of them", batches(2 if process else 9), make_step(mesh), checkpoints=checkpoints)
    assert checkpoints.steps == (2,)
    if process == 0:
        assert checkpoints.best_step is None  # which a process may ask alone
    mine = ValueError("a broken reader") if process else None
    message = "a broken reader" if process else "batches: expected a batch in every process, got an error in another"
    ended(message, batches(2 if process else 9, mine), make_step(mesh))
    alone = lambda state, batch: (state, {})  # noqa: E731
    ended("train_step: expected a mesh of the devices of all processes", OwnPart(process, 2), alone)


def main():
    process, port, directory, steps = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    resume = sys.argv[5] == "True"
    connect(num_processes=2, process_id=process, coordinator=f"localhost:{port}")
    assert (jax.process_count(), jax.local_device_count(), jax.device_count()) == (2, 2, 4)
    devices = np.array(jax.devices())
    with pytest.raises(ValueError, match="mesh: expected each index of the 'data' axis within one process"):
        make_step(Mesh(devices.reshape(2, 2), ("model", "data")))
    mesh = Mesh(devices, ("data",))
    state = train(process, 2, directory, steps, mesh, resume, carried=8)
    np.save(directory / f"w_hh{process}.npy", state.params.w_hh.addressable_data(0))
    check_refusals(process, mesh, state)
    if not resume:
        check_ends(process, mesh, directory)


if __name__ == "__main__":
    main()
