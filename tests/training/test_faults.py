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


KILLS = 24


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_it_ends_bit_for_bit_the_same(train, tmp_path):
    """A kill is one in the midst of a save where a folder that Orbax had not renamed yet is left.

    Every fourth comes soon after the process began: before its first step, or while it takes up where it was.
    """
    assert train(tmp_path / "whole", "never") == "exit 0"
    draw, run, killed, in_a_save, promised = random.Random(0), 0, 0, 0, set()
    while killed < KILLS:
        directory = tmp_path / f"killed{run}"
        answer = train(directory, draw.uniform(-1, 0) if killed % 4 == 0 else draw.uniform(0, 0.3))
        assert answer in ("killed", "exit 0")
        if answer == "killed":
            killed += 1
            in_a_save += any("tmp" in path.name for path in directory.glob("saved/*"))
            assert max(promised, default=0) <= max(whole_steps(directory), default=0)
            promised = whole_steps(directory)
        else:
            assert_same(directory, tmp_path / "whole")
            run, promised = run + 1, set()
    assert train(tmp_path / f"killed{run}", "never") == "exit 0"
    assert_same(tmp_path / f"killed{run}", tmp_path / "whole")
    print(f"{killed} kills, {in_a_save} of them in the midst of a save, in {run + 1} runs")
    assert in_a_save >= 5


def whole_steps(directory):
    return {int(path.name) for path in directory.glob("saved/*") if path.name.isdecimal()}


def assert_same(directory, whole):
    for name in ("final", "log.csv"):
        assert (directory / name).read_bytes() == (whole / name).read_bytes()
