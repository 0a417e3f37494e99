"""HTML for the pictures of explorers: tables and bars that can be read without styles too. Text is escaped here."""

from collections.abc import Iterable, Sequence
from html import escape


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", prose: bool = False) -> str:
    """A table whose first column names the rows. Text in square brackets becomes bold, and line breaks are kept.

    Cells hold numbers, set at the right and in one line; with `prose` they hold text, set at the left and
    wrapped.
    """
    kind = ' class="mmnb-prose"' if prose else ""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{_cell(first)}</th>{"".join(f"<td>{_cell(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f"<table{kind}>{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def bar(share: float, width: float = 12) -> str:
    """A horizontal bar, `width` em at a share of 1. Only for show: the figure belongs beside it."""
    size = f"display:inline-block;height:0.8em;width:{width * min(max(share, 0), 1):.2f}em"
    return f'<span aria-hidden="true" style="{size};background:#0072b2"></span>'


def _cell(cell: str) -> str:
    text = escape(cell).replace("\n", "<br>")
    return f"<b>{text}</b>" if cell.startswith("[") else text
