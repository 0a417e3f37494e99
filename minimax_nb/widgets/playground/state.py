"""The logic of the playground: a chat whose replies are written by a thread, with settings, Stop, and words for it all.

    state = Playground(model, tokenizer)
    state.set("temperature", 0.8)
    state.send("How do I make pesto?")
    state.stop()
    state.wait()
    print(state.status, state.messages)

Each reply has its own random numbers, cache and settings, taken when it starts, so other cells can use the
model meanwhile. That is why a change of settings counts from the next reply on, and one of the system prompt
from the next new chat on. Stop keeps the half reply as the turn's reply.
"""

import functools

from ...chat import Chat
from ...language import mark, tr
from ..controls import Control, is_number, quoted
from ..worker import ERROR, OTHER, READY, Worker, in_a_line
from .code import as_code
from .reply import Reply
from .settings import CONTROLS, problem, start

MESSAGE = Control("message", mark("The message"), "")
SYSTEM = Control("system", mark("The system prompt"), "")
BUSY = mark("still writing: press Stop first")


class Playground(Worker):
    """One conversation to be drawn.

    `messages` are the turns on the page, the one just asked included. `reply` is the text so far of the reply
    being written, None when none is. `unsent` is a message that failed, for the reader to have back. `tokens`
    are those of the finished replies, `growing` those of the one being written, each as in `Reply`. `place`
    is the token that is looked at, counted from 0 through all replies; None follows the last one. `code` is
    the conversation as a cell, empty before the first reply.
    """

    def __init__(self, model, tokenizer, system: str | None = None):
        super().__init__()
        self._empty_chat = functools.partial(Chat, model, tokenizer)
        self._first_system = system
        self.reset()

    @property
    def growing(self) -> list[tuple[str, str]]:
        return self._writing.tokens if self._writing else []

    @property
    def tokens(self) -> list[list[tuple[str, str]]]:
        return [reply.tokens for reply in self._finished()]

    @property
    def candidates(self) -> dict | None:
        """What the token at `place` could have been; None if there is no token yet."""
        with self._lock:
            replies = [*self._finished(), *([self._writing] if self._writing else [])]
            tokens = [(reply, at) for reply in replies for at in range(len(reply.tokens))]
            if not tokens:
                return None
            place = self.place if self.place in range(len(tokens)) else len(tokens) - 1
            reply, at = tokens[place]
            return {"place": place, "count": len(tokens)} | reply.candidates(at)

    def look(self, place: int | None) -> None:
        """Look at the token at this place, counted from 0 through all replies. None follows the last one."""
        with self._lock:
            if place is not None and not (is_number(place) and isinstance(place, int)):
                return self.refuse(tr("the place of a token is a whole number, not {place}", place=quoted(place)))
            self.place = place
            self.changed()

    def new_chat(self) -> None:
        """Empty the conversation, and keep the settings. A reply on its way is dropped."""
        with self._lock:
            chat = self._empty_chat(self.system)
            self._drop()
            self._chat, self._writing, self._written = chat, None, []
            self.messages, self.reply, self.unsent = chat.messages, None, ""
            self.place, self.code = None, ""
            self._say_settings()

    def reset(self) -> None:
        """A new chat with the first settings and system prompt."""
        with self._lock:
            self.settings, self.system = start(), self._first_system
            self.new_chat()

    def set_system(self, text: str) -> None:
        """Change the system prompt, to none if `text` is blank. A conversation that has begun keeps its own."""
        with self._lock:
            if why := SYSTEM.problem(text):
                return self.refuse(why)
            self.system = text if text.strip() else None
            if not (self._written or self.busy):
                return self.new_chat()
            later = tr("the system prompt counts from the next new chat on")
            self._say(self.status, self.kind) if self.busy else self._say_settings(later)

    def set(self, name: str, value: float | None) -> None:
        """Change a setting, which counts from the next reply on.

        A number out of range is kept, because it stands in the reader's field; the status says what is wrong
        with it, and `send` refuses it until it is mended. What no field could hold is refused at once.
        """
        with self._lock:
            control = next((each for each in CONTROLS if each.name == name), None)
            if control is None:
                return self.refuse(tr("no setting is called {name}", name=quoted(name)))
            if value is not None and not is_number(value):
                return self.refuse(control.problem(value))
            self.settings = self.settings | {name: value}
            mended = self.kind == ERROR and not self.busy
            self._say_settings() if mended else self._say_settings(self.status, self.kind)

    def send(self, text: str) -> None:
        """Begin a reply to `text`."""
        with self._lock:
            if self.busy:
                return self._say(tr(BUSY))
            if why := MESSAGE.problem(text):
                return self.refuse(why)
            self.messages = [*self.messages, {"role": "user", "content": text}]
            self._write(text)

    def regenerate(self) -> None:
        """Begin another reply to the last message."""
        with self._lock:
            if self.busy:
                return self._say(tr(BUSY))
            if not self._written:
                return self._say(tr("nothing to regenerate yet: send a message"))
            self.messages = self.messages[:-1]
            self._write(None)

    def _write(self, text: str | None) -> None:
        self._writing = writing = Reply(self._chat, text, self.settings)
        self.reply, self.unsent, self.place = "", "", None
        self._begin(writing.pieces, self._take, self._end)
        self._say(tr("writing..."))

    def _take(self, piece: str) -> None:
        self.reply += piece
        self.changed()

    def _end(self, problem: Exception | None, _) -> None:
        writing, self._writing, self.reply = self._writing, None, None
        if problem is None:
            self._keep(writing)
        else:
            self.unsent = writing.text or ""
        self.messages = writing.chat.messages
        if problem is None:
            self._say(writing.outcome())
        else:
            self.refuse(in_a_line(problem))

    def _keep(self, writing: Reply) -> None:
        self._written = [*self._finished(), writing]
        messages = writing.chat.messages
        system = messages[0]["content"] if messages[0]["role"] == "system" else None
        asked = (message["content"] for message in messages if message["role"] == "user")
        turns = [(text, reply.repeatable(), reply.seed) for text, reply in zip(asked, self._written, strict=True)]
        self.code = as_code(writing.chat.model.name_or_path, system, turns)

    def _finished(self) -> list[Reply]:
        """The replies among `messages`. While the last one is written again it is not among them."""
        return self._written[: sum(message["role"] == "assistant" for message in self.messages)]

    def _say_settings(self, otherwise: str | None = None, kind: str = OTHER) -> None:
        """Say what is wrong with the settings, so that it stays said until it is mended; else `otherwise`, or ready."""
        if why := problem(self.settings):
            self.refuse(why)
        elif otherwise is None:
            self._say(tr("ready"), READY)
        else:
            self._say(otherwise, kind)
