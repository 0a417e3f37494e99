"""The playground as a widget: Playground's state goes to the page, and what is pressed there comes back.

The page is playground.js and playground.css. It only draws and asks: all it shows is in the traits below, and all it
sends is {"do": one of ACTIONS, ...}. Where there is no such page, on GitHub or on paper, the state is shown as text.
"""

import time
from html import escape
from pathlib import Path

import anywidget
from traitlets import Bool, Dict, List, Unicode

from .playground_state import Playground
from .settings import CONTROLS

HERE = Path(__file__).parent
EVERY = 0.05  # s between two pictures of a growing reply
ACTIONS = {
    "send": lambda playground, asked: playground.send(asked["text"]),
    "stop": lambda playground, asked: playground.stop(),
    "regenerate": lambda playground, asked: playground.regenerate(),
    "new_chat": lambda playground, asked: playground.new_chat(),
    "reset": lambda playground, asked: playground.reset(),
    "set": lambda playground, asked: playground.set(asked["name"], asked["value"]),
}
STILL = (
    "Chat playground, a still picture. Run this cell in JupyterLab to chat: a message box, the buttons Send, Stop, "
    "Regenerate, New chat and Reset, these settings, and replies that appear word by word."
)
SPEAKERS = {"user": "You", "assistant": "Model", "system": "System"}


class PlaygroundView(anywidget.AnyWidget):
    """A widget that draws `playground`."""

    _esm = (HERE / "playground.js").read_text(encoding="utf-8")
    _css = (HERE / "playground.css").read_text(encoding="utf-8")

    controls = List().tag(sync=True)
    speakers = Dict(SPEAKERS).tag(sync=True)
    settings = Dict().tag(sync=True)
    messages = List().tag(sync=True)
    reply = Unicode(None, allow_none=True).tag(sync=True)
    unsent = Unicode().tag(sync=True)
    busy = Bool().tag(sync=True)
    status = Unicode().tag(sync=True)

    def __init__(self, playground: Playground):
        # JSON has no infinity: no limit is null there
        controls = [c._replace(high=None if c.high == float("inf") else c.high)._asdict() for c in CONTROLS]
        super().__init__(controls=controls)
        self.playground, self._drawn = playground, 0.0
        self.on_msg(lambda _, asked, __: ACTIONS[asked["do"]](playground, asked))
        playground.changed = self._draw
        self._draw()

    def _draw(self) -> None:
        state = {name: getattr(self.playground, name) for name in ("settings", "messages", "unsent", "busy", "status")}
        news = any(getattr(self, name) != value for name, value in state.items())
        if not news and self.reply and time.monotonic() - self._drawn < EVERY:
            return
        self._drawn = time.monotonic()
        with self.hold_sync():  # one message: a page never sees half of a change
            self.set_trait("reply", self.playground.reply)
            for name, value in state.items():
                self.set_trait(name, value)

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        return data | {"text/plain": self.as_text(), "text/html": self.as_html()}, metadata

    def as_text(self) -> str:
        """The still picture, in plain text: what is in the conversation, and what could be set."""
        said = [f"{SPEAKERS[message['role']]}: {message['content']}" for message in self.messages]
        return "\n".join([STILL, *said, "Settings: " + "; ".join(map(" ".join, self._shown_settings()))])

    def as_html(self) -> str:
        """The same as a page fragment, without scripts or styles: those that show it would strip them."""
        said = [f"<p><b>{SPEAKERS[m['role']]}</b> {escape(m['content'])}</p>" for m in self.messages]
        rows = [f"<tr><td>{escape(label)}</td><td>{escape(value)}</td></tr>" for label, value in self._shown_settings()]
        return f"<p>{STILL}</p>{''.join(said)}<table><tr><th>Setting</th><th>Value</th></tr>{''.join(rows)}</table>"

    def _shown_settings(self) -> list[tuple[str, str]]:
        values = [self.settings[control.name] for control in CONTROLS]
        return [(c.label, "empty" if v is None else f"{v:g}") for c, v in zip(CONTROLS, values, strict=True)]
