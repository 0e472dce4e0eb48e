"""The types that pyright sees: those of results, and the mistakes that it finds. The cases are in `typing_cases`."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("typing_cases.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="needs pyright (extra dev)"),
]


def pyright(path):
    """Exit status and output of pyright, with the options of pyproject.toml, for the packages of this interpreter."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, str(path)]
    run = subprocess.run(command, cwd=CASES.parent.parent, capture_output=True, text=True, timeout=300)
    return run.returncode, run.stdout + run.stderr


def test_results_have_their_types_and_mistakes_are_found():
    status, output = pyright(CASES)
    assert status == 0, output


BROKEN = {  # one line, what takes its place, and the error that follows
    "another type": (
        "assert_type(jl.unroll(cell, params, xs), tuple[jl.LSTMCarry, Array])",
        "assert_type(jl.unroll(cell, params, xs), tuple[jl.RNNCarry, Array])",
        "reportAssertTypeFailure",
    ),
    "a mistake": (
        "jl.unroll(gru, params, xs)  # pyright: ignore[reportArgumentType]",
        "jl.unroll(gru, params, xs)",
        "reportArgumentType",
    ),
    "no mistake where one is expected": (
        "jl.truncated(gru, params, xs, k1=2, k2=4)  # pyright: ignore[reportArgumentType]",
        "jl.truncated(gru, gru_params, xs, k1=2, k2=4)  # pyright: ignore[reportArgumentType]",
        "reportUnnecessaryTypeIgnoreComment",
    ),
}


def test_cases_that_do_not_hold_are_errors(tmp_path):
    text = CASES.read_text()
    for line, broken, _ in BROKEN.values():
        assert line in text
        text = text.replace(line, broken, 1)
    changed = tmp_path / CASES.name
    changed.write_text(text)
    status, output = pyright(changed)
    assert status == 1
    for _, _, rule in BROKEN.values():
        assert f"({rule})" in output
    assert f"{len(BROKEN)} errors," in output
