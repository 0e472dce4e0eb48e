"""SIGKILL at random moments of a real training process: resumed, it ends as if nothing had happened."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

VICTIM = Path(__file__).with_name("victim.py")


@pytest.fixture(scope="module")
def train():
    """``train(directory, seconds)``: "killed" or "exit STATUS"."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, str(VICTIM)], env=environment, **pipes) as program:

        def train(directory, seconds):
            directory.mkdir(exist_ok=True)
            print(directory, seconds, file=program.stdin)
            return program.stdout.readline().strip()

        yield train
        program.stdin.close()


@pytest.mark.parametrize("kills", [2, pytest.param(24, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed_it_ends_bit_for_bit_the_same(train, tmp_path, kills):
    """A kill is one in the midst of a save where a folder that Orbax had not renamed yet is left."""
    assert train(tmp_path / "whole", "never") == "exit 0"
    draw, run, killed, in_a_save, promised = random.Random(kills), 0, 0, 0, set()
    while killed < kills:
        directory = tmp_path / f"killed{run}"
        answer = train(directory, draw.uniform(0, 0.3))
        assert answer in ("killed", "exit 0")
        if answer == "killed":
            killed += 1
            in_a_save += any("tmp" in path.name for path in (directory / "saved").iterdir())
            assert max(promised, default=0) <= max(whole_steps(directory), default=0)
            promised = whole_steps(directory)
        else:
            assert_same(directory, tmp_path / "whole")
            run, promised = run + 1, set()
    assert train(tmp_path / f"killed{run}", "never") == "exit 0"
    assert_same(tmp_path / f"killed{run}", tmp_path / "whole")
    print(f"{killed} kills, {in_a_save} of them in the midst of a save, in {run + 1} runs")
    assert in_a_save >= 5 or kills < 20


def whole_steps(directory):
    return {int(path.name) for path in (directory / "saved").iterdir() if path.name.isdecimal()}


def assert_same(directory, whole):
    for name in ("final", "log.csv"):
        assert (directory / name).read_bytes() == (whole / name).read_bytes()
