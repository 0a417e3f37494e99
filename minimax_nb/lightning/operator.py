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

import torch
from torch import Tensor
from transformers.utils import is_tracing

from .fused import has_fused

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
        backend = "fused" if q.is_cuda and has_fused() else "torch"
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
    if backend == "fused":
        from .fused import attend as fused

        return fused(q, k, v, slopes, state, mask, cu_seqlens)
    begins = None if cu_seqlens is None else _begins(q, cu_seqlens)
    out, state = _torch(q, k, v, slopes, state, mask, begins)
    return out, None if cu_seqlens is not None else state


def _begins(q: Tensor, cu_seqlens: Tensor) -> Tensor:
    """(batch, length), true where a document begins."""
    begins = torch.zeros(q.shape[0] * q.shape[1], dtype=torch.bool, device=q.device)
    return begins.index_fill(0, cu_seqlens[:-1].to(q.device, torch.long), True).view(q.shape[:2])


def _torch(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor | None, mask: Tensor | None, begins: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Whole blocks in segments that bound the memory, then what is left as one shorter block."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    if state is None:
        state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3], dtype=dtype)
    state, slopes, length = state.to(dtype), slopes.to(dtype), q.shape[1]
    if length == 1:
        return _step(q, k, v, slopes, state, mask)
    _check_steepness(slopes)
    outs, start = [], 0
    while start < length:
        left = min(length - start, segment_length(q))
        size = min(left, BLOCK, q.shape[3])
        piece = slice(start, start + left - left % size)
        parts = [x[:, piece].to(dtype) for x in (q, k, v)]
        counts = [None if marks is None else _counts(marks[:, piece], size) for marks in (mask, begins)]
        out, state = _blocks(*parts, slopes, state, size, *counts)
        outs.append(out.to(q.dtype))
        start = piece.stop
    return outs[0] if len(outs) == 1 else torch.cat(outs, 1), state


def _check_steepness(slopes: Tensor) -> None:
    """Refuse decays that half a block turns into numbers beyond fp32. MiniMax's slopes are below 1."""
    if not is_tracing(slopes) and slopes.max() > STEEPEST:
        raise ValueError(f"a slope of {slopes.max():.3g}: the torch backend takes slopes up to {STEEPEST}")


def segment_length(x: Tensor) -> int:
    """Tokens of a row in a segment of x (batch, length, ...): whole blocks, at least one."""
    tokens = min(SEGMENT, CPU_SEGMENT) if x.device.type == "cpu" else SEGMENT
    return max(1, tokens // len(x) // BLOCK) * BLOCK


def _step(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """One token, as in the definition, from q, k, v (batch, 1, heads, head_dim)."""
    dtype = q.dtype
    q, k, v = (x.transpose(1, 2).to(state.dtype) for x in (q, k, v))  # (batch, heads, 1, head_dim)
    loss = torch.expm1(-slopes)[:, None, None]  # exp(-slope) - 1: a slow head's exp(-slope) itself rounds off digits
    if mask is not None:
        loss = loss * mask[:, :, None, None]  # (batch, heads, 1, 1)
    state = torch.addcmul(state, loss, state).addcmul_(k.transpose(-1, -2), v)
    return (q @ state).transpose(1, 2).to(dtype), state


def _blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor,
    state: Tensor,
    size: int,
    tokens: Tensor | None,
    documents: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Blocks of `size` tokens all at once: pairs within a block, and states between blocks by one product.

    q, k, v: (batch, blocks * size, heads, head_dim); state: (batch, heads, head_dim, head_dim). `tokens` and
    `documents`: see `_counts`; None where each place is a token, or all of one document.

    The decay from token j to token i is exp(-slope (n_i - n_j)), n counting tokens. It is a product of two factors, one
    of i and one of j, when both are counted from the middle m of the block: q_i takes exp(-slope (n_i - m)), k_j takes
    exp(-slope (m - n_j)). So pads cost nothing more, and neither factor leaves the range of fp32.
    """
    q, k, v = (x.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4).contiguous() for x in (q, k, v))
    # q, k, v: (batch, heads, blocks, size, head_dim)
    even = tokens is None  # then all blocks are alike
    if even:
        tokens = torch.arange(q.shape[2] * size + 1, device=q.device)[None]
    middles = tokens[:, size // 2 :: size][:, : q.shape[2]]  # (batch or 1, blocks)
    from_middle = tokens[:, 1:].unflatten(1, (-1, size)) - middles[..., None]  # (batch or 1, blocks, size)
    from_middle = from_middle[:, None, : 1 if even else None, :, None]  # (batch or 1, 1, blocks or 1, size, 1)
    q, k = q * _decay(slopes, from_middle), k * _decay(slopes, -from_middle)

    scores = (q @ k.transpose(-1, -2)).tril_()  # (batch, heads, blocks, size, size); in place: half the time on a CPU
    if documents is not None:
        of_token = documents[:, 1:].unflatten(1, (-1, size))  # (batch, blocks, size)
        at_end = documents[:, ::size]  # (batch, blocks + 1): before block 0, and at the end of each
        scores = scores * (of_token[..., None] == of_token[..., None, :])[:, None]
        k = k * (of_token == at_end[:, 1:, None])[:, None, ..., None]  # what stays in the state
        q = q * (of_token == at_end[:, :-1, None])[:, None, ..., None]  # what may see the state from before

    added = k.transpose(-1, -2) @ v  # to the state, seen from each block's middle: (batch, heads, blocks, d, d)
    steps = torch.cat([state[:, :, None], added[:, :, :-1]], 2).flatten(-2)  # (batch, heads, blocks, d * d)
    times = torch.cat([tokens[:, :1], middles, tokens[:, -1:]], 1)  # (batch or 1, blocks + 2)
    between = _decay(slopes, (times[:, 1:, None] - times[:, None, :-1])[:, None, None])[:, :, 0].tril()
    if documents is not None:
        between = between * (at_end[:, :, None] == at_end[:, None, :])[:, None]
    # between: (batch or 1, heads, blocks + 1, blocks + 1), to each middle and the end from the start and each middle
    states = (between[..., :-1, :-1] @ steps).unflatten(-1, state.shape[-2:])  # before each block, seen from its middle

    out = (scores @ v).flatten(0, 2)  # (batch * heads * blocks, size, head_dim)
    out = out.baddbmm_(q.flatten(0, 2), states.flatten(0, 2)).unflatten(0, q.shape[:3])  # in place: one pass less
    last = between[..., -1, -1, None, None]  # from the last middle to the end
    before = states[:, :, -1]
    if documents is not None:
        before = before * (at_end[:, -1] == at_end[:, -2])[:, None, None, None]
    return out.permute(0, 2, 3, 1, 4).flatten(1, 2), last * (before + added[:, :, -1])


def _counts(marks: Tensor, size: int) -> Tensor:
    """(batch, places + 1): how many marks stand before each place, and in all."""
    return torch.nn.functional.pad(marks.long().cumsum(1), (1, 0))


def _decay(slopes: Tensor, tokens: Tensor) -> Tensor:
    """exp(-slope tokens): (heads,) and (rows, 1, blocks, m, n) -> (rows, heads, blocks, m, n).

    In float64 where there is one, because a product of slope and tokens rounded to fp32 would cost a digit.
    """
    precise = slopes.dtype if slopes.device.type == "mps" else torch.float64
    return torch.exp(-slopes.to(precise)[:, None, None, None] * tokens).to(slopes.dtype)
