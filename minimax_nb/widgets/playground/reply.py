"""One reply of a playground: how it is written, and what is kept of it: its settings, its seed and every draw.

    reply = Reply(chat, "How do I make pesto?", settings)
    for piece in reply.pieces(threading.Event()):
        print(piece, end="")
    print(reply.outcome(), reply.candidates(3))

It has its own random numbers, so that a seed gives the same reply whatever else draws meanwhile.
"""

import secrets
import time
from collections.abc import Iterator
from threading import Event

import torch

from ...chat import Chat
from ...language import tr
from .candidates import PART, Draw, describe, draw, sign
from .settings import generation

SEEDS = 10_000  # a seed that was drawn is shown, to be typed in again, so it is short


class Reply:
    """The reply to `text`. Without a text it is another reply to the last message.

    `tokens` holds for each token its text and a sign for what has little of it. `pieces` adds to it before it
    yields.
    """

    def __init__(self, chat: Chat, text: str | None, settings: dict):
        self.chat, self.text, self.settings = chat, text, settings
        self.seed: int | None = None
        self.tokens: list[tuple[str, str]] = []
        self._draws: list[Draw] = []
        self._stop = Event()
        self._began = self._first = self._last = time.perf_counter()

    def pieces(self, stop: Event) -> Iterator[str]:
        """The reply as Chat streams it. Once `stop` is set it ends after the token that is being computed.

        ValueError for wrong settings.
        """
        self._stop = stop
        given = generation(self.settings) | {"stopping_criteria": [self._stopped], "watch": self._watch}
        if given["do_sample"]:
            seed = self.settings["seed"]
            self.seed = secrets.randbelow(SEEDS) if seed is None else int(seed)
            given["generator"] = torch.Generator(self.chat.model.device).manual_seed(self.seed)
        again = self.text is None
        for piece in self.chat.stream_again(**given) if again else self.chat.stream(self.text, **given):
            self._add(piece)
            yield piece
        self._add("")  # what ends a reply has no text

    def outcome(self) -> str:
        """How it ended, in words. Tokens include the one that ends the reply."""
        tokens, since = len(self._draws), self._last - self._first
        spent = {"tokens": tokens, "seconds": f"{time.perf_counter() - self._began:.1f}"}
        count = tr("{tokens} tokens in {seconds} s", **spent)
        if tokens == 1:
            count = tr("{tokens} token in {seconds} s", **spent)
        if since:  # without the first token, because that one waits for the prompt
            rate = (tokens - 1) / since
            count += tr(" ({rate} a second after the first)", rate=f"{rate:.{0 if rate >= 10 else 1}f}")
        if self.seed is not None:
            count = tr("{count}, seed {seed}", count=count, seed=self.seed)
        if self.chat.ids[-1] == self.chat.tokenizer.eos_token_id:
            return tr("done: {count}", count=count)
        if self._stop.is_set():
            return tr("stopped: {count}; the half reply is kept", count=count)
        longest = self.settings["max_new_tokens"]
        return tr("cut: {count}; the longest reply was set to {longest}", count=count, longest=longest)

    def candidates(self, at: int) -> dict:
        """What token `at` could have been."""
        begun = at
        while begun and self.tokens[begun - 1][1] == PART:
            begun -= 1
        before = [draw.id for draw in self._draws[begun:at]]
        return describe(self._draws[at], self.chat.tokenizer, before, self.seed is not None)

    def repeatable(self) -> dict:
        """The settings that give this reply again. After Stop the longest reply is the length at which it came."""
        return generation(self.settings) | ({"max_new_tokens": len(self._draws)} if self._stop.is_set() else {})

    def _add(self, piece: str) -> None:
        """Note the tokens of `piece`: all that are new, since its text is complete with the last of them."""
        new = self._draws[len(self.tokens) :]
        texts = [*[""] * (len(new) - 1), piece]
        signs = [sign(draw.id, text, self.chat.tokenizer) for text, draw in zip(texts, new, strict=False)]
        self.tokens = [*self.tokens, *zip(texts, signs, strict=False)]

    def _watch(self, *tensors: torch.Tensor) -> None:
        self._draws.append(draw(*tensors))
        self._last = time.perf_counter()
        if len(self._draws) == 1:
            self._first = self._last

    def _stopped(self, input_ids, scores, **_) -> bool:
        return self._stop.is_set()
