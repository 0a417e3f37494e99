"""What all widgets share: a page put together from two files, and a still picture where there is no page.

class View(Page):
    _esm, _css = sources(Path(__file__).with_name("explorer"))
"""

from pathlib import Path

import anywidget

SHARED = Path(__file__).with_name("page")


def sources(name: str | Path) -> tuple[str, str]:
    """JavaScript and styles of a page: page.js and page.css, then its own, `name` with .js and .css."""
    files = [[each.with_suffix(kind) for each in (SHARED, Path(name))] for kind in (".js", ".css")]
    script, styles = ("\n".join(file.read_text(encoding="utf-8") for file in pair) for pair in files)
    return script, styles


class Page(anywidget.AnyWidget):
    """A widget that has `as_text()` and `as_html()`, which GitHub, nbval and paper show in its place."""

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        return data | {"text/plain": self.as_text(), "text/html": self.as_html()}, metadata
