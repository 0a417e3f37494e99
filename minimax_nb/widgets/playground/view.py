"""The playground as a widget: Playground's state goes to the page, and what is pressed there comes back.

The page is playground.js and playground.css. Where there is none, on GitHub or on paper, the state stands
there as text.
"""

import time
from html import escape
from pathlib import Path

from traitlets import Bool, Dict, Int, List, Unicode

from ...language import mark, tr
from ..markup import table
from ..page import Page, sources
from .settings import CONTROLS
from .state import Playground

EVERY = 0.05  # s between two pictures of a growing reply
GROWING = ("reply", "growing", "candidates")  # what changes with every token
STATE = ("settings", "system", "messages", "tokens", "place", "code", "unsent", "busy", "status")
STILL = mark(
    "Chat playground, a still picture. Run this cell in JupyterLab to chat: a message box, the buttons Send, Stop, "
    "Regenerate, New chat, Reset and Copy as code, a system prompt, these settings, replies that appear word by word, "
    "and for each of their tokens what else it could have been."
)
HEADS = (mark("Rank"), mark("Candidate"), mark("With the settings"), mark("Model alone"))
SPEAKERS = {"user": mark("You"), "assistant": mark("Model"), "system": mark("System")}


class PlaygroundView(Page):
    """A widget that draws `playground`."""

    _esm, _css = sources(Path(__file__).with_name("playground"))
    actions = {
        "send": ("text",),
        "stop": (),
        "regenerate": (),
        "new_chat": (),
        "reset": (),
        "set": ("name", "value"),
        "set_system": ("text",),
        "look": ("place",),
    }

    controls = List().tag(sync=True)
    speakers = Dict().tag(sync=True)
    heads = List().tag(sync=True)
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
        self.playground, self._drawn = playground, 0.0
        super().__init__(playground)

    def labels(self, _) -> dict:
        speakers = {role: tr(name) for role, name in SPEAKERS.items()}
        return {"controls": [each.drawn() for each in CONTROLS], "speakers": speakers, "heads": list(map(tr, HEADS))}

    def draw(self) -> None:
        state = {name: getattr(self.playground, name) for name in STATE}
        same = all(getattr(self, name) == value for name, value in state.items())
        if same and self.reply and time.monotonic() - self._drawn < EVERY:
            return  # only the reply has grown, and the page has just been told
        self._drawn = time.monotonic()
        with self.hold_sync():  # one message: a page never sees half of a change
            for name, value in ({name: getattr(self.playground, name) for name in GROWING} | state).items():
                self.set_trait(name, value)

    def as_text(self) -> str:
        """The still picture, in plain text: the conversation, and what could be set."""
        turns = [
            tr("{name}: {value}", name=self.speakers[turn["role"]], value=turn["content"]) for turn in self.messages
        ]
        could = [self._title(), *map(", ".join, (self.heads, *self._rows()))] if self.candidates else []
        settings = tr("; ").join(f"{label} {value}" for label, value in self._setting_rows())
        return "\n".join([tr(STILL), *turns, *could, tr("Settings: {settings}", settings=settings)])

    def as_html(self) -> str:
        """The same as a page fragment, without scripts or styles: those that show it would strip them."""
        turns = [f"<p><b>{self.speakers[turn['role']]}</b> {escape(turn['content'])}</p>" for turn in self.messages]
        could = []
        if self.candidates:
            could = [f"<p>{escape(self._title())}</p>", table(self.heads, self._rows())]
        settings = table((tr("Setting"), tr("Value")), self._setting_rows())
        return "".join([f"<p>{tr(STILL)}</p>", *turns, *could, settings])

    def _setting_rows(self) -> list[tuple[str, str]]:
        rows = [(tr("System prompt"), self.system or tr("empty"))]
        for control in CONTROLS:
            value = self.settings[control.name]
            rows.append((tr(control.label), tr("empty") if value is None else f"{value:g}"))
        return rows

    def _title(self) -> str:
        place, count = self.candidates["place"] + 1, self.candidates["count"]
        title = tr("What else it could have been, token {place} of {count}", place=place, count=count)
        return tr("{name}: {value}", name=title, value=self.candidates["title"])

    def _rows(self) -> list[tuple[str, ...]]:
        rows = self.candidates["rows"]
        names = [tr("{name} (chosen)", name=row["name"]) if row["chosen"] else row["name"] for row in rows]
        return [(row["rank"], name, *row["figures"]) for row, name in zip(rows, names, strict=True)]
