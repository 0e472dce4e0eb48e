"""Two processes over the loopback train what one trains: the same params, one log, a checkpoint of both."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import one_of_two
import pytest

from jaxlstm.training import CheckpointError, Checkpoints

PROGRAM = Path(one_of_two.__file__)


def both(directory, steps, resume):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    programs = []
    for process in range(2):
        command = [sys.executable, str(PROGRAM), *map(str, (process, port, directory, steps, resume))]
        programs.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        errors = [program.communicate(timeout=120)[1] for program in programs]
    finally:
        for program in programs:
            program.kill()
    assert [program.returncode for program in programs] == [0, 0], "\n".join(errors)


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path, without_x64):
    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    one.mkdir()
    both(two, 3, False)
    both(two, 5, True)
    w_hh = [np.load(two / f"w_hh{process}.npy") for process in range(2)]
    np.testing.assert_array_equal(*w_hh)
    expected = one_of_two.train(0, 1, one, 5, None, False, carried=7).params
    np.testing.assert_allclose(w_hh[0], expected.w_hh, rtol=1e-5, atol=1e-6)
    logs = [list(csv.DictReader((directory / "log.csv").read_text().splitlines())) for directory in (two, one)]
    losses = [[float(row["loss"]) for row in log] for log in logs]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert len(losses[0]) == 5

    assert Checkpoints(two / "saved").steps == (3, 4, 5)
    written = [(two / "saved" / "5" / "state" / f"ocdbt.process_{process}" / "d").iterdir() for process in range(2)]
    assert all(any(path.stat().st_size for path in paths) for paths in written)  # each its shards of the carry
    record = json.loads((two / "saved" / "5" / "jaxlstm" / "metadata").read_text())
    assert record["data"] == [{"json": {"n": 5, "process": process}} for process in range(2)]
    with pytest.raises(CheckpointError, match="positions in the data of 2 processes; 1 are running"):
        one_of_two.train(0, 1, two, 6, None, True, carried=8)
