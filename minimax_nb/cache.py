"""The cache that knows its own length.

Transformers' MiniMaxCache keeps two kinds of layers: softmax layers hold keys and values, (batch, KV heads, length,
head_dim), which grow; lightning layers hold one state each, (batch, heads, head_dim, head_dim), which does not. As
published in 5.24.0 it asks layer 0 for its length, and layer 0 is lightning: the answer is always 0, and masks and
positions built on it are wrong. And what beam search, `num_return_sequences` and `reset` do to the keys, it does not do
to the states. `repair_cache` tests the installed version for each of these and replaces the methods that fail.

    repair_cache()                  # ["length", "mask sizes", "beams", "repeat", "select", "reset"]

`snapshot` and `restore` undo a turn, which `crop` cannot: a state cannot be un-decayed, so it is copied beforehand.
`reserve` makes room for the keys of a long prompt, which then are written once instead of copied with every piece.

A model without any softmax layer has nowhere to read a length from: its cache goes on saying 0. This file knows nothing
of precision: states stay in the dtype that the model computes in.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxForCausalLM

from .language import mark

# What forward, generate and their outputs call the cache: renamed in Transformers 5.24.
CACHE_ARGUMENT = "cache" if "cache" in signature(MiniMaxForCausalLM.forward).parameters else "past_key_values"


class Snapshot(NamedTuple):
    """Where a cache stood."""

    states: list[Tensor | None]  # of each layer
    lengths: list[int]  # keys of each layer
    fed: Tensor | None  # the mask of the tokens fed so far, where some were pads


def repair_cache() -> list[str]:
    """Replace the methods of MiniMaxCache that fail a test; return the names of all repairs now in force.

    Calling it again changes nothing and returns the same names; an empty list means that the installed version needs
    none. RuntimeError if a method still fails after its repair, which only another Transformers could cause.
    """
    for name, method in _METHODS.items():
        if not _passes(name):
            setattr(MiniMaxCache, method.__name__, method)
    if broken := [name for name in _METHODS if not _passes(name)]:
        raise RuntimeError(f"MiniMaxCache of this Transformers cannot be repaired ({', '.join(broken)}): use 5.24.0")
    return [name for name, method in _METHODS.items() if getattr(MiniMaxCache, method.__name__) is method]


@contextmanager
def stock_cache() -> Iterator[None]:
    """Inside this `with`, MiniMaxCache is as Transformers published it: for showing what goes wrong there."""
    repaired = {name: vars(MiniMaxCache).get(name) for name in _STOCK}
    _assign(_STOCK)
    try:
        yield
    finally:
        _assign(repaired)


def snapshot(cache: MiniMaxCache) -> Snapshot:
    """What `restore` needs to take the cache back to this point. Copies the states; keys are only counted."""
    lengths = [layer.get_seq_length() for layer in cache.layers]
    return Snapshot(_cloned(cache.linear_cache), lengths, getattr(cache, "fed", None))


def restore(cache: MiniMaxCache, snap: Snapshot) -> None:
    """Take the cache back to where `snap` was taken, with the same batch rows; `snap` stays good for another time.

    A forward pass that was interrupted half way is undone too. ValueError if keys from before `snap` are gone.
    """
    states, lengths, fed = snap
    held = [layer.get_seq_length() for layer in cache.layers] + [0] * len(lengths)
    if any(now < then for now, then in zip(held, lengths, strict=False)):
        raise ValueError("this cache holds fewer tokens than the snapshot: it was reset, or is another one")
    cache.linear_cache, cache.fed = _cloned(states), fed
    del cache.layers[len(lengths) :]
    for layer, length in zip(cache.layers, lengths, strict=False):
        if length == 0:
            layer.reset()
        else:
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]


def reserve(cache: MiniMaxCache, tokens: int) -> None:
    """Let the keys of each softmax layer have room for `tokens` a row. Beyond it they grow by copying, as elsewhere."""
    cache.layer_class_to_replicate = partial(RoomyLayer, tokens)
    for layer in cache.layers:
        if type(layer) in (DynamicLayer, RoomyLayer):
            layer.__class__, layer.room = RoomyLayer, tokens


def reserved(cache: MiniMaxCache) -> int:
    """For how many tokens a row `reserve` has made room, 0 if it was not asked."""
    made = cache.layer_class_to_replicate
    return made.args[0] if isinstance(made, partial) and made.func is RoomyLayer else 0


class RoomyLayer(DynamicLayer):
    """Keys and values (batch, KV heads, length, head_dim) as views of larger tensors, which new ones are written to.

    What others put in their place, such as the rows of beams, is copied to new room at the next update.
    """

    room = 0  # tokens
    _shown = (lambda: None, lambda: None)  # the views that were made here

    def __init__(self, room: int):
        super().__init__()
        self.room = room

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """The new keys and values, (batch, KV heads, new, head_dim), behind the others; returns all."""
        length = self.get_seq_length()
        end = length + key_states.shape[2]
        if end > self.room or (torch.is_grad_enabled() and key_states.requires_grad):
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._extended(self.keys, self._shown[0], key_states, length)
        self.values = self._extended(self.values, self._shown[1], value_states, length)
        self._shown = weakref.ref(self.keys), weakref.ref(self.values)
        return self.keys, self.values

    def _extended(self, held: Tensor, shown: Callable, new: Tensor, length: int) -> Tensor:
        batch, heads, tokens, width = new.shape
        shape = batch, heads, self.room, width
        if held is shown() and held.stride(1) == self.room * width:
            whole = held.as_strided(shape, held.stride())
        else:
            with torch.inference_mode(False):  # a tensor made in inference mode could not be written to outside it
                whole = torch.empty(shape, dtype=new.dtype, device=new.device)
            if length:
                whole[:, :, :length].copy_(held)
        whole[:, :, length : length + tokens].copy_(new)
        return whole[:, :, : length + tokens]

    def __getstate__(self) -> dict:
        """Without the views: in a copy others hold the keys."""
        return {name: value for name, value in vars(self).items() if name != "_shown"}


# The replacements. They become methods of MiniMaxCache, so `self` is the cache.


def get_seq_length(self, layer_idx: int = 0) -> int:
    """Tokens seen: of the layer asked if it holds keys, else of the first that does."""
    return DynamicCache.get_seq_length(self, _layer_with_keys(self, layer_idx))


def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
    """(tokens seen and new, offset) for the mask of the softmax layers."""
    return DynamicCache.get_mask_sizes(self, query_length, _layer_with_keys(self, layer_idx))


def reorder_cache(self, beam_idx: Tensor) -> None:
    """Row i becomes what row beam_idx[i] was."""
    DynamicCache.reorder_cache(self, beam_idx)
    _change_rows(self, lambda rows: rows.index_select(0, beam_idx.to(rows.device)))


def batch_repeat_interleave(self, repeats: int) -> None:
    """Each row `repeats` times."""
    DynamicCache.batch_repeat_interleave(self, repeats)
    _change_rows(self, lambda rows: rows.repeat_interleave(repeats, dim=0))


def batch_select_indices(self, indices: Tensor) -> None:
    """Only the rows named."""
    DynamicCache.batch_select_indices(self, indices)
    _change_rows(self, lambda rows: rows[indices, ...])


def reset(self) -> None:
    """Forget everything."""
    DynamicCache.reset(self)
    _change_rows(self, lambda rows: None)  # None is what the model takes for "no state yet"; [] it would multiply


_METHODS = {
    mark("length"): get_seq_length,
    mark("mask sizes"): get_mask_sizes,
    mark("beams"): reorder_cache,
    mark("repeat"): batch_repeat_interleave,
    mark("select"): batch_select_indices,
    mark("reset"): reset,
}
_STOCK = {method.__name__: vars(MiniMaxCache).get(method.__name__) for method in _METHODS.values()}


def _layer_with_keys(cache: MiniMaxCache, asked: int) -> int:
    lengths = [layer.get_seq_length() for layer in cache.layers]
    if asked < len(lengths) and lengths[asked] > 0:
        return asked
    return next((layer for layer, length in enumerate(lengths) if length > 0), asked)


def _change_rows(cache: MiniMaxCache, change: Callable[[Tensor], Tensor | None]) -> None:
    """Of the states, and of the mask that `lightning.boundaries` keeps of the tokens fed."""
    cache.linear_cache = [change(state) if isinstance(state, Tensor) else state for state in cache.linear_cache]
    if getattr(cache, "fed", None) is not None:
        cache.fed = change(cache.fed)


def _cloned(states: list) -> list:
    return [s.clone() if isinstance(s, Tensor) else s for s in states]


def _assign(methods: dict[str, Callable | None]) -> None:
    """Set methods of MiniMaxCache; None means inherited."""
    for name, method in methods.items():
        if method is not None:
            setattr(MiniMaxCache, name, method)
        elif name in vars(MiniMaxCache):
            delattr(MiniMaxCache, name)


# The tests. Each is given a cache of two rows, layer 0 lightning, layer 1 softmax with three tokens, where all of row i
# holds the number i.


def _passes(name: str) -> bool:
    cache = MiniMaxCache()
    rows = torch.arange(2.0).view(2, 1, 1, 1)
    cache.set_linear_cache(0, rows.clone())
    cache.update(rows.repeat(1, 1, 3, 1), rows.repeat(1, 1, 3, 1), 1)
    try:
        return _TESTS[name](cache)
    except (IndexError, TypeError, ValueError, AttributeError, RuntimeError):
        return False


def _knows_its_length(cache: MiniMaxCache) -> bool:
    return cache.get_seq_length() == 3


def _knows_its_mask_sizes(cache: MiniMaxCache) -> bool:
    return cache.get_mask_sizes(2, 0) == (5, 0)


def _follows_beams(cache: MiniMaxCache) -> bool:
    cache.reorder_cache(torch.tensor([1, 1]))
    return _holds_rows(cache, [1, 1])


def _repeats_rows(cache: MiniMaxCache) -> bool:
    cache.batch_repeat_interleave(2)
    return _holds_rows(cache, [0, 0, 1, 1])


def _selects_rows(cache: MiniMaxCache) -> bool:
    cache.batch_select_indices(torch.tensor([1]))
    return _holds_rows(cache, [1])


def _forgets_states(cache: MiniMaxCache) -> bool:
    cache.reset()
    return cache.get_linear_cache(0) is None


def _holds_rows(cache: MiniMaxCache, want: list[int]) -> bool:
    keys = cache.layers[1].keys[:, 0, 0, 0].tolist()
    states = cache.get_linear_cache(0).flatten().tolist()
    return keys == want and states == want


_TESTS: dict[str, Callable[[MiniMaxCache], bool]] = {
    "length": _knows_its_length,
    "mask sizes": _knows_its_mask_sizes,
    "beams": _follows_beams,
    "repeat": _repeats_rows,
    "select": _selects_rows,
    "reset": _forgets_states,
}
