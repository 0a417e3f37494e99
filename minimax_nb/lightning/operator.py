"""The operator of lightning attention, exact in half precision: its one signature, and the backend in plain PyTorch.

Token by token the definition (arXiv 2501.08313, section 2.2) is, for one head,

    S = exp(-slope) S + k_t v_t^T        S is the state, (head_dim, head_dim)
    out_t = q_t S

Stock Transformers keeps S and its decay in the model's dtype, where exp(-slope) of a slow head rounds to 0.9961 in
bf16 or to 1, loops over blocks in Python, and over single tokens once there is a cache. Here both stay in fp32 and a
block form serves any length.

A pad is no token, so it must leave S as it is: neither k_t v_t^T nor the decay may happen there. Therefore the exponent
of the decay counts real tokens, not places. And where a packed document begins, S begins anew.

    out, state = lightning_attention(q, k, v, slopes(64, layer=0, layers=80))
"""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers.utils import is_tracing

from . import backends, fused

STEEPEST = 2.0  # slope: half a block of 64 tokens is then exp(64), far within fp32
BLOCK = 64  # tokens a block of the torch backend, at most head_dim: the pairs within it cost about what its state costs
SEGMENT = 8192  # tokens, over all rows, that the torch backend holds in fp32 at a time
CPU_SEGMENT = 512  # the same on a CPU: larger temporaries are new pages in each layer, and mapping those took longer


def slopes(heads: int, layer: int, layers: int, device: torch.device | str = "cpu") -> Tensor:
    """Decay rate per token of each head, (heads,) in fp32: 2^(-8h/heads), h from 1, falling towards the last layer.

    From the original modelling code; ValueError for heads that are no power of two. Stock Transformers agrees in all
    layers but the last, where it divides by layers - 1 + 1e-5 and so gives 1 % (80 layers) to 50 % (2 layers) more.
    """
    if heads & (heads - 1):
        raise ValueError(f"{heads} heads: the decay rates are defined here for powers of two")
    head = torch.arange(1, heads + 1, dtype=torch.float64)
    rates = 2.0 ** (-8 * head / heads) * (1 - layer / max(layers - 1, 1) + 1e-5)
    return rates.to(device, torch.float32)


