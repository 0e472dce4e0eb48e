"""The site: `sphinx-build -W docs docs/_build/html`. Needs the extra ``docs``, and no network."""

import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import jaxlstm

project = "jaxlstm"
author = "the authors of jaxlstm"
version = release = jaxlstm.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",  # the last two are in _extensions
    "mathml",
]
exclude_patterns = ["_build"]
default_role = "py:obj"  # `unroll` in a docstring is a link

nb_execution_mode = "off"  # notebooks are shown with the outputs that they are committed with
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # jaxtyping and ArrayLike would fill the page; docstrings give the shapes
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
viewcode_follow_imported_members = True

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"jaxlstm {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False
