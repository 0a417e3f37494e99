"""The cache that knows its own length.

Transformers' MiniMaxCache keeps two kinds of layers: softmax layers hold keys and values, (batch, KV heads, length,
head_dim), which grow; lightning layers hold one state each, (batch, heads, head_dim, head_dim), which does not. As
published in 5.24.0 it asks layer 0 for its length, and layer 0 is lightning: the answer is always 0, and masks and
positions built on it are wrong. And what beam search, `num_return_sequences` and `reset` do to the keys, it does not do
to the states. `repair_cache` tests the installed version for each of these and replaces the methods that fail.

    repair_cache()                  # ["length", "mask sizes", "beams", "repeat", "select", "reset"]

`snapshot` and `restore` undo a turn, which `crop` cannot: a state cannot be un-decayed, so it is copied beforehand.

A model without any softmax layer has nowhere to read a length from: its cache goes on saying 0. This file knows nothing
of precision: states stay in the dtype that the model computes in.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxForCausalLM

# What forward, generate and their outputs call the cache: renamed in Transformers 5.24.
CACHE_ARGUMENT = "cache" if "cache" in signature(MiniMaxForCausalLM.forward).parameters else "past_key_values"

Snapshot = tuple[list[Tensor | None], list[int]]  # each layer's state, each layer's number of keys


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
    return _cloned(cache.linear_cache), [layer.get_seq_length() for layer in cache.layers]


def restore(cache: MiniMaxCache, snap: Snapshot) -> None:
    """Take the cache back to where `snap` was taken, with the same batch rows; `snap` stays good for another time.

    A forward pass that was interrupted half way is undone too. ValueError if keys from before `snap` are gone.
    """
    states, lengths = snap
    held = [layer.get_seq_length() for layer in cache.layers] + [0] * len(lengths)
    if any(now < then for now, then in zip(held, lengths, strict=False)):
        raise ValueError("this cache holds fewer tokens than the snapshot: it was reset, or is another one")
    cache.linear_cache = _cloned(states)
    del cache.layers[len(lengths) :]
    for layer, length in zip(cache.layers, lengths, strict=False):
        if length == 0:
            layer.reset()
        else:
            layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]


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
    _change_states(self, lambda state: state.index_select(0, beam_idx.to(state.device)))


def batch_repeat_interleave(self, repeats: int) -> None:
    """Each row `repeats` times."""
    DynamicCache.batch_repeat_interleave(self, repeats)
    _change_states(self, lambda state: state.repeat_interleave(repeats, dim=0))


def batch_select_indices(self, indices: Tensor) -> None:
    """Only the rows named."""
    DynamicCache.batch_select_indices(self, indices)
    _change_states(self, lambda state: state[indices, ...])


def reset(self) -> None:
    """Forget everything."""
    DynamicCache.reset(self)
    _change_states(self, lambda state: None)  # None is what the model takes for "no state yet"; [] it would multiply


_METHODS = {
    "length": get_seq_length,
    "mask sizes": get_mask_sizes,
    "beams": reorder_cache,
    "repeat": batch_repeat_interleave,
    "select": batch_select_indices,
    "reset": reset,
}
_STOCK = {method.__name__: vars(MiniMaxCache).get(method.__name__) for method in _METHODS.values()}


def _layer_with_keys(cache: MiniMaxCache, asked: int) -> int:
    lengths = [layer.get_seq_length() for layer in cache.layers]
    if asked < len(lengths) and lengths[asked] > 0:
        return asked
    return next((layer for layer, length in enumerate(lengths) if length > 0), asked)


def _change_states(cache: MiniMaxCache, change: Callable[[Tensor], Tensor | None]) -> None:
    cache.linear_cache = [change(s) if isinstance(s, Tensor) else s for s in cache.linear_cache]


def _cloned(states: list) -> list:
    return [s.clone() if isinstance(s, Tensor) else s for s in states]


def _assign(methods: dict[str, Callable | None]) -> None:
    """Set methods of MiniMaxCache; None means inherited."""
    for name, method in methods.items():
        if method is not None:
            setattr(MiniMaxCache, name, method)
        elif name in vars(MiniMaxCache):
            delattr(MiniMaxCache, name)


# The tests: a cache of two rows, layer 0 lightning, layer 1 softmax with three tokens. Row i holds the number i.


def _passes(name: str) -> bool:
    cache = MiniMaxCache()
    rows = torch.arange(2.0).view(2, 1, 1, 1)
    cache.set_linear_cache(0, rows.clone())
    cache.update(rows.repeat(1, 1, 3, 1), rows.repeat(1, 1, 3, 1), 1)
    try:
        return _TESTS[name](cache)
    except (IndexError, TypeError, ValueError, AttributeError, RuntimeError):
        return False


def _rows(cache: MiniMaxCache, want: list[int]) -> bool:
    keys = cache.layers[1].keys[:, 0, 0, 0].tolist()
    return cache.get_linear_cache(0).flatten().tolist() == keys == want


_TESTS: dict[str, Callable[[MiniMaxCache], bool]] = {
    "length": lambda cache: cache.get_seq_length() == 3,
    "mask sizes": lambda cache: cache.get_mask_sizes(2, 0) == (5, 0),
    "beams": lambda cache: cache.reorder_cache(torch.tensor([1, 1])) or _rows(cache, [1, 1]),
    "repeat": lambda cache: cache.batch_repeat_interleave(2) or _rows(cache, [0, 0, 1, 1]),
    "select": lambda cache: cache.batch_select_indices(torch.tensor([1])) or _rows(cache, [1]),
    "reset": lambda cache: cache.reset() or cache.get_linear_cache(0) is None,
}
