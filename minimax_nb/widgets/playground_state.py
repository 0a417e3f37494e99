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
meanwhile. A change of settings counts from the next reply on. Stop keeps the half reply as the turn's reply.
"""

import functools
import secrets
import threading
import time
from collections.abc import Callable, Iterator

import torch

from ..chat import Chat
from .settings import check, generation, start

SEEDS = 10_000  # a seed that is drawn is shown, to be typed in again: short ones


class Playground:
    """One conversation to be drawn.

    `messages` are the turns to show, the one just asked included; `reply` is the text so far of the reply being
    written, None when none is; `unsent` is a message that failed, for the reader to have back.
    """

    def __init__(self, model, tokenizer, system: str | None = None):
        self._empty_chat = functools.partial(Chat, model, tokenizer, system)
        self._lock = threading.RLock()
        self._writing: _Writing | None = None
        self.changed: Callable[[], None] = lambda: None
        self.reset()

    @property
    def busy(self) -> bool:
        return self._writing is not None

    def new_chat(self) -> None:
        """Empty the conversation and keep the settings. A reply being written is dropped."""
        chat = self._empty_chat()
        with self._lock:
            self.stop()
            self._chat, self._writing = chat, None
            self.messages, self.reply, self.unsent = chat.messages, None, ""
            self._say(self._wrong_setting() or "ready")

    def reset(self) -> None:
        """A new chat with the first settings."""
        with self._lock:
            self.settings = start()
            self.new_chat()

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
        self._writing = writing = _Writing(self._chat, text, self.settings)
        self.reply, self.unsent = "", ""
        self._say("writing...")
        writing.thread = threading.Thread(target=self._write, args=(writing,), daemon=True)
        writing.thread.start()

    def _write(self, writing: "_Writing") -> None:
        try:
            for piece in writing.pieces():
                with self._lock:
                    if writing is not self._writing:  # reset: nobody looks any more
                        return
                    self.reply += piece
                    self.changed()
            status, unsent = writing.outcome(), ""
        except Exception as error:  # it goes where the reader looks: a thread's own would be lost
            words = str(error).strip().partition("\n")[0]
            name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            status, unsent = f"error: {name}{words}", writing.text or ""
        with self._lock:
            if writing is self._writing:
                self._writing, self.reply, self.unsent = None, None, unsent
                self.messages = writing.chat.messages
                self._say(status)

    def _say(self, status: str) -> None:
        with self._lock:
            self.status = status
            self.changed()


class _Writing:
    """One reply on its way: to `text`, or without one another to the last message."""

    thread: threading.Thread

    def __init__(self, chat: Chat, text: str | None, settings: dict):
        self.chat, self.text, self.settings = chat, text, settings
        self.stop, self.tokens, self.seed = threading.Event(), 0, None
        self._began = time.perf_counter()

    def pieces(self) -> Iterator[str]:
        """The reply as Chat streams it, stopped by `stop`. ValueError for wrong settings."""
        given = generation(self.settings) | {"stopping_criteria": [self._count]}
        if given["do_sample"]:
            seed = self.settings["seed"]
            self.seed = secrets.randbelow(SEEDS) if seed is None else int(seed)
            given["generator"] = torch.Generator(self.chat.model.device).manual_seed(self.seed)
        return self.chat.stream_again(**given) if self.text is None else self.chat.stream(self.text, **given)

    def outcome(self) -> str:
        """How it ended, in words. Tokens include the one that ends the reply."""
        count = f"{self.tokens} token{'s' if self.tokens != 1 else ''} in {time.perf_counter() - self._began:.1f} s"
        drawn = "" if self.seed is None else f", seed {self.seed}"
        if self.chat.ids[-1] == self.chat.tokenizer.eos_token_id:
            return f"done: {count}{drawn}"
        if self.stop.is_set():
            return f"stopped: {count}{drawn}; the half reply is kept"
        return f"cut: {count}{drawn}; the longest reply was set to {self.settings['max_new_tokens']}"

    def _count(self, input_ids, scores, **_) -> bool:
        self.tokens += 1
        return self.stop.is_set()