def lightning_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor,
    state: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Attend over a piece of a sequence, from the state that the earlier pieces left.

    q, k, v: (batch, length, heads, head_dim), after the silu, any floating dtype, length >= 1.
    slopes: (heads,), positive. state: (batch, heads, head_dim, head_dim) in fp32, or None for zeros.
    mask: (batch, length), 0 at pads, or None. A pad leaves the state as it is, wherever it stands; its out is 0.
    cu_seqlens: (documents + 1,), where packed documents begin and end in the rows laid end to end: 0, ..., batch *
    length, each row's beginning among them, as FlashAttention names and takes it. Not together with state or mask.
    Returns out, like q, and the new state in fp32; None after packed documents, for nothing goes on from them.
    In fp16 a true value beyond 65504 is inf in `out`; give fp32 to avoid that. Gradients reach q, k, v and state.
    backend: "torch" (CPU, CUDA; written for MPS too, not run there), "fused" (CUDA, flash-linear-attention), or "auto",
    the fastest there is. ValueError for others, and for arguments that do not go together.
    """
    if backend not in ("auto", "torch", "fused"):
        raise ValueError(f"backend is {backend!r}, not 'auto', 'torch' or 'fused'")
    if cu_seqlens is not None and (state is not None or mask is not None):
        raise ValueError("packed documents (cu_seqlens) begin without a state and hold no pads: leave state and mask")
    if backend == "auto":
        backend = "fused" if q.is_cuda and fused.has_fused() else "torch"
    if mask is not None:
        pads = ~mask.bool()[..., None, None]
        q, k, v = (x.masked_fill(pads, 0) for x in (q, k, v))
    return attend(q, k, v, slopes, state, mask, cu_seqlens, backend)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor,
    state: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor | None]:
    """As `lightning_attention`, for q, k and v that are 0 at pads already; `mask` then only holds the decay still."""
    mask = None if mask is None else mask.bool()
    training = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, state))
    if backend == "fused" and (not training or _proven(q, mask, cu_seqlens)):
        return fused.attend(q, k, v, slopes, state, mask, cu_seqlens)
    begins = None if cu_seqlens is None else document_begins(cu_seqlens, *q.shape[:2])
    out, state = attend_blocks(q, k, v, slopes, state, mask, begins)
    return out, None if cu_seqlens is not None else state


@torch.compiler.disable
def _proven(q: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> bool:
    """Whether the fused kernels have right gradients for such rows on this machine."""
    sizes = backends.Sizes(*q.shape[2:], str(q.dtype).removeprefix("torch."))
    kind = backends.Kind(mask is not None, cu_seqlens is not None, q.shape[1] <= fused.RECURRENT)
    return backends.trains(sizes, kind)


def document_begins(cu_seqlens: Tensor, batch: int, length: int) -> Tensor:
    """(batch, length), true where a document begins."""
    begins = torch.zeros(batch * length, dtype=torch.bool, device=cu_seqlens.device)
    return begins.index_fill(0, cu_seqlens[:-1].long(), True).view(batch, length)


def attend_blocks(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor | None, mask: Tensor | None, begins: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Whole blocks in pieces that bound the memory, then what is left as one shorter block."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    if state is None:
        state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3], dtype=dtype)
    state, slopes = state.to(dtype), slopes.to(dtype)
    if q.shape[1] == 1:
        with torch.autocast(q.device.type, enabled=False):
            return _step(q, k, v, slopes, state, mask)
    check_steepness(slopes)
    outs = []
    with torch.autocast(q.device.type, enabled=False):  # it would compute the products in half precision
        for place, size in pieces(*q.shape[:2], q.shape[3], q.device.type):
            parts = [x[:, place].to(dtype) for x in (q, k, v)]
            parts = [x.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4) for x in parts]
            marks = [None if marks is None else counts(marks[:, place]) for marks in (mask, begins)]
            out, state, _ = block_attention(*parts, state, tables(slopes, size, parts[0].shape[2], *marks))
            outs.append(out.permute(0, 2, 3, 1, 4).flatten(1, 2).to(q.dtype))
    return outs[0] if len(outs) == 1 else torch.cat(outs, 1), state


def pieces(batch: int, length: int, head_dim: int, device: str, on_cpu: int = CPU_SEGMENT) -> list[tuple[slice, int]]:
    """Where rows are cut, and into blocks of how many tokens; only the last block is a shorter one, by itself.

    `on_cpu`: tokens, over all rows, of a piece on a CPU.
    """
    found, start = [], 0
    while start < length:
        left = min(length - start, segment_length(batch, device, on_cpu))
        size = min(left, BLOCK, head_dim)
        found.append((slice(start, start + left - left % size), size))
        start = found[-1][0].stop
    return found


def check_steepness(slopes: Tensor) -> None:
    """Refuse decays that half a block turns into numbers beyond fp32. MiniMax's slopes are below 1."""
    if not is_tracing(slopes) and slopes.max() > STEEPEST:
        raise ValueError(f"a slope of {slopes.max():.3g}: the torch backend takes slopes up to {STEEPEST}")


