"""A prompt fed in pieces, so that its memory beside weights and cache is that of one piece, however long it is.

    logits, cache = prefill(model, ids)                     # as long a prompt as you like
    logits, cache = prefill(model, more, cache=cache)       # a second turn goes on from there

The result is that of one forward pass, up to rounding. A lightning layer goes on from its state, and a softmax layer
sees the keys of all earlier pieces. `Chat` and the bench prefill by this function. `model.generate` has pieces of its
own, by the name of `prefill_chunk_size`; generation.py asks `piece_for` for their size where nobody gave one.
"""

from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxLightningAttention

from . import experts
from .cache import CACHE_ARGUMENT, reserve
from .lightning.operator import CPU_SEGMENT, SEGMENT
from .memory import available_memory
from .pieces import LIMIT, STEP, piece_tokens, token_bytes
from .terminal import token_progress

SPARE = 0.8  # of the free memory, what a piece may take: the rest is for gaps between tensors
ON_A_CPU = 4096  # tokens of a piece there, over all rows: some seconds at most until Ctrl-C is heard


class Prefilled(NamedTuple):
    """What `prefill` gives."""

    logits: Tensor  # (batch, vocabulary), after the last token of each row
    cache: MiniMaxCache


@torch.no_grad()
def prefill(
    model: nn.Module,
    ids: Tensor,
    *,
    cache: MiniMaxCache | None = None,
    attention_mask: Tensor | None = None,
    piece: int | None = None,
    progress: bool = True,
) -> Prefilled:
    """Feed ids (batch, tokens) to a native model in pieces of `piece` tokens a row, or as many as `piece_for` says.

    cache: what earlier tokens left, or None; it is filled. attention_mask: (batch, earlier and new tokens), 0 at
    pads, wherever they stand. progress: a line on stderr from the third second on. The cache must know its length, as
    after `load()` or `repair_cache()`. Interrupted, it holds some of the pieces; `cache.snapshot` before and
    `cache.restore` after undo that. ValueError for a mask of another width, or no tokens.
    """
    batch, new = ids.shape
    cache = MiniMaxCache() if cache is None else cache
    past = cache.get_seq_length()
    if new < 1:
        raise ValueError("there are no tokens to prefill: give ids of (batch, tokens)")
    if attention_mask is not None and attention_mask.shape != (batch, past + new):
        width = "x".join(map(str, attention_mask.shape))
        raise ValueError(
            f"attention_mask is {width}, but {batch} rows of {past} old and {new} new tokens need it whole"
        )
    piece = piece or piece_for(model, batch, past + new, new)
    if new > piece:
        reserve(cache, past + new)
    with token_progress(new if progress and new > piece else 0) as show:
        for start in range(0, new, piece):
            part = slice(start, min(start + piece, new))
            given = _masked(attention_mask, past + part.start, past + part.stop)
            given |= {CACHE_ARGUMENT: cache, "use_cache": True, "logits_to_keep": 1}
            logits = model(ids[:, part], **given).logits
            show(part.stop)
    return Prefilled(logits[:, -1], cache)


def _masked(mask: Tensor | None, start: int, stop: int) -> dict:
    """The mask up to the end of a piece, and the positions of its tokens, which do not count pads."""
    if mask is None:
        return {}
    positions = (mask[:, :stop].long().cumsum(1) - 1).clamp(min=0)
    return {"attention_mask": mask[:, :stop], "position_ids": positions[:, start:]}


def piece_for(model: nn.Module, batch: int, context: int, new: int) -> int:
    """How many of `new` tokens a row a piece should take, so that it fits into the memory that is free now.

    context: the tokens of a row at the end. All of them where the lightning layers are Transformers' own: those take a
    piece that follows another one token at a time.
    """
    if new <= STEP:
        return new
    lightning = next((m for m in model.modules() if isinstance(m, MiniMaxLightningAttention)), None)
    backend = getattr(lightning, "lightning_backend", "stock")
    if backend == "stock":
        return new
    config, devices = model.config, {p.device for p in model.parameters()}
    on_gpu = [device for device in devices if device.type == "cuda"]
    keys = key_bytes(model, batch * new)
    tokens = piece_tokens(
        config,
        batch,
        context,
        model.dtype.itemsize,
        SPARE * (_free(on_gpu) - keys / len(devices)),
        attention=config._attn_implementation,
        lightning=backend,
        expert_kernels=bool(on_gpu) and getattr(config, "_experts_implementation", "") == experts.NAME,
        float16=model.dtype == torch.float16,
        segment=SEGMENT if on_gpu else CPU_SEGMENT,
    )
    if not on_gpu:
        tokens = min(tokens, max(STEP, ON_A_CPU // batch // STEP * STEP))
    return min(tokens, new)


def key_bytes(model: nn.Module, tokens: int) -> int:
    """Of the keys and values of so many tokens, on all GPUs together."""
    softmax_layers = model.config.layer_types.count("full_attention")
    return softmax_layers * tokens * token_bytes(model.config, model.dtype.itemsize)


def is_short_of(model: nn.Module, tokens: int) -> bool:
    """Whether the free memory is too little for `tokens` more, held twice as static decoding does, and for a piece.

    Ranks of a split model hold as much each, so that one of them can ask for all.
    """
    devices = {p.device for p in model.parameters()}
    on_gpu = [device for device in devices if device.type == "cuda"]
    piece = LIMIT if on_gpu else 0  # on a CPU a piece is short
    parts = _processes() if on_gpu else 1  # on a CPU they share the memory
    return _own_free(on_gpu) < 2 * key_bytes(model, tokens) / len(devices) / parts + piece


def _free(gpus: list[torch.device]) -> float:
    """`_own_free`, but without end where processes work together.

    For each must cut the prompt alike, and they may have more or less free.
    """
    return float("inf") if _processes() > 1 else _own_free(gpus)


def _own_free(gpus: list[torch.device]) -> float:
    """Bytes that can still be had on the fullest of these GPUs, or of memory if there are none."""
    return min([_free_on_gpu(device) for device in gpus] or [available_memory()])


def _processes() -> int:
    """That work together."""
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def _free_on_gpu(device: torch.device) -> int:
    """Those that nobody has, and those that PyTorch keeps unused."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept
