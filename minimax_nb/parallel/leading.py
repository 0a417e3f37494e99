"""Rank 0 leads: whatever it computes with its model, the other ranks compute with it.

    end = lead(model)       # on rank 0: model(...), generate and a server as in one process; at last end()
    follow(model)           # on every other rank, at the same time; returns after end()

So only rank 0 chooses: prompts, samples, stops, what to keep. Before each call of the model it tells the others what
the call is given, and they make the same one. They wait for the next call without end, so a reply that is given up
needs no agreement: its next call does not come. This goes over gloo on the CPU, beside the group of the model. JSON and
whole numbers are sent, and no pickles, which could run a stranger's code.

A cache is known to the others by a number, and changes by calls alone. What moves its rows (beams) or takes it back
(`restore`) is refused at the next call.
"""

import json
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from ..cache import CACHE_ARGUMENT, reserve, reserved
from ..classes import change_class
from ..decode.dispatch import is_kept_plain, plainly

FOREVER = timedelta(days=3650)  # a server may be idle for long
FIRST = 1024  # bytes of a first message; what is longer comes in a second
SIZES = 16  # bytes of it: how long the JSON is, and the numbers
UNTOLD = {"tokenizer"}  # what `generate` hands on and no layer reads


class Call(NamedTuple):
    """A call of the model, as it is told."""

    given: dict  # keywords that are numbers or None
    tensors: dict[str, list]  # shapes and dtypes of the others, whose numbers follow
    cache: list | None  # its keyword, its number, and for how many tokens it has room
    dropped: list[int]  # numbers of caches that rank 0 has no more
    plain: bool  # whether it must not be a step of static decoding


class _Led:
    """What a model gets whose calls are followed: a class before its own."""

    def __call__(self, *args, **kwargs):
        return _leaders[self].call(self, super().__call__, args, kwargs)


class _Channel:
    """From rank 0 to all others: JSON and whole numbers. What belongs to a single token is one message."""

    def __init__(self):
        self._group = dist.new_group(backend="gloo", timeout=FOREVER)

    def say(self, told: Call | None, numbers: list[Tensor]) -> None:
        text = json.dumps(told).encode()
        flat = [tensor.detach().reshape(-1).to("cpu", torch.long).view(torch.uint8) for tensor in numbers]
        sizes = torch.tensor([len(text), sum(map(len, flat))]).view(torch.uint8)
        sent = torch.cat([sizes, torch.frombuffer(bytearray(text), dtype=torch.uint8), *flat])
        first = torch.zeros(FIRST, dtype=torch.uint8)
        first[: len(sent)] = sent[:FIRST]
        dist.broadcast(first, 0, group=self._group)
        if len(sent) > FIRST:
            dist.broadcast(sent[FIRST:], 0, group=self._group)

    def hear(self) -> tuple[Call | None, Tensor]:
        """What was told, and all numbers in a row; None at the end."""
        heard = torch.empty(FIRST, dtype=torch.uint8)
        dist.broadcast(heard, 0, group=self._group)
        text, size = heard[:SIZES].view(torch.long).tolist()
        if (more := SIZES + text + size - FIRST) > 0:
            rest = torch.empty(more, dtype=torch.uint8)
            dist.broadcast(rest, 0, group=self._group)
            heard = torch.cat([heard, rest])
        told = json.loads(heard[SIZES : SIZES + text].numpy().tobytes())
        numbers = heard[SIZES + text :][:size].clone().view(torch.long)
        return told and Call(*told), numbers


