"""What the README shows is run: its Python and its commands' arguments. Its links lead to files."""

import re
import shlex

from pages import ROOT, run_page

from jaxlstm import tasks
from jaxlstm._arguments import parser

README = ROOT / "README.md"


def test_the_readmes_python_runs(without_x64, without_type_hook):
    shown = run_page(README)
    assert shown["ys"].shape == (100, 32, 128)
    assert shown["y"].shape == (32, 128)
    assert [leaf.shape for leaf in shown["gradient"]] == [(64, 512), (128, 512), (512,)]


def test_its_commands_are_understood():
    """The first trains a model. `.ci/run` looks for the second, which runs the tests, and runs it."""
    commands = re.findall(r"^(pip install .*) && (.*)$", README.read_text(), flags=re.MULTILINE)
    assert commands[1] == ("pip install -e '.[test]'", "pytest")
    program, *arguments = shlex.split(commands[0][1])
    assert program == "jaxlstm"
    options = parser(tasks).parse_args(arguments)
    assert (options.command, options.task) == ("train", "vowels")


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(((?!http)[^)#]+)\)", README.read_text())
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
