"""The site's pages: their Python runs, each is reachable, and the reference names all that is public."""

import re
import shlex
import subprocess
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from pages import ROOT, python_blocks, run_page

import jaxlstm as jl

DOCS = ROOT / "docs"
QUICK = {"getting_started", "which_cell", "recipes/ppo", "recipes/r2d2"}
QUICK |= {f"guides/{name}" for name in ("files", "flax", "own_cell")}
OTHERWISE = {"coming_from"}  # in test_coming_from.py
MODULES = ("jaxlstm", *(f"jaxlstm.{name}" for name in jl._PACKAGES))


def sources():
    """The site's pages, by their names without a suffix."""
    paths = [path for kind in ("*.md", "*.rst", "notebooks/*.ipynb") for path in DOCS.rglob(kind)]
    paths = [path.relative_to(DOCS) for path in paths if DOCS / "_build" not in path.parents]
    return {path.with_suffix("").as_posix(): DOCS / path for path in paths}


def shown_pages():
    for name, path in sorted(sources().items()):
        if path.suffix == ".md" and name not in OTHERWISE and python_blocks(path.read_text()):
            yield pytest.param(path, id=name, marks=[] if name in QUICK else [pytest.mark.slow])


@pytest.mark.parametrize("path", [*shown_pages()])
def test_a_page_s_python_runs(path, without_x64, without_type_hook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(path)


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_names_what_is_public(module):
    page = (DOCS / "api" / f"{module.removeprefix('jaxlstm.')}.rst").read_text()
    assert f".. py:module:: {module}\n" in page
    names = re.findall(
        r"^\.\. (?:auto|py:)(?:class|function|exception|data):: (\w+)(?:\(.*)?$", page, flags=re.MULTILINE
    )
    parts = jl if module == "jaxlstm" else getattr(jl, module.removeprefix("jaxlstm."))
    assert sorted(names) == sorted(parts.__all__)


BASES = (jl.Cell, jl.CellWrapper, jl.LinearCell)


def test_every_cell_has_a_page():
    pages = [path.read_text() for name, path in sources().items() if name.startswith("cells/")]
    for name in jl.__all__:
        part = getattr(jl, name)
        if isinstance(part, type) and issubclass(part, jl.Cell) and part not in BASES:
            assert any(f"\n\n{{any}}`jaxlstm.{name}` " in page for page in pages), name  # its first words
            assert name in (DOCS / "which_cell.md").read_text()


def test_every_page_is_reachable():
    pages, reached, next_ = sources(), set(), ["index"]
    while next_:
        name = next_.pop()
        if name not in reached:
            reached.add(name)
            next_ += toctree(name, pages[name].read_text())
    assert reached == set(pages)


def toctree(name, page):
    """The pages that this one's tables of contents name."""
    folder = (DOCS / name).parent
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE):
        for entry in re.findall(r"^[\w/]+$", block, flags=re.MULTILINE):
            yield (folder / entry).relative_to(DOCS).as_posix()


class Links(HTMLParser):
    """What a page of the built site points to, and where it can be pointed to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.anchors = set(), set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])
        source = given.get("src") or (tag == "link" and given.get("href"))
        if source:
            self.loaded.add(source)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_no_link_is_dead():
    """By the command in CONTRIBUTING. Pages load nothing from elsewhere."""
    pytest.importorskip("furo", reason="the extra docs is not installed")
    command = re.search(r"^ +(sphinx-build [^#\n]+)", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)[1]
    run = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    built = ROOT / shlex.split(command)[-1]
    pages = {path.resolve(): Links(path) for path in built.rglob("*.html")}
    assert len(pages) > len(sources())
    for path, page in pages.items():
        for link in page.links | page.loaded:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                assert link in page.links, f"{path}: {link}"
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert target.exists(), f"{path}: {link}"
            if url.fragment and target in pages:
                assert unquote(url.fragment) in pages[target].anchors, f"{path}: {link}"
