"""Run twice by test_processes.py, as two processes that train one model: PROCESS PORT DIRECTORY STEPS RESUME.

Each has two devices, and the sequences' carries lie on all four.
"""

import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

import jaxlstm as jl
from jaxlstm.training import Checkpoints, fit, init_state, make_train_step, squared_error
from jaxlstm.training._processes import connect

CELL, OPTIMIZER = jl.GRUCell(4), optax.adam(0.1)


class OwnPart:
    """This process's sequences of every batch, with a position of its own in them."""

    def __init__(self, process, processes):
        self.process, self.processes, self.n = process, processes, 0

    def __iter__(self):
        return self

    def __next__(self):
        xs = np.random.default_rng(self.n).normal(size=(3, 4, 2)).astype(np.float32)
        self.n += 1
        return np.split(xs, self.processes, axis=1)[self.process]

    def get_state(self):
        return {"n": self.n, "process": self.process}

    def set_state(self, state):
        assert state["process"] == self.process
        self.n = state["n"]


def train(process, processes, directory, steps, mesh, resume):
    """The last state's params, begun or resumed."""

    def loss_fn(params, carry, xs, key):
        carry, ys = jl.unroll(CELL, params, xs, carry)
        return squared_error(ys, jax.numpy.ones_like(ys)), (carry, {})

    params = CELL.init(jax.random.key(0), 2)
    state = init_state(params, OPTIMIZER, jax.random.key(1), carry=CELL.init_carry(params, (4,)))
    checkpoints = Checkpoints(directory / "saved", every=2)
    options = {"log": directory / "log.csv", "checkpoints": checkpoints, "resume": resume}
    train_step = make_train_step(loss_fn, OPTIMIZER, mesh=mesh)
    return fit(train_step, state, OwnPart(process, processes), steps=steps, progress=False, **options).params


def main():
    process, port, directory, steps = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    resume = sys.argv[5] == "True"
    connect(num_processes=2, process_id=process, coordinator=f"localhost:{port}")
    assert (jax.process_count(), jax.local_device_count(), jax.device_count()) == (2, 2, 4)
    devices = np.array(jax.devices())
    with pytest.raises(ValueError, match="mesh: expected each place on the 'data' axis within one process"):
        make_train_step(lambda params, xs, key: None, OPTIMIZER, mesh=Mesh(devices.reshape(2, 2), ("model", "data")))
    params = train(process, 2, directory, steps, Mesh(devices, ("data",)), resume)
    np.save(directory / f"w_hh{process}.npy", params.w_hh.addressable_data(0))


if __name__ == "__main__":
    main()
