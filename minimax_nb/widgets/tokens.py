"""Tokens as running text with a note under each, so that no colour has to be told from another to read it.

    tokens = pieces(tokenizer, ids)
    noted(tokens, ["gone", "12 %"], ["transparent", tint(0.12)])      # HTML
    read_out(tokens, ["gone", "12 %"])                                # 'My (gone) name (12 %)'

A note is a subscript that a style puts below its token. Where styles are taken away, as on GitHub, it stays a
subscript, and the text can still be read. (HTML's own element for notes, ruby, runs over the edge in
Chromium.) Text is escaped here.
"""

from collections.abc import Iterable, Sequence
from html import escape

BOX = (
    "display:inline-flex;flex-direction:column;align-items:center;"
    "margin-bottom:0.4em;padding:0 2px;border:1px solid #8886;line-height:1.3"
)
BELOW = "position:static;font-size:0.72em;line-height:1.3"  # some pages lower a subscript and give it no height


def pieces(tokenizer, ids: Iterable[int]) -> list[str]:
    """The text of each token by itself; a part of a character reads U+FFFD."""
    return [tokenizer.decode([each], clean_up_tokenization_spaces=False) for each in ids]


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def tint(share: float) -> str:
    """Blue for a share up to 1, orange for a negative one; pale enough to read light or dark text on it."""
    colour = "0,114,178" if share >= 0 else "213,94,0"
    return f"rgba({colour},{0.6 * min(abs(share), 1):.2f})"


def noted(tokens: Sequence[str], notes: Sequence[str], colours: Sequence[str]) -> str:
    """A paragraph of boxes. A space or line break of the text is one here too, so that lines break where words end."""
    parts = []
    for token, note, colour in zip(tokens, notes, colours, strict=True):
        under = f'<sub style="{BELOW}">{escape(note)}</sub>'
        box = f'<span style="{BOX};background:{colour}">{escape(visible(token))}{under}</span>'
        parts += [" " if token[:1] == " " else "", box, "<br>" if "\n" in token else ""]
    return f"<p>{''.join(parts)}</p>"


def read_out(tokens: Sequence[str], notes: Sequence[str]) -> str:
    """The same in plain text."""
    return " ".join(f"{visible(token)} ({note})" for token, note in zip(tokens, notes, strict=True))


def visible(token: str) -> str:
    """A token without the space before it; what would be invisible becomes a sign."""
    return token.strip(" ").replace("\n", "↵") or "␣"
