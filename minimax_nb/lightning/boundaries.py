"""Where sequences begin and end in the rows of one forward pass: pads, and documents packed into one row.

Transformers hands its lightning layers less than they need: no mask for a single token, no word of packed documents,
and nothing of what the cache was fed before. So `hand_down`, a forward pre-hook of MiniMaxModel, looks at the arguments
of the model once, and gives each lightning layer `boundaries`. Softmax layers get what they understand: position_ids
that count real tokens, and for packed documents those that restart.

The right value of a row is the one that it gives alone. Where that cannot be had, a ValueError says what to do.

While a model is traced (torch.compile, torch.export) values cannot be looked at: nothing is refused then, and packed
documents are seen by `cu_seq_lens_q` or `seq_idx` only, not by position_ids.
"""

from inspect import signature
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.utils import is_tracing

from ..cache import CACHE_ARGUMENT
from .training import refuse_lost_gradients

PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")  # FlashAttention's arguments


class Boundaries(NamedTuple):
    """What a lightning layer knows of the rows it is given; by default that they are whole."""

    mask: Tensor | None = None  # (batch, length), False at the pads of this pass; None if it has none
    gated: bool = True  # whether pads could decay a state that counts: not if all are left of the first token
    cu_seqlens: Tensor | None = None  # (documents + 1,), of packed documents in the rows laid end to end
    fed: Tensor | None = None  # (batch, tokens so far), the mask of all that the cache holds; None if all ones

    def on(self, device: torch.device) -> "Boundaries":
        """The same on the device of a layer."""
        return Boundaries(*(x.to(device) if isinstance(x, Tensor) else x for x in self))


