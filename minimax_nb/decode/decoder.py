"""The buffers of a model and the cache that has them: caches come and go, the addresses stay.

`MiniMaxCache` remains what everything else sees. While a cache has the buffers, its states are the buffers themselves
and its keys are views of them, as long as the text. So `snapshot`, `restore` and a prefill read it as ever; what they
put into it are tensors of their own, and the next step notices and copies them in. When another cache wants to be
stepped, the first is given copies of what is its own.
"""

import threading
import weakref

import torch
from torch import Tensor, nn
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from ..experts.held import address
from .buffers import LARGE, Buffers, grow, keys_for, made, room_for
from .graph import Eager, Graphs
from .step import parts_of

CHANGED = 2  # steps in a row before which somebody had changed the cache: more, and copying costs more than it saves


class Refused(RuntimeError):
    """Why a step was not done; the cache is as it was."""


class Unfit(Refused):
    """Why no step of this model can be done."""


class Changed(Refused):
    """The model has other weights or modules than when its decoder was made."""


class Decoder:
    """Steps of one model. Calls from several threads take turns."""

    def __init__(self, model: nn.Module):
        self.model, self.made_of = weakref.ref(model), fingerprint(model)
        self.layers, self.dtype, self.config = list(model.model.layers), model.dtype, model.config
        self.parts = parts_of(model)
        self.on_gpu = self.parts[0].device.type == "cuda"
        self.lock = threading.RLock()
        self.drop()

    def drop(self) -> None:
        """Forget the buffers; the cache that had them keeps what it holds of them."""
        self.buffers: Buffers | None = None
        self.play, self.recorded_with = None, None
        self.owner = lambda: None
        self.views, self.fed, self.changed = {}, None, 0

    @torch.no_grad()
    def step(self, cache: MiniMaxCache, length: int, ids: Tensor, positions: Tensor | None) -> Tensor:
        """One token for each row of a cache that holds `length`: logits (b, vocabulary), a new tensor.

        ids: (b,), none of them a pad. positions: (b,) or (1,), or None for the number of tokens without pads.
        Refused if it cannot be done, OutOfMemoryError if there is no room: the cache is then as it was before.
        """
        with self.lock:
            if not self._has(cache, len(ids)):
                self._take(cache, len(ids), length)
            elif length == self.buffers.room:
                self._grow(cache, length)
            if self.play is None or self._experts() != self.recorded_with:
                self._point(length, positions)
                self._record()
            self._point(length, positions)
            logits = self.play(ids)
            self._show(cache, length + 1)
            return logits

    def _has(self, cache: MiniMaxCache, batch: int) -> bool:
        """Whether the buffers hold just what the cache does."""
        if self.owner() is not cache or self.buffers.batch != batch or not self.views:
            return False
        if getattr(cache, "fed", None) is not self.fed:
            return False
        if any(cache.linear_cache[index] is not state for index, state in self.buffers.states.items()):
            return False
        for index, (keys, values) in self.views.items():
            if cache.layers[index].keys is not keys or cache.layers[index].values is not values:
                return False
        self.changed = 0
        return True

    def _take(self, cache: MiniMaxCache, batch: int, length: int) -> None:
        """Copy what the cache holds into the buffers, and give them to it."""
        check(cache, self.config, batch, length)
        if fingerprint(self.model()) != self.made_of:
            raise Changed("the model was changed")
        self._count_changes(cache, length)
        if self.owner() is not cache:
            self._give_back()
        self.views = {}
        if self.buffers is None or self.buffers.batch != batch or self.buffers.room <= length:
            self.buffers, self.play = None, None  # what it held must be free before as much is asked for
            self.buffers = made(self.layers, batch, room_for(length + 1), self.dtype)
        self.owner = weakref.ref(cache)
        for index, state in self.buffers.states.items():
            if cache.linear_cache[index] is not state:
                state.copy_(cache.linear_cache[index])
        for index in self.buffers.keys:
            pair, layer = keys_for(self.buffers, self.layers, index, self.dtype), cache.layers[index]
            for name, buffer in zip(("keys", "values"), pair, strict=True):
                if getattr(layer, name).data_ptr() != buffer.data_ptr():
                    buffer[:, :, :length].copy_(getattr(layer, name))
                    # What the cache had is free before the next layer's buffers are asked for.
                    setattr(layer, name, buffer[:, :, :length])
        self.fed = getattr(cache, "fed", None)
        for place in self.buffers.places.values():
            place.mark(self.fed)
        for index, state in self.buffers.states.items():
            cache.linear_cache[index] = state
        self._show(cache, length)

    def _count_changes(self, cache: MiniMaxCache, length: int) -> None:
        """Refused if the cache was changed before each of some steps: beam search, for one, exchanges its rows."""
        again = self.owner() is cache and self.views and length == next(iter(self.views.values()))[0].shape[2]
        self.changed = self.changed + 1 if again else 0
        if self.changed > CHANGED:
            raise Refused("this cache is changed between tokens, as in a search over beams")

    def _give_back(self) -> None:
        """Let the cache that has the buffers have copies instead. Interrupted, it can be done again."""
        cache = self.owner()
        if cache is not None and self.buffers is not None:
            for index, state in self.buffers.states.items():
                if index < len(cache.linear_cache) and cache.linear_cache[index] is state:
                    cache.linear_cache[index] = state.clone()
            for index, pair in self.buffers.keys.items():
                layer = cache.layers[index] if index < len(cache.layers) else None
                for name, buffer in zip(("keys", "values"), pair or (), strict=False):
                    tensor = getattr(layer, name, None)
                    if tensor is not None and tensor.data_ptr() == buffer.data_ptr():
                        setattr(layer, name, tensor.clone())
        self.owner, self.views = (lambda: None), {}

    def _grow(self, cache: MiniMaxCache, length: int) -> None:
        """Twice the room, in which the cache's keys come to lie layer by layer."""
        self.play = None  # the recording holds the memory that it was made with
        grow(self.buffers, self.layers, 2 * length, lambda index: self._show_keys(cache, index, length))

    def let_go(self, cache: MiniMaxCache) -> None:
        """Leave the buffers to the cache, if it has them and they are large: something else will copy its keys.

        They would lie beside the copies. Without us each layer's are free as soon as its copy is made.
        """
        with self.lock:
            if self.owner() is cache and self.buffers.batch * self.buffers.room >= LARGE:
                self.drop()

    def _record(self) -> None:
        self.play, self.recorded_with = None, self._experts()
        try:
            self.play = (Graphs if self.on_gpu else Eager)(self.parts, self.buffers)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a kernel that does not compile here, a call that cannot be recorded
            raise Unfit(f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}") from error
        for place in self.buffers.places.values():
            place.ready = -1  # trying it was a step

    def _experts(self) -> str:
        """How the experts are computed, which a recording keeps doing when the model's setting changes."""
        return self.parts[0].ops.experts_of(self.layers[0].mlp.experts, self.dtype)

    def _point(self, length: int, positions: Tensor | None) -> None:
        for place in self.buffers.places.values():
            place.point(length, positions)

    def _show(self, cache: MiniMaxCache, length: int) -> None:
        """Let the cache be as long as the text."""
        if self.fed is not None and self.fed.shape[1] != length:
            cache.fed = self.fed = next(iter(self.buffers.places.values())).keep[:, :length].clone()
        for index in self.buffers.keys:
            self._show_keys(cache, index, length)

    def _show_keys(self, cache: MiniMaxCache, index: int, length: int) -> None:
        keys, values = self.buffers.keys[index]
        layer = cache.layers[index]
        layer.keys, layer.values = self.views[index] = keys[:, :, :length], values[:, :, :length]


def check(cache: MiniMaxCache, config, batch: int, length: int) -> None:
    """Refused if the cache lacks a layer or has other rows."""
    for index, kind in enumerate(config.layer_types):
        if kind == "full_attention":
            tensor = cache.layers[index].keys if index < len(cache.layers) else None
            size = (batch, length)
        else:
            tensor = cache.linear_cache[index] if index < len(cache.linear_cache) else None
            size = (batch,)
        if not isinstance(tensor, Tensor) or tensor.shape[::2][: len(size)] != size:
            raise Refused(f"the cache holds nothing for layer {index}, or other rows")


def fingerprint(model: nn.Module) -> list:
    """What a decoder is made of: modules, where their weights lie, and the lightning backend of each layer."""
    modules = [(id(module), getattr(module, "lightning_backend", None)) for module in model.modules()]
    return modules + [address(weight) for weight in model.parameters()]