def segment_length(batch: int, device: str, on_cpu: int = CPU_SEGMENT) -> int:
    """Tokens of a row in a segment: whole blocks, at least one."""
    tokens = min(SEGMENT, on_cpu) if device == "cpu" else SEGMENT
    return max(1, tokens // batch // BLOCK) * BLOCK


def _step(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """One token, as in the definition, from q, k, v (batch, 1, heads, head_dim)."""
    dtype = q.dtype
    q, k, v = (x.transpose(1, 2).to(state.dtype) for x in (q, k, v))  # (batch, heads, 1, head_dim)
    loss = torch.expm1(-slopes)[:, None, None]  # exp(-slope) - 1: a slow head's exp(-slope) itself rounds off digits
    if mask is not None:
        loss = loss * mask[:, :, None, None]  # (batch, heads, 1, 1)
    state = torch.addcmul(state, loss, state).addcmul_(k.transpose(-1, -2), v)
    return (q @ state).transpose(1, 2).to(dtype), state


class Tables(NamedTuple):
    """The decays of a piece in blocks, and what sees what in packed rows. `rows` is 1 where all rows are alike."""

    q_decay: Tensor  # (rows, heads, blocks or 1, size, 1), from the middle of a block to each token
    k_decay: Tensor  # its inverse, from each token to the middle
    between: Tensor  # (rows, heads, blocks + 1, blocks + 1), to each middle and the end from the start and each middle
    last: Tensor  # (rows, heads, 1, 1), from the last middle to the end
    same: Tensor | None = None  # (batch, 1, blocks, size, size), whether two tokens are of one document; None: all are
    sees: Tensor | None = None  # (batch, 1, blocks, size, 1), tokens that may see the state from before
    stays: Tensor | None = None  # the same, those that are in the state at the block's end
    carries: Tensor | None = None  # (batch, 1, 1, 1), whether the last block's end is of the document at its start


def tables(slopes: Tensor, size: int, blocks: int, tokens: Tensor | None, documents: Tensor | None) -> Tables:
    """`tokens` and `documents`: see `counts`; None where each place is a token, or all of one document.

    The decay from token j to token i is exp(-slope (n_i - n_j)), n counting tokens. It is a product of two factors, one
    of i and one of j, when both are counted from the middle m of the block: q_i takes exp(-slope (n_i - m)), k_j takes
    exp(-slope (m - n_j)). So pads cost nothing more, and neither factor leaves the range of fp32.
    """
    even = tokens is None  # then all blocks are alike
    if even:
        tokens = torch.arange(blocks * size + 1, device=slopes.device)[None]
    middles = tokens[:, size // 2 :: size][:, :blocks]  # (rows, blocks)
    from_middle = tokens[:, 1:].unflatten(1, (-1, size)) - middles[..., None]  # (rows, blocks, size)
    from_middle = from_middle[:, None, : 1 if even else None, :, None]
    times = torch.cat([tokens[:, :1], middles, tokens[:, -1:]], 1)  # (rows, blocks + 2)
    between = _decay(slopes, (times[:, 1:, None] - times[:, None, :-1])[:, None, None])[:, :, 0].tril()
    last = between[..., -1, -1, None, None]
    decays = _decay(slopes, from_middle), _decay(slopes, -from_middle)
    if documents is None:
        return Tables(*decays, between, last)
    of_token = documents[:, 1:].unflatten(1, (-1, size))  # (batch, blocks, size)
    at_end = documents[:, ::size]  # (batch, blocks + 1): before block 0, and at the end of each
    return Tables(
        *decays,
        between * (at_end[:, :, None] == at_end[:, None, :])[:, None],
        last,
        (of_token[..., None] == of_token[..., None, :])[:, None],
        (of_token == at_end[:, :-1, None])[:, None, ..., None],
        (of_token == at_end[:, 1:, None])[:, None, ..., None],
        (at_end[:, -1] == at_end[:, -2])[:, None, None, None],
    )


def block_attention(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, t: Tables, with_out: bool = True
) -> tuple[Tensor | None, Tensor, tuple]:
    """Blocks all at once: pairs within a block, and states between blocks by one product.

    q, k, v: (batch, heads, blocks, size, head_dim); state: (batch, heads, head_dim, head_dim). Returns out, like q, the
    state after the last block, and what the gradients are computed from. Without `with_out`, out is None.
    """
    v = v.contiguous()
    q, k = _contiguous_product(q, t.q_decay), _contiguous_product(k, t.k_decay)
    scores = (q @ k.transpose(-1, -2)).tril_()  # (batch, heads, blocks, size, size); in place: half the time on a CPU
    q_seeing, k_staying = q, k
    if t.same is not None:
        scores, q_seeing, k_staying = scores * t.same, q * t.sees, k * t.stays
    added = k_staying.transpose(-1, -2) @ v  # to the state, seen from each block's middle: (batch, heads, blocks, d, d)
    steps = torch.cat([state[:, :, None], added[:, :, :-1]], 2).flatten(-2)  # (batch, heads, blocks, d * d)
    states = (t.between[..., :-1, :-1] @ steps).unflatten(-1, state.shape[-2:])  # before each block, from its middle

    out = None
    if with_out:
        out = (scores @ v).flatten(0, 2)  # (batch * heads * blocks, size, head_dim)
        out = out.baddbmm_(q_seeing.flatten(0, 2), states.flatten(0, 2))  # in place: one pass less
        out = out.unflatten(0, q.shape[:3])
    before = states[:, :, -1] if t.carries is None else states[:, :, -1] * t.carries
    return out, t.last * (before + added[:, :, -1]), (q, k, v, scores, q_seeing, k_staying, states)


def _contiguous_product(x: Tensor, factor: Tensor) -> Tensor:
    """x * factor, laid out in order whatever the layout of x, in one pass where no gradient is wanted."""
    if torch.is_grad_enabled() or is_tracing(x):
        return x.contiguous() * factor
    return torch.mul(x, factor, out=torch.empty(x.shape, dtype=x.dtype, device=x.device))


def counts(marks: Tensor) -> Tensor:
    """(batch, places + 1): how many marks stand before each place, and in all."""
    return torch.nn.functional.pad(marks.long().cumsum(1), (1, 0))


def _decay(slopes: Tensor, tokens: Tensor) -> Tensor:
    """exp(-slope tokens): (heads,) and (rows, 1, blocks, m, n) -> (rows, heads, blocks, m, n).

    In float64 where there is one, because a product of slope and tokens rounded to fp32 would cost a digit.
    """
    precise = slopes.dtype if slopes.device.type == "mps" else torch.float64
    return torch.exp(-slopes.to(precise)[:, None, None, None] * tokens).to(slopes.dtype)
