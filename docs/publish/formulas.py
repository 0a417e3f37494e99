"""Formulas as MathML, which browsers draw themselves: no script, no fonts, nothing from a network.

mathml(r"\\frac{l}{L - 1}", block=True)
"""

from html import escape

from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml


def mathml(tex: str, block: bool) -> str:
    """In a line of its own if `block`. TeX that docutils does not know is shown as it was written."""
    try:
        return tex2mathml(tex, as_block=block)
    except MathError:
        return f"<code>{escape(tex)}</code>"
