"""The logic of the playground: a Chat whose replies are written by a thread, with settings, Stop and words for it all.

    state = Playground(model, tokenizer)
    state.set("temperature", 0.8)
    state.send("How do I make pesto?")
    state.stop()
    state.wait()
    print(state.status, state.messages)

Nothing here blocks but `wait`, and nothing raises for what a reader does: `status` says what is going on or went wrong.
`changed` is called, from any thread and one call at a time, whenever there is something new to draw.

Each reply has its own random numbers, cache and settings, taken when it starts, so other cells can use the model
meanwhile. A change of settings counts from the next reply on, one of the system prompt from the next new chat on. Stop
keeps the half reply as the turn's reply. `look` chooses the token whose `candidates` are shown.
"""

import functools
import threading
from collections.abc import Callable

from ...chat import Chat
from .code import as_code
from .reply import Reply
from .settings import check, start


class Playground:
    """One conversation to be drawn.

    `messages` are the turns to show, the one just asked included; `reply` is the text so far of the reply being
    written, None when none is; `unsent` is a message that failed, for the reader to have back. `tokens` are those of
    the finished replies, `growing` those of the one being written, each as its text and a sign for what has little of
    it. `place` counts through all of them. `code` is the conversation as a cell, empty before the first reply.
    """

    def __init__(self, model, tokenizer, system: str | None = None):
        self._empty_chat = functools.partial(Chat, model, tokenizer)
        self._first_system = system
        self._lock = threading.RLock()
        self._writing: Reply | None = None
        self.changed: Callable[[], None] = lambda: None
        self.reset()

    @property
    def busy(self) -> bool:
        return self._writing is not None

    @property
    def growing(self) -> list[tuple[str, str]]:
        return self._writing.told if self._writing else []

    @property
    def tokens(self) -> list[list[tuple[str, str]]]:
        return [reply.told for reply in self._finished()]

    @property
    def candidates(self) -> dict | None:
        """What the token looked at could have been, without a look the last one; None if there is no token yet."""
        with self._lock:
            replies = [*self._finished(), *filter(None, [self._writing])]
            places = [(reply, at) for reply in replies for at in range(len(reply.told))]
            if not places:
                return None
            place = self.place if self.place in range(len(places)) else len(places) - 1
            reply, at = places[place]
            return {"place": place, "count": len(places)} | reply.described(at)

    def look(self, place: int | None) -> None:
        """Show the candidates of this token, counted from 0 through all replies; None follows the last one."""
        with self._lock:
            self.place = place
            self.changed()

    def new_chat(self) -> None:
        """Empty the conversation and keep the settings. A reply being written is dropped."""
        chat = self._empty_chat(self.system)
        with self._lock:
            self.stop()
            self._chat, self._writing, self._written = chat, None, []
            self.messages, self.reply, self.unsent = chat.messages, None, ""
            self.place, self.code = None, ""
            self._say(self._wrong_setting() or "ready")

    def reset(self) -> None:
        """A new chat with the first settings and system prompt."""
        with self._lock:
            self.settings, self.system = start(), self._first_system
            self.new_chat()

    def set_system(self, text: str) -> None:
        """Change the system prompt, to none if `text` is blank. A conversation that has begun keeps its own."""
        with self._lock:
            self.system = text if text.strip() else None
            if not (self._written or self.busy):
                return self.new_chat()
            later = "the system prompt counts from the next new chat on"
            self._say(self.status if self.busy else self._wrong_setting() or later)

    def set(self, name: str, value: float | None) -> None:
        """Change a setting; it counts from the next reply on. A wrong value is kept, said, and refused by `send`."""
        with self._lock:
            if name not in self.settings:
                return self._say(f"error: no setting is called {name}")
            self.settings = {**self.settings, name: value}
            mended = self.status.startswith("error") and not self.busy
            self._say(self._wrong_setting() or ("ready" if mended else self.status))

    def send(self, text: str) -> None:
        """Begin a reply to `text`."""
        with self._lock:
            if not self.busy:
                self.messages = [*self.messages, {"role": "user", "content": text}]
            self._begin(text)

    def regenerate(self) -> None:
        """Begin another reply to the last message."""
        with self._lock:
            if not self.busy and self._chat.messages[-1:] and self._chat.messages[-1]["role"] == "assistant":
                self.messages = self.messages[:-1]
                return self._begin(None)
            self._say("still writing: press Stop first" if self.busy else "nothing to regenerate yet: send a message")

    def stop(self) -> None:
        """End the reply after the token being computed."""
        with self._lock:
            if self._writing:
                self._writing.stop.set()
                self._say("stopping...")

    def wait(self, timeout: float | None = None) -> None:
        """Until the reply is finished, or `timeout` seconds have passed."""
        with self._lock:
            writing = self._writing
        if writing:
            writing.thread.join(timeout)

    def _wrong_setting(self) -> str:
        """The status for settings that `send` would refuse; empty if they are good."""
        try:
            check(self.settings)
        except ValueError as error:
            return f"error: {error}"
        return ""

    def _begin(self, text: str | None) -> None:
        if self.busy:
            return self._say("still writing: press Stop first")
        self._writing = writing = Reply(self._chat, text, self.settings)
        self.reply, self.unsent, self.place = "", "", None
        self._say("writing...")
        writing.thread = threading.Thread(target=self._write, args=(writing,), daemon=True)
        writing.thread.start()

    def _write(self, writing: Reply) -> None:
        try:
            for piece in writing.pieces():
                with self._lock:
                    if writing is not self._writing:  # reset: nobody looks any more
                        return
                    self.reply += piece
                    self.changed()
            status, unsent, whole = writing.outcome(), "", True
        except Exception as error:  # it goes where the reader looks: a thread's own would be lost
            words = str(error).strip().partition("\n")[0]
            name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            status, unsent, whole = f"error: {name}{words}", writing.text or "", False
        with self._lock:
            if writing is self._writing:
                self._writing, self.reply, self.unsent = None, None, unsent
                if whole:
                    self._keep(writing)
                self.messages = writing.chat.messages
                self._say(status)

    def _keep(self, writing: Reply) -> None:
        self._written = [*self._finished(), writing]
        messages = writing.chat.messages
        system = messages[0]["content"] if messages[0]["role"] == "system" else None
        asked = (message["content"] for message in messages if message["role"] == "user")
        turns = [(text, reply.repeatable(), reply.seed) for text, reply in zip(asked, self._written, strict=True)]
        self.code = as_code(writing.chat.model.name_or_path, system, turns)

    def _finished(self) -> list[Reply]:
        """The replies among `messages`; while the last one is written again it is not among them."""
        return self._written[: sum(message["role"] == "assistant" for message in self.messages)]

    def _say(self, status: str) -> None:
        with self._lock:
            self.status = status
            self.changed()
