"""What is released: one version everywhere, and a long description that reads well on a package index."""

import importlib.metadata
import json
import re
import tomllib

import pytest
from pages import ROOT, python_blocks

import jaxlstm as jl

README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def long_description():
    """The README after the substitutions in pyproject.toml, as hatch-fancy-pypi-readme makes it."""
    text = README
    for substitution in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(substitution["pattern"], substitution["replacement"], text)
    return text.replace("$HFPR_VERSION", jl.__version__)


def targets(page):
    """What the links and pictures of a Markdown page point to: inline, by reference, and in HTML."""
    yield from re.findall(r"\]\(\s*<?([^)\s>]*)", page)
    yield from re.findall(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)", page, flags=re.MULTILINE)
    yield from re.findall(r"""(?:src|srcset|href)\s*=\s*["']?([^"'\s>]*)""", page)


def test_versions_agree():
    first = re.search(r"^## (\S+) \((unreleased|\d{4}-\d\d-\d\d)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert first[1] == citation[1] == jl.__version__


def test_the_long_description_has_no_relative_link():
    assert any(not target.startswith("https://") for target in targets(README))
    assert [target for target in targets(long_description()) if not target.startswith("https://")] == []


def test_the_long_description_is_the_readme_otherwise():
    assert python_blocks(long_description()) == python_blocks(README)
    headings = re.compile(r"^#+ .*$", re.MULTILINE)
    assert headings.findall(long_description()) == headings.findall(README)


def test_what_is_installed_has_that_description():
    installed = importlib.metadata.distribution("jaxlstm")
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        pytest.skip("an editable install, which may be older than the README")
    assert installed.version == jl.__version__
    assert installed.metadata.get_payload().strip() == long_description().strip()
