"""The operator of lightning attention, exact in half precision and fast: plain torch, or the library's kernels.

Token by token the definition (arXiv 2501.08313, section 2.2) is, for one head,

    S = exp(-slope) S + k_t v_t^T        S is the state, (head_dim, head_dim)
    out_t = q_t S

Stock Transformers keeps S and its decay in the model's dtype, where exp(-slope) of a slow head rounds to 0.9961 in
bf16 or to 1, loops over blocks in Python, and over single tokens once there is a cache. Here both stay in fp32 and a
block form serves any length. It knows no padding: zero q, k and v at pads, as the model's forward pass does.

    out, state = lightning_attention(q, k, v, slopes(64, layer=0, layers=80))
"""

import importlib.util
from functools import cache

import torch
from torch import Tensor

BLOCK = 64  # tokens a block of the torch backend, at most head_dim: the pairs within it cost about what its state costs
SEGMENT = 8192  # tokens, over all rows, that the torch backend holds in fp32 at a time
CPU_SEGMENT = 512  # the same on a CPU: larger temporaries are new pages in each layer, and mapping those took longer
RECURRENT = 16  # the fused backend takes so many tokens one by one, in one kernel; more in chunks
CHUNK = 64  # tokens a chunk of the fused backend; 128 took 3 % longer on an H200


def slopes(heads: int, layer: int, layers: int, device: torch.device | str = "cpu") -> Tensor:
    """Decay rate per token of each head, (heads,) in fp32: 2^(-8h/heads), h from 1, falling towards the last layer.

    From the original modelling code; stock Transformers agrees for heads a power of two, and ValueError for others.
    """
    if heads & (heads - 1):
        raise ValueError(f"{heads} heads: the decay rates are defined here for powers of two")
    head = torch.arange(1, heads + 1, dtype=torch.float64)
    rates = 2.0 ** (-8 * head / heads) * (1 - layer / max(layers - 1, 1) + 1e-5)
    return rates.to(device, torch.float32)


def lightning_attention(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor | None = None, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Attend over a piece of a sequence, from the state that the earlier pieces left.

    q, k, v: (batch, length, heads, head_dim), after the silu and zero at pads, any floating dtype, length >= 1.
    slopes: (heads,), positive. state: (batch, heads, head_dim, head_dim) in fp32, or None for zeros.
    Returns out, like q, and the new state in fp32. Pads on the right decay the returned state, once each.
    In fp16 a true value beyond 65504 is inf in `out`; give fp32 to avoid that. Gradients reach q, k, v and state.
    backend: "torch" (CPU, CUDA; written for MPS too, not run there), "fused" (CUDA, flash-linear-attention), or "auto",
    the fastest there is. ValueError for others.
    """
    if backend not in ("auto", "torch", "fused"):
        raise ValueError(f"backend is {backend!r}, not 'auto', 'torch' or 'fused'")
    if backend == "auto":
        backend = "fused" if q.is_cuda and has_fused() else "torch"
    if state is None:
        state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3], dtype=torch.float32)
    return (_fused if backend == "fused" else _torch)(q, k, v, slopes, state)


# ---- the torch backend ---------------------------------------------------------------------------------------------


def _torch(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Whole blocks in segments that bound the memory, then what is left as one shorter block."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    state, slopes, length, outs, start = state.to(dtype), slopes.to(dtype), q.shape[1], [], 0
    if length == 1:
        return _step(q, k, v, slopes, state)
    while start < length:
        left = min(length - start, segment_length(q))
        size = min(left, BLOCK, q.shape[3])
        piece = slice(start, start + left - left % size)
        out, state = _blocks(*(x[:, piece].to(dtype) for x in (q, k, v)), slopes, state, size)
        outs.append(out.to(q.dtype))
        start = piece.stop
    return outs[0] if len(outs) == 1 else torch.cat(outs, 1), state


def segment_length(x: Tensor) -> int:
    """Tokens of a row in a segment of x (batch, length, ...): whole blocks, at least one."""
    tokens = min(SEGMENT, CPU_SEGMENT) if x.device.type == "cpu" else SEGMENT
    return max(1, tokens // len(x) // BLOCK) * BLOCK


def _step(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token, as in the definition."""
    column, row = (x.transpose(1, 2).to(state.dtype) for x in (k, v))  # (batch, heads, 1, head_dim)
    state = torch.exp(-slopes)[:, None, None] * state + column.transpose(-1, -2) * row
    return (q.transpose(1, 2).to(state.dtype) @ state).transpose(1, 2).to(q.dtype), state


def _blocks(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Blocks of `size` tokens all at once: pairs within a block, and states between blocks by one product."""
    q, k, v = (x.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4).contiguous() for x in (q, k, v))
    slope = slopes[:, None, None]  # and q, k, v are (batch, heads, blocks, size, head_dim)
    decay = decays(slope, size + 1)[:, None]  # its row and column 0: the end of the block before
    from_start, to_end, within = decay[..., 1:, :1], decay[..., -1, 1:, None], decay[..., 1:, 1:]

    added = (k * to_end).transpose(-1, -2) @ v  # what each block adds to the state
    steps = torch.cat([state[:, :, None], added[:, :, :-1]], 2).flatten(-2)
    states = (decays(slope * size, steps.shape[2]) @ steps).unflatten(-1, state.shape[-2:])  # before block 0, 1, ...
    out = (q @ k.transpose(-1, -2)).mul_(within) @ v  # in place: on a CPU half of what it took
    out = torch.addcmul(out, q @ states, from_start)
    state = from_start[:, 0, -1:] * states[:, :, -1] + added[:, :, -1]
    return out.permute(0, 2, 3, 1, 4).flatten(1, 2), state


def decays(slope: Tensor, size: int) -> Tensor:
    """slope (heads, 1, 1), positive -> (heads, size, size): exp(-slope (i - j)) at and below the diagonal, 0 above."""
    steps = torch.arange(size, device=slope.device, dtype=slope.dtype)
    return torch.exp(slope * (steps - steps[:, None])).tril()


# ---- the fused backend ---------------------------------------------------------------------------------------------


@cache
def has_fused() -> bool:
    """Whether flash-linear-attention and Triton are installed."""
    return all(importlib.util.find_spec(name) for name in ("fla", "triton"))


def _fused(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

    # The kernels keep states between chunks in the dtype of k, which overflows in fp16; in fp32 they compute in tf32,
    # with as many digits as fp16 and the range of fp32.
    inputs = [x.float() if x.dtype == torch.float16 else x for x in (q, k, v)]
    short = q.shape[1] <= RECURRENT
    kernel, more = (fused_recurrent_simple_gla, {}) if short else (chunk_simple_gla, {"chunk_size": CHUNK})
    state = state.float().contiguous()
    out, state = kernel(*inputs, g_gamma=-slopes, scale=1.0, initial_state=state, output_final_state=True, **more)
    return out.to(q.dtype), state
