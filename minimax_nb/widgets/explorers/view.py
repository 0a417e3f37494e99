"""Any explorer as a widget: its state goes to the page, and what is set or pressed there comes back.

The page is explorer.js and explorer.css. It only draws and asks: all it shows is in the traits below, and all it sends
is {"do": one of ACTIONS, ...}, each when the one before was answered. Where there is no such page, on GitHub or on
paper, a still picture stands in its place.
"""

from html import escape
from pathlib import Path

from traitlets import Bool, Dict, List, Unicode

from ..page import Page, sources
from .explorer import Explorer

ACTIONS = {
    "set": lambda explorer, asked: explorer.set(asked["name"], asked["value"]),
    "start": lambda explorer, asked: explorer.start(),
    "stop": lambda explorer, asked: explorer.stop(),
    "reset": lambda explorer, asked: explorer.reset(),
}


class ExplorerView(Page):
    """A widget that draws `explorer`."""

    _esm, _css = sources(Path(__file__).with_name("explorer"))

    title = Unicode().tag(sync=True)
    hint = Unicode().tag(sync=True)
    action = Unicode().tag(sync=True)
    controls = List().tag(sync=True)
    values = Dict().tag(sync=True)
    picture = Unicode().tag(sync=True)
    status = Unicode().tag(sync=True)
    busy = Bool().tag(sync=True)

    def __init__(self, explorer: Explorer):
        controls = [control._asdict() | {"kind": control.kind} for control in explorer.controls]
        super().__init__(title=explorer.title, hint=explorer.hint, action=explorer.action, controls=controls)
        self.explorer = explorer
        self.on_msg(lambda _, asked, __: self._hear(asked))
        explorer.changed = self._draw
        self._draw()

    def _hear(self, asked: dict) -> None:
        try:
            ACTIONS[asked["do"]](self.explorer, asked)
        finally:
            self.send({"heard": asked["do"]})  # the page waits for it before it asks for the next

    def _draw(self) -> None:
        with self.hold_sync():  # one message: a page never sees half of a change
            for name in ("values", "picture", "status", "busy"):
                self.set_trait(name, getattr(self.explorer, name))

    def as_text(self) -> str:
        """The still picture, in plain text."""
        return "\n".join([*self._about(), self.explorer.text])

    def as_html(self) -> str:
        """The same as a page fragment, without scripts or styles: those that show it would strip them."""
        return "".join(f"<p>{escape(line)}</p>" for line in self._about()) + self.picture

    def _about(self) -> list[str]:
        still = f"{self.title}, a still picture. Run this cell in JupyterLab to change what is shown."
        return [still, self._shown(), *([] if self.status in ("ready", "done") else [f"Status: {self.status}"])]

    def _shown(self) -> str:
        values = [(control.label, self.explorer.values[control.name]) for control in self.explorer.controls]
        names = {True: "on", False: "off"}
        return "; ".join(f"{label}: {names[v] if isinstance(v, bool) else v}" for label, v in values) + "."
