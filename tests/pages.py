"""The Python that a page shows, and how its readers would run it."""

import re
from contextlib import contextmanager
from pathlib import Path

import jax

ROOT = Path(__file__).parent.parent


def python_blocks(page):
    """The Python blocks of a Markdown page, from top to bottom."""
    return re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)


@contextmanager
def jax_as_it_comes():
    """JAX's own defaults where tests are stricter; dtypes are those of the fixture `without_x64`."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def run_page(path):
    """Run a page's blocks one after another; what they define."""
    shown = {"__name__": "page"}
    with jax_as_it_comes():
        exec(compile("\n".join(python_blocks(path.read_text())), str(path), "exec"), shown)
    return shown
