"""Equations as MathML, translated by docutils. Browsers draw it themselves: no script, no font and no network."""

import re

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.writers.html5 import HTML5Translator

# An accent with an index, such as \tilde C_t: docutils puts the index under the letter, as for a limit.
INDEXED_ACCENT = re.compile(
    r"<munderover>\s*(<mi>[^<]*</mi>)\s*(<(m\w+)>.*?</\3>)\s*(<mo[^>]*>[~ˆˉ˙¨→]</mo>)\s*</munderover>", flags=re.DOTALL
)


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """An equation within a line."""
    self.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """An equation of its own, which scrolls where the page is narrow."""
    self.body.append(self.starttag(node, "div", CLASS="math-block", tabindex="0"))
    self.body.append(mathml(node, as_block=True) + "</div>\n")
    raise nodes.SkipNode


def mathml(node: nodes.Element, *, as_block: bool) -> str:
    """The MathML of a node's LaTeX. What docutils does not know is an error."""
    try:
        translated = latex2mathml.tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        raise ExtensionError(f"{node.source}:{node.line}: {error}: {node.astext()}") from error
    return INDEXED_ACCENT.sub(r'<msub><mover accent="true">\1\4</mover>\2</msub>', translated)


def setup(app: Sphinx) -> dict[str, bool]:
    """Make "mathml" a value of html_math_renderer."""
    app.add_html_math_renderer("mathml", inline_renderers=(visit_inline, None), block_renderers=(visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
