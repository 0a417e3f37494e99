"""Generation for the server: one request at a time, on a thread of its own, going on from a cache where one fits.

Transformers' server computes each turn of a conversation from its first token. Here the caches of the latest
conversations are kept. A request that begins with all the tokens which one of them has seen computes only what is new.
Where the free memory is too little for a request, the oldest caches go first.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from fastapi import HTTPException
from transformers import GenerationConfig
from transformers.cli.serving.utils import (
    DirectStreamer,
    GenerateManager,
    GenerationState,
    _GenerationCancelled,
    _StreamError,
)
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from ..cache import CACHE_ARGUMENT
from ..prefill import is_short_of

CONVERSATIONS = 4
# Of all kept caches together, at most: 5.4 GB of keys and values with the real model, and 0.3 GB each of states.
TOKENS = 131_072
log = logging.getLogger("minimax_nb")


class Asked(NamedTuple):
    """What a request asks for and a GenerationConfig has no place for; it travels as its `asked`."""

    seed: int | None = None
    stop: tuple[str, ...] = ()
    limited: bool = False  # whether the length of the reply was named


class Kept:
    """Caches of the latest conversations, each with the ids that it has seen."""

    def __init__(self, conversations: int = CONVERSATIONS, tokens: int = TOKENS):
        self._most, self._tokens = conversations, tokens
        self._held: list[tuple[list[int], MiniMaxCache]] = []

    def take(self, ids: list[int]) -> tuple[int, MiniMaxCache]:
        """How many of the ids it has seen, and a cache: of the longest kept beginning, or a new one."""
        fitting = [held for held in self._held if len(held[0]) < len(ids) and ids[: len(held[0])] == held[0]]
        if not fitting:
            return 0, MiniMaxCache()
        best = max(fitting, key=lambda held: len(held[0]))
        self._held = [held for held in self._held if held is not best]
        return len(best[0]), best[1]

    def keep(self, ids: list[int], cache: MiniMaxCache) -> None:
        """Hold a cache that has seen just `ids`; the oldest go where they are too many."""
        self._held.append((ids, cache))
        while len(self._held) > self._most or sum(len(seen) for seen, _ in self._held) > self._tokens:
            self._held.pop(0)

    def drop_while(self, too_little: Callable[[], bool]) -> None:
        """Let go of the oldest, one by one, while there is too little memory."""
        while self._held and too_little():
            self._held.pop(0)


class Streamer(DirectStreamer):
    """Text up to the first stop string, which is held back until it is sure that none begins there."""

    def __init__(self, *args, stop: tuple[str, ...] = (), **kwargs):
        self.ids, self._stop, self._held, self._stopped, self.first_at = [], stop, "", False, None
        super().__init__(*args, **kwargs)

    def put(self, value: torch.Tensor) -> None:
        prompt = self._first
        super().put(value)
        if not prompt:
            self.first_at = self.first_at or time.perf_counter()
            self.ids += value.tolist()
        if self._stopped:
            raise _GenerationCancelled

    def _enqueue(self, item) -> None:
        if type(item) is str:  # of the reply; text of thinking is of a subclass, and no stop string ends it
            item = self._before_stop(item)
        elif item is None and self._held:
            super()._enqueue(self._held)
        if item != "":
            super()._enqueue(item)

    def _before_stop(self, text: str) -> str:
        if self._stopped:
            return ""
        text, self._held = self._held + text, ""
        if found := [text.index(stop) for stop in self._stop if stop in text]:
            self._stopped = True
            return text[: min(found)]
        begun = max((n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        sure = len(text) - begun
        self._held = text[sure:]
        return text[:sure]


class Turns(GenerateManager):
    """Requests on one thread, where they wait for each other."""

    def __init__(self):
        super().__init__()
        self._kept = Kept()
        self.open: set[Streamer] = set()  # requests that wait or are being answered

    def stop(self) -> None:
        """End all requests with an error. What a forward pass has begun goes on until it is done."""
        for streamer in list(self.open):
            streamer.cancel()
            streamer._enqueue(_StreamError("the server was stopped"))

    def generate_streaming(
        self, model, processor, inputs, gen_config: GenerationConfig, request_id, response_parser=None
    ) -> tuple[asyncio.Queue, Streamer]:
        """Queue a request. HTTPException (400) if prompt and reply are longer than the model's context."""
        require_room(model.config, inputs["input_ids"].shape[1], gen_config)
        loop, queue = asyncio.get_running_loop(), asyncio.Queue()
        asked = gen_config.asked
        streamer = Streamer(processor._tokenizer, loop, queue, response_parser, stop=asked.stop)
        self.open.add(streamer)
        self.submit(self._run, model, inputs, gen_config, streamer, asked.seed)
        return queue, streamer

    def _run(self, model, inputs, config: GenerationConfig, streamer: Streamer, seed: int | None) -> None:
        started, prompt = time.perf_counter(), inputs["input_ids"].shape[1]
        try:
            if not streamer._cancelled.is_set():  # its client may have left while it waited
                reused = self._generate(model, inputs, config, streamer, seed)
                self._tell(prompt, reused, streamer, started)
                streamer.end()
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError):
                self._kept.drop_while(lambda: True)
            wrong = " ".join(f"{type(error).__name__}: {error}".split())
            log.warning("request failed: %s", wrong)
            streamer._enqueue(_StreamError(json.dumps(wrong)[1:-1]))  # it is put between quotes
        finally:
            self.open.discard(streamer)

    def _generate(self, model, inputs, config: GenerationConfig, streamer: Streamer, seed: int | None) -> int:
        """Generate, keep the cache, and return how many tokens of the prompt were in one."""
        prompt = inputs["input_ids"][0].tolist()
        reused, cache = self._kept.take(prompt)
        new = len(prompt) - reused + config.max_new_tokens
        self._kept.drop_while(lambda: is_short_of(model, new))
        with contextlib.suppress(_GenerationCancelled), seeded(model, seed):
            model.generate(**inputs, generation_config=config, streamer=_Unended(streamer), **{CACHE_ARGUMENT: cache})
        if fed := cache.get_seq_length():  # the last token drawn is not in it
            self._kept.keep((prompt + streamer.ids)[:fed], cache)
        return reused

    def _tell(self, prompt: int, reused: int, streamer: Streamer, started: float) -> None:
        if streamer.first_at is None:
            return log.info("stopped by its client before the first token, prompt of %d tokens", prompt)
        now, count = time.perf_counter(), len(streamer.ids)
        rate = (count - 1) / max(now - streamer.first_at, 1e-9)
        how = ", stopped by its client" if streamer._cancelled.is_set() else ""
        kept = f", {reused} of them kept" if reused else ""
        wait = streamer.first_at - started
        log.info(
            f"prompt {prompt} tokens{kept}, reply {count}: first after {wait:.2f} s, then {rate:.1f} a second{how}"
        )


