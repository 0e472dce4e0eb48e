"""Docstrings as Sphinx wants them: indented equations as written, and one line for what is Flax's own."""

import re
import sys
from collections import _tuplegetter
from typing import Any

from sphinx.application import Sphinx

SECTION = re.compile(r"(Args|Returns|Raises|References?):")


def show_equations(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make literal blocks of the indented lines outside sections. Leave out what data says of its type."""
    if what == "data":
        lines.clear()
    if getattr(obj, "__module__", "").startswith("flax.") and what == "class":
        lines[:] = [f"Flax's own class, unchanged: ``{obj.__module__.split('.')[1]}.{obj.__name__}`` of Flax."]
        return
    section, before, shown = False, "", []
    for line in lines:
        if line[:1].strip():
            section = bool(SECTION.match(line))
        if line.startswith("  ") and not (section or before.strip()):
            shown += [".. code-block:: text", ""]
        if line.strip() or not shown or not before.startswith("  "):
            before = line
        shown.append(line)
    lines[:] = shown


def skip_fields(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, and functions that are defaults of fields: both are in the signature."""
    is_default = what == "class" and callable(obj) and "." not in getattr(obj, "__qualname__", ".")
    return True if isinstance(obj, _tuplegetter) or is_default else None


def find_source(app: Sphinx, module: str | None, name: str) -> str | None:
    """Link to the source of what a module defines, not of what it has from another, such as Flax."""
    defined_in = getattr(getattr(sys.modules.get(module or ""), name.partition(".")[0], None), "__module__", "")
    return None if module and defined_in.startswith(module) else module


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect all; equations before napoleon."""
    app.connect("autodoc-process-docstring", show_equations, priority=100)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("viewcode-follow-imported", find_source)
    return {"parallel_read_safe": True}