def hand_down(model: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments of MiniMaxModel.forward with `boundaries`, and with position_ids that count real tokens."""
    names = list(signature(type(model).forward).parameters)[1:]
    kwargs = dict(zip(names, args, strict=False)) | kwargs
    refuse_lost_gradients(model, kwargs)
    tokens = kwargs.get("input_ids")
    tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
    if tokens is None:  # Transformers says what is missing
        return (), kwargs
    if isinstance(mask := kwargs.get("attention_mask"), dict):  # made beforehand, one for each kind of layer
        mask = mask.get("linear_attention")
        kwargs["boundaries"] = Boundaries() if mask is None else Boundaries(mask.bool())
        return (), kwargs

    begins = _document_begins(kwargs, *tokens.shape[:2], tokens.device)
    if begins is not None:
        _pack(kwargs, begins)
    elif mask is not None and getattr(mask, "ndim", 4) != 2:
        _refuse_mask_of_pairs(mask)
        kwargs["boundaries"] = Boundaries()
    elif mask is not None and is_tracing(mask):
        kwargs["boundaries"] = Boundaries(mask[:, -tokens.shape[1] :].bool())
    else:
        caching = kwargs.get("use_cache")
        caching = model.config.use_cache if caching is None else caching
        _pad(kwargs, mask, tokens.shape[1], bool(caching))
    return (), kwargs


# ---- pads ----------------------------------------------------------------------------------------------------------


def _pad(kwargs: dict, mask: Tensor | None, length: int, caching: bool) -> None:
    """Boundaries of rows under a mask (batch, tokens so far and new), or under none."""
    cache = _cache_of(kwargs)
    fed = getattr(cache, "fed", None)
    if mask is None:
        if fed is not None:
            raise ValueError("the cache holds padded rows: give the attention_mask of all tokens, old and new")
        kwargs["boundaries"] = Boundaries()
        return
    _check_width(mask, cache, length)
    if fed is None and mask.all():
        kwargs["boundaries"] = Boundaries()
        return
    mask = mask.bool()
    past, now = mask[:, :-length], mask[:, -length:]
    _check_past(past, fed)
    if kwargs.get("position_ids") is None:  # RoPE must not count the pads either
        kwargs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -length:]
    if now.all():
        kwargs["boundaries"] = Boundaries(fed=mask)
        return
    ends = now[:, :-1] & ~now[:, 1:]  # a token before a pad
    begins = now[:, 1:] & ~now[:, :-1]  # a pad before a token
    between = begins.sum(1) + now[:, 0] > 1  # tokens, pads, tokens
    counts = past.any() | between.any() | (ends.any() if caching or cache is not None else False)
    kwargs["boundaries"] = Boundaries(now, gated=bool(counts), fed=mask)


def _check_width(mask: Tensor, cache, length: int) -> None:
    """A mask is of all tokens, those in the cache first. A cache that was not repaired cannot say how many it holds."""
    held = cache.get_seq_length() if cache is not None else 0
    unknown = held == 0 and cache is not None and any(isinstance(s, Tensor) for s in getattr(cache, "linear_cache", ()))
    if mask.shape[1] < length or not (unknown or mask.shape[1] == held + length):
        raise ValueError(
            f"attention_mask is {mask.shape[1]} wide, but the cache holds {held} tokens and {length} are new: give the "
            "mask of all of them"
        )


def _check_past(past: Tensor, fed: Tensor | None) -> None:
    """What the mask says of earlier tokens must be what they were fed as: a state cannot forget them one by one."""
    before = torch.ones_like(past)
    if fed is not None and fed.shape[0] == past.shape[0]:
        known = fed[:, : past.shape[1]].to(past.device)
        before[:, : known.shape[1]] = known
    if not past.equal(before):
        row, column = (past != before).nonzero()[0].tolist()
        raise ValueError(
            f"attention_mask is {int(past[row, column])} for token {column} of row {row}, which was fed to this cache "
            f"with {int(before[row, column])}, and the states of lightning attention cannot be changed afterwards "
            "(generate feeds pads to rows that have ended). Feed all tokens again, without this cache"
        )


def _refuse_mask_of_pairs(mask) -> None:
    """A mask of pairs of tokens, (batch, 1, length, tokens), means nothing to a state unless it is plainly causal."""
    if isinstance(mask, Tensor) and mask.ndim == 4 and not is_tracing(mask):
        seen = mask if mask.dtype == torch.bool else mask == 0
        causal = torch.ones_like(seen).tril(mask.shape[-1] - mask.shape[-2])
        if seen.equal(causal):
            return
    raise ValueError(
        "lightning layers cannot follow an attention_mask of pairs of tokens: give one of (batch, tokens), or "
        "position_ids that restart for packed documents"
    )


# ---- packed documents ----------------------------------------------------------------------------------------------


def _document_begins(kwargs: dict, batch: int, length: int, device) -> Tensor | None:
    """(batch, length), true where a document begins; None if each row is one. ValueError where arguments disagree."""
    found = {}
    if (cu_seqlens := kwargs.get("cu_seq_lens_q")) is not None:
        found["cu_seq_lens_q"] = _from_cu_seqlens(cu_seqlens, batch, length)
    if (numbers := kwargs.get("seq_idx")) is not None:
        found["seq_idx"] = _changes(numbers.expand(batch, -1), 0)
    positions = kwargs.get("position_ids")
    # As Transformers' softmax attention does, which looks at positions only without a mask and a cache
    alone = kwargs.get("attention_mask") is None and _cache_of(kwargs) is None
    if positions is not None and positions.ndim == 2 and (found or alone) and not is_tracing(positions):
        found["position_ids"] = _changes(positions.expand(batch, -1), 1)
    if not found:
        return None
    first, *others = found
    begins = found[first].to(device)
    if is_tracing(begins):
        return begins
    for other in others:
        if not found[other].to(device).equal(begins):
            raise ValueError(f"{first} and {other} disagree where documents begin: give one of them, or mend the other")
    return begins if begins[:, 1:].any() else None


def _changes(numbers: Tensor, step: int) -> Tensor:
    """Where a number is not the one before it plus `step`; true in column 0."""
    return torch.cat([torch.ones_like(numbers[:, :1], dtype=torch.bool), numbers.diff(dim=1) != step], 1)


def _from_cu_seqlens(cu_seqlens: Tensor, batch: int, length: int) -> Tensor:
    if not is_tracing(cu_seqlens) and (cu_seqlens[0] != 0 or cu_seqlens[-1] != batch * length):
        raise ValueError(f"cu_seq_lens_q must run from 0 to {batch * length}, the number of tokens: {cu_seqlens}")
    begins = torch.zeros(batch * length, dtype=torch.bool, device=cu_seqlens.device)
    begins = begins.index_fill(0, cu_seqlens[:-1].long(), True).view(batch, length)
    return begins | (torch.arange(length, device=begins.device) == 0)


def _pack(kwargs: dict, begins: Tensor) -> None:
    """Both kinds of layers begin anew where documents do."""
    mask, cache = kwargs.get("attention_mask"), _cache_of(kwargs)
    if cache is not None or kwargs.get("use_cache"):
        raise ValueError("packed documents and a cache do not go together: give use_cache=False and no cache")
    if mask is not None and not (mask.ndim == 2 and mask.all()):
        raise ValueError("packed documents and an attention_mask with zeros do not go together: leave out the pads")
    batch, length = begins.shape
    place = torch.arange(length, device=begins.device).expand(batch, -1)
    starts = torch.where(begins, place, 0).cummax(1).values  # of each token's document
    edges = begins.flatten().nonzero()[:, 0]
    cu_seqlens = torch.cat([edges, edges.new_tensor([batch * length])])
    longest = int(cu_seqlens.diff().max())
    kwargs |= {"use_cache": False, "attention_mask": None, "boundaries": Boundaries(cu_seqlens=cu_seqlens)}
    kwargs |= dict(zip(PACKED, (cu_seqlens.int(), cu_seqlens.int(), longest, longest), strict=True))
    if kwargs.get("position_ids") is None:
        kwargs["position_ids"] = place - starts


def _cache_of(kwargs: dict):
    cache = kwargs.get(CACHE_ARGUMENT)
    return kwargs.get("past_key_values") if cache is None else cache