class OneModel(GenerationState):
    """In place of what Transformers keeps of all its models."""

    def __init__(self):
        super().__init__()
        self.turns = Turns()

    def get_manager(self, model_id: str, use_cb: bool = False) -> Turns:
        return self.turns


class _Unended:
    """The streamer without its end, which comes when the cache has been kept: a client may answer at once."""

    def __init__(self, streamer: Streamer):
        self.put, self._streamer = streamer.put, streamer

    def piece_done(self) -> None:
        """After each piece of a long prompt: a client that has left need not wait for the others."""
        if self._streamer._cancelled.is_set():
            raise _GenerationCancelled

    def end(self) -> None:
        pass


@contextlib.contextmanager
def seeded(model, seed: int | None) -> Iterator[None]:
    """Within it, torch draws from this seed; afterwards as if nothing had been drawn. Nothing for None."""
    if seed is None:
        yield
        return
    gpus = {weight.device for weight in model.parameters() if weight.device.type == "cuda"}
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        yield


def require_room(config, prompt: int, generation: GenerationConfig) -> None:
    """HTTPException (400) for more tokens than the context. A reply without a limit of its own gets what is left."""
    context, named = config.max_position_embeddings, generation.asked.limited
    left = context - prompt
    if left < 1 or (named and generation.max_new_tokens > left):
        reply = f" and a reply of {generation.max_new_tokens}" if named else ""
        raise HTTPException(400, f"a prompt of {prompt} tokens{reply}: the model's context is {context}, shorten it")
    generation.max_new_tokens = min(generation.max_new_tokens, left)
