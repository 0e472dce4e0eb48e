"""`.ci/run` with stand-ins for the tools it calls: every section is reached, and every test file it names exists.

A name misspelt in it would otherwise show after an hour.
"""

import os
import re
import shutil
import subprocess

import pytest
from pages import ROOT

PYTHON = """#!/bin/sh
case "$1 $2" in
    "-m venv") mkdir -p "$3/bin" && echo 'deactivate() { :; }' >"$3/bin/activate" ;;
    "-m build") mkdir -p "$4/jaxlstm-0" && cd "$4" && tar -czf jaxlstm-0.tar.gz jaxlstm-0 && touch jaxlstm-0.whl ;;
esac
"""
TOOL = """#!/bin/sh
echo "called: $(basename "$0") $*"
"""


@pytest.fixture
def checkout(tmp_path):
    """What `.ci/run` reads of a checkout, and a folder of stand-ins."""
    for name in (".ci/run", "README.md", "CONTRIBUTING.md", "tests"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".ci/run").unlink()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("python", "python3.11", "python3.12", "python3.13"):
        (tools / name).write_text(PYTHON)
    for name in ("pip", "pytest", "ruff", "pyright", "sphinx-build", "twine", "check-wheel-contents"):
        (tools / name).write_text(TOOL)
    for tool in tools.iterdir():
        tool.chmod(0o755)
    return tmp_path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_ci_reaches_its_end(checkout):
    path = os.pathsep.join([str(checkout / "tools"), *os.defpath.split(os.pathsep)])
    run = subprocess.run(
        [str(checkout / ".ci/run")],
        env={"PATH": path, "TMPDIR": str(checkout)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    sections = re.findall(r"^=== (.*) \(after", run.stdout, re.MULTILINE)
    assert sections[-1] == "done"
    assert len(re.findall(r"^ran ", run.stdout, re.MULTILINE)) == len(sections) - 1
    assert "skipped" not in run.stdout
    named = re.findall(r"tests/[\w/.]*", "\n".join(re.findall(r"^called: pytest (.*)$", run.stdout, re.MULTILINE)))
    assert len(named) > 40
    assert [name for name in named if not (ROOT / name).exists()] == []
