"""One reply of a playground: on its way, and what is kept of it: its settings, its seed and every draw.

    reply = Reply(chat, "How do I make pesto?", settings)
    for piece in reply.pieces():
        print(piece, end="")
    print(reply.outcome(), reply.described(3))

It has its own random numbers, so that a seed gives the same reply whatever else draws. It knows no page, and its
`thread` is for whoever starts one.
"""

import secrets
import threading
import time
from collections.abc import Iterator

import torch

from ...chat import Chat
from .candidates import PART, Step, described, sign, step
from .settings import generation

SEEDS = 10_000  # a seed that is drawn is shown, to be typed in again: short ones


class Reply:
    """The reply to `text`, or without one another to the last message.

    `told` is of each token so far its text and its sign: `pieces` adds to it before it yields.
    """

    thread: threading.Thread

    def __init__(self, chat: Chat, text: str | None, settings: dict):
        self.chat, self.text, self.settings = chat, text, settings
        self.stop, self.seed = threading.Event(), None
        self.told: list[tuple[str, str]] = []
        self._steps: list[Step] = []
        self._began = self._first = self._last = time.perf_counter()

    def pieces(self) -> Iterator[str]:
        """The reply as Chat streams it, stopped by `stop`. ValueError for wrong settings."""
        given = generation(self.settings) | {"stopping_criteria": [self._stopped], "watch": self._watch}
        if given["do_sample"]:
            seed = self.settings["seed"]
            self.seed = secrets.randbelow(SEEDS) if seed is None else int(seed)
            given["generator"] = torch.Generator(self.chat.model.device).manual_seed(self.seed)
        again = self.text is None
        for piece in self.chat.stream_again(**given) if again else self.chat.stream(self.text, **given):
            self._tell(piece)
            yield piece
        self._tell("")  # what ends a reply has no text

    def outcome(self) -> str:
        """How it ended, in words. Tokens include the one that ends the reply."""
        tokens, since = len(self._steps), self._last - self._first
        count = f"{tokens} token{'s' if tokens != 1 else ''} in {time.perf_counter() - self._began:.1f} s"
        if since:  # without the prompt, which the first token waits for
            rate = (tokens - 1) / since
            count += f" ({rate:.{0 if rate >= 10 else 1}f} a second after the first)"
        drawn = "" if self.seed is None else f", seed {self.seed}"
        if self.chat.ids[-1] == self.chat.tokenizer.eos_token_id:
            return f"done: {count}{drawn}"
        if self.stop.is_set():
            return f"stopped: {count}{drawn}; the half reply is kept"
        return f"cut: {count}{drawn}; the longest reply was set to {self.settings['max_new_tokens']}"

    def described(self, at: int) -> dict:
        """What token `at` could have been."""
        begun = at
        while begun and self.told[begun - 1][1] == PART:
            begun -= 1
        before = [step.id for step in self._steps[begun:at]]
        return described(self._steps[at], self.chat.tokenizer, before, self.seed is not None)

    def repeatable(self) -> dict:
        """The settings that give this reply again: where Stop came is the longest reply."""
        return generation(self.settings) | ({"max_new_tokens": len(self._steps)} if self.stop.is_set() else {})

    def _tell(self, piece: str) -> None:
        """Note the tokens that `piece` came from: all that are new, its text being complete with the last of them."""
        new = self._steps[len(self.told) :]
        texts = [*[""] * (len(new) - 1), piece]
        named = [(text, sign(step.id, text, self.chat.tokenizer)) for text, step in zip(texts, new, strict=False)]
        self.told = [*self.told, *named]

    def _watch(self, *draw: torch.Tensor) -> None:
        self._steps.append(step(*draw))
        self._last = time.perf_counter()
        if len(self._steps) == 1:
            self._first = self._last

    def _stopped(self, input_ids, scores, **_) -> bool:
        return self.stop.is_set()
