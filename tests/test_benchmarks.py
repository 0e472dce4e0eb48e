"""The benchmark for accelerators runs where there is none, at toy sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "accelerator.py"


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.exists(), reason="needs the folder benchmarks")
def test_accelerator(tmp_path):
    out, report = tmp_path / "out.jsonl", tmp_path / "report.md"
    picture = tmp_path / "picture.png"
    command = [sys.executable, str(SCRIPT), str(out), "--toy", "--into", str(report), "--plot", str(picture)]
    run = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False, timeout=500)
    assert run.returncode == 0, run.stderr[-3000:]
    machine, errors, *rows = (json.loads(line) for line in out.read_text().splitlines())
    assert "cpu" in machine["about"]
    assert max(value for name, value in errors.items() if name != "what") < 1e-5
    ours = [row for row in rows if row["who"].startswith("jaxlstm")]
    assert len(ours) >= 14
    assert not [row for row in ours if "error" in row]
    assert all(len(row["forward"]) == len(row["train"]) == 2 for row in ours)
    assert all("error" in row for row in rows if row["who"] == "jax.experimental.rnn")  # which needs cuDNN
    assert "| jaxlstm |" in report.read_text()
    assert picture.stat().st_size > 20_000
