"""The notebooks run from top to bottom in a fresh interpreter, and are committed with what they printed and drew."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SMALL = {
    "03_flax_and_optax": "STEPS, BATCH_SIZE, HIDDEN = 20, 9, 4",
    "04_inside_a_trained_network": "import argparse\nSTEPS, HIDDEN, FILE, SWITCH_STEPS = 20, 8, argparse.__file__, 20",
    "05_accelerators": "STEPS, T, HIDDEN, BATCHES = 2, 8, 8, (4, 8)",
}


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_with_outputs(path):
    install, *cells = code_cells(path)
    assert install["metadata"]["tags"] == ["install"]
    assert [cell["execution_count"] for cell in cells] == list(range(2, len(cells) + 2))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    """Its code but the install line, with small numbers in the cell of parameters."""
    sources = []
    for cell in code_cells(path):
        tags = cell["metadata"].get("tags", [])
        if "install" not in tags:
            sources.append(SMALL[path.stem] if "parameters" in tags else "".join(cell["source"]))
    script = tmp_path / f"{path.stem}.py"
    script.write_text("\n\n".join(sources))
    run = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-3000:]
