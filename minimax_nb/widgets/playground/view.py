"""The playground as a widget: Playground's state goes to the page, and what is pressed there comes back.

The page is playground.js and playground.css. It only draws and asks: all it shows is in the traits below, and all it
sends is {"do": one of ACTIONS, ...}. Where there is no such page, on GitHub or on paper, the state is shown as text.
"""

import time
from html import escape
from pathlib import Path

from traitlets import Bool, Dict, Int, List, Unicode

from ..markup import table
from ..page import Page, sources
from .settings import CONTROLS
from .state import Playground

EVERY = 0.05  # s between two pictures of a growing reply
GROWING = ("reply", "growing", "candidates")  # what changes with every token
STATE = ("settings", "system", "messages", "tokens", "place", "code", "unsent", "busy", "status")
ACTIONS = {
    "send": lambda playground, asked: playground.send(asked["text"]),
    "stop": lambda playground, asked: playground.stop(),
    "regenerate": lambda playground, asked: playground.regenerate(),
    "new_chat": lambda playground, asked: playground.new_chat(),
    "reset": lambda playground, asked: playground.reset(),
    "set": lambda playground, asked: playground.set(asked["name"], asked["value"]),
    "set_system": lambda playground, asked: playground.set_system(asked["text"]),
    "look": lambda playground, asked: playground.look(asked["place"]),
}
STILL = (
    "Chat playground, a still picture. Run this cell in JupyterLab to chat: a message box, the buttons Send, Stop, "
    "Regenerate, New chat, Reset and Copy as code, a system prompt, these settings, replies that appear word by word, "
    "and for each of their tokens what else it could have been."
)
HEADS = ("Rank", "Candidate", "With the settings", "Model alone")
SPEAKERS = {"user": "You", "assistant": "Model", "system": "System"}


class PlaygroundView(Page):
    """A widget that draws `playground`."""

    _esm, _css = sources(Path(__file__).with_name("playground"))

    controls = List().tag(sync=True)
    speakers = Dict(SPEAKERS).tag(sync=True)
    heads = List(HEADS).tag(sync=True)
    settings = Dict().tag(sync=True)
    messages = List().tag(sync=True)
    tokens = List().tag(sync=True)
    reply = Unicode(None, allow_none=True).tag(sync=True)
    growing = List().tag(sync=True)
    place = Int(None, allow_none=True).tag(sync=True)
    candidates = Dict(None, allow_none=True).tag(sync=True)
    system = Unicode(None, allow_none=True).tag(sync=True)
    code = Unicode().tag(sync=True)
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
        state = {name: getattr(self.playground, name) for name in STATE}
        news = any(getattr(self, name) != value for name, value in state.items())
        if not news and self.reply and time.monotonic() - self._drawn < EVERY:
            return
        self._drawn = time.monotonic()
        with self.hold_sync():  # one message: a page never sees half of a change
            for name in GROWING:
                self.set_trait(name, getattr(self.playground, name))
            for name, value in state.items():
                self.set_trait(name, value)

    def as_text(self) -> str:
        """The still picture, in plain text: what is in the conversation, and what could be set."""
        said = [f"{SPEAKERS[message['role']]}: {message['content']}" for message in self.messages]
        could = [": ".join(self._title()), *map(", ".join, (HEADS, *self._rows()))] if self.candidates else []
        return "\n".join([STILL, *said, *could, "Settings: " + "; ".join(map(" ".join, self._shown_settings()))])

    def as_html(self) -> str:
        """The same as a page fragment, without scripts or styles: those that show it would strip them."""
        said = [f"<p><b>{SPEAKERS[m['role']]}</b> {escape(m['content'])}</p>" for m in self.messages]
        could = [f"<p>{escape(': '.join(self._title()))}</p>", table(HEADS, self._rows())] if self.candidates else []
        settings = table(("Setting", "Value"), self._shown_settings())
        return f"<p>{STILL}</p>{''.join(said)}{''.join(could)}{settings}"

    def _shown_settings(self) -> list[tuple[str, str]]:
        values = [self.settings[control.name] for control in CONTROLS]
        shown = [(c.label, "empty" if v is None else f"{v:g}") for c, v in zip(CONTROLS, values, strict=True)]
        return [("System prompt", self.system or "empty"), *shown]

    def _title(self) -> tuple[str, str]:
        place, count = self.candidates["place"] + 1, self.candidates["count"]
        return f"What else it could have been, token {place} of {count}", self.candidates["words"]

    def _rows(self) -> list[tuple[str, ...]]:
        rows = self.candidates["rows"]
        return [(r["rank"], r["name"] + " (chosen)" * r["chosen"], *r["figures"]) for r in rows]