class _Leader:
    def __init__(self, lost: Callable[[Exception], None]):
        self._channel, self._lost, self._lock = _Channel(), lost, threading.Lock()
        self._numbers = weakref.WeakKeyDictionary()  # of caches: their number, and the tokens that the others have
        self._count, self._dropped = 0, []

    def call(self, model: nn.Module, compute: Callable, args: tuple, kwargs: dict):
        if len(args) > 1:
            raise TypeError("a model that leads other ranks takes one positional argument, input_ids")
        kwargs = dict(zip(("input_ids",), args, strict=False)) | kwargs
        with self._lock:
            told, numbers = self._described(model, kwargs)
            try:
                self._channel.say(told, numbers)
                result = compute(**kwargs)
            except Exception as error:
                self._lost(error)
                raise
            if told.cache:
                cache = kwargs[told.cache[0]]
                self._numbers[cache] = told.cache[1], cache.get_seq_length()
            return result

    def end(self) -> None:
        with self._lock:
            self._channel.say(None, [])

    def _described(self, model: nn.Module, kwargs: dict) -> tuple[Call, list[Tensor]]:
        """What is told of a call; `kwargs` is completed. TypeError, or ValueError, for what cannot be told."""
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor) and mask.dim() == 2 and mask.all():
            kwargs["attention_mask"] = None  # it says nothing, and is as long as the text
        uses = kwargs.get("use_cache")
        name = next((name for name in ("cache", "past_key_values") if kwargs.get(name) is not None), CACHE_ARGUMENT)
        if kwargs.get(name) is None and (model.config.use_cache if uses is None else uses):
            kwargs[name] = MiniMaxCache()  # as the model would
        cache = kwargs.get(name)
        tensors = {key: value for key, value in kwargs.items() if isinstance(value, Tensor)}
        given = {key: value for key, value in kwargs.items() if key not in tensors and key != name}
        given = {key: value for key, value in given.items() if key not in UNTOLD}
        floats = [key for key, value in tensors.items() if value.is_floating_point()]
        if unsaid := floats + [k for k, value in given.items() if not isinstance(value, bool | int | float | None)]:
            raise TypeError(f"{unsaid[0]}: the other ranks of this model can be told whole numbers only")
        shapes = {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in tensors.items()}
        held = None if cache is None else [name, self._number(cache), reserved(cache)]
        dropped = [self._dropped.pop() for _ in range(len(self._dropped))]
        return Call(given, shapes, held, dropped, is_kept_plain(model)), list(tensors.values())

    def _number(self, cache: MiniMaxCache) -> int:
        """The number of a cache, which is given when it is first seen. ValueError if it was changed in between."""
        new = cache not in self._numbers
        if new:
            self._numbers[cache], self._count = (self._count, 0), self._count + 1
        number, length = self._numbers[cache]
        if cache.get_seq_length() != length:
            raise ValueError("the other ranks of this model do not know this cache, or not as it is now: begin anew")
        if new:
            weakref.finalize(cache, self._dropped.append, number).atexit = False
        return number


_leaders: "weakref.WeakKeyDictionary[nn.Module, _Leader]" = weakref.WeakKeyDictionary()


def lead(model: nn.Module, lost: Callable[[Exception], None] = lambda error: None) -> Callable[[], None]:
    """Let the other ranks follow each call of a split model from now on; return what lets them go.

    lost: called with what went wrong within a call. The ranks may be out of step then, so no call can come after it.
    """
    _leaders[model] = leader = _Leader(lost)
    change_class(model, type(type(model).__name__, (_Led, type(model)), {}))
    return leader.end


def is_led(model: nn.Module) -> bool:
    """Whether a model's calls are followed, so that nothing has to be agreed on."""
    return isinstance(model, _Led)


@torch.no_grad()
def follow(model: nn.Module) -> None:
    """Make each call that rank 0 makes, until it ends."""
    channel, caches, device = _Channel(), {}, model.device
    while True:
        told, numbers = channel.hear()
        if told is None:
            return
        for number in told.dropped:
            caches.pop(number, None)
        kwargs, at = dict(told.given), 0
        for name, (shape, dtype) in told.tensors.items():
            size = torch.Size(shape).numel()
            kwargs[name] = numbers[at : at + size].view(shape).to(device, getattr(torch, dtype))
            at += size
        if told.cache:
            name, number, room = told.cache
            kwargs[name] = cache = caches.setdefault(number, MiniMaxCache())
            if room != reserved(cache):
                reserve(cache, room)
        with plainly(model) if told.plain else nullcontext():
            model(**kwargs)
