"""Any explorer as a widget: its state goes to the page, and what is set or pressed there comes back.

The page is explorer.js and explorer.css. Where there is none, on GitHub or on paper, a still picture stands
in its place.
"""

from html import escape
from pathlib import Path

from traitlets import Bool, Dict, List, Unicode

from ...language import tr
from ..page import Page, sources
from .explorer import Explorer


class ExplorerView(Page):
    """A widget that draws `explorer`."""

    _esm, _css = sources(Path(__file__).with_name("explorer"))
    actions = {"set": ("name", "value"), "start": (), "stop": (), "reset": ()}

    title = Unicode().tag(sync=True)
    hint = Unicode().tag(sync=True)
    action = Unicode().tag(sync=True)
    controls = List().tag(sync=True)
    values = Dict().tag(sync=True)
    picture = Unicode().tag(sync=True)
    status = Unicode().tag(sync=True)
    busy = Bool().tag(sync=True)

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        super().__init__(explorer)

    def labels(self, explorer: Explorer) -> dict:
        said = {name: tr(getattr(explorer, name)) for name in ("title", "hint", "action")}
        return said | {"controls": [control.drawn() for control in explorer.controls]}

    def draw(self) -> None:
        with self.hold_sync():  # one message: a page never sees half of a change
            for name in ("values", "picture", "status", "busy"):
                self.set_trait(name, getattr(self.explorer, name))

    def as_text(self) -> str:
        """The still picture, in plain text."""
        return "\n".join([*self.explorer.about(), self.explorer.text])

    def as_html(self) -> str:
        """The same as a page fragment, without scripts or styles: those that show it would strip them."""
        return "".join(f"<p>{escape(line)}</p>" for line in self.explorer.about()) + self.explorer.still()
