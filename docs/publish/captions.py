"""What a picture shows, in words: the paragraph "*The figure: ...*" below it, which becomes its alt text.

    describe(cells)

Cells are those of a notebook, as dicts: nbformat's, or JSON. Knows nothing of slides or of Sphinx.
"""

import re
from collections.abc import Sequence

BEGINNINGS = (r"The figure\b", r"The table\b", "图：", "表：")
CAPTION = re.compile(rf"\*((?:{'|'.join(BEGINNINGS)}).+?)\*(?!\w)", re.DOTALL)


def describe(cells: Sequence[dict]) -> list[int]:
    """Give each code cell with a picture its alt text, where myst-nb looks for it; numbers of cells left without.

    The words are the caption with which the next cell of prose begins. What the cell's metadata says already, stays.
    """
    without = []
    for at, cell in enumerate(cells):
        if has_picture(cell):
            image = cell["metadata"].setdefault("mystnb", {}).setdefault("image", {})
            image.setdefault("alt", caption(cells[at + 1 :]))
            without += [] if image["alt"] else [at]
    return without


def has_picture(cell: dict) -> bool:
    return any(kind.startswith("image/") for output in cell.get("outputs", []) for kind in output.get("data", {}))


def caption(below: Sequence[dict]) -> str:
    """The words for a picture, from the cells below it; none if another picture comes first."""
    cell = next((cell for cell in below if cell["cell_type"] == "markdown" or has_picture(cell)), {"source": ""})
    found = CAPTION.match("".join(cell["source"]))
    return " ".join(found[1].replace("`", "").split()) if found else ""
