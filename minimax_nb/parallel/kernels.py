"""Around the all-reduce of a lightning layer, in one pass each: what layers.py says in PyTorch. CUDA, no gradients."""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor


def multiply(part: Tensor, out: Tensor, eps: float) -> Tensor:
    """part (..., hidden), out (..., width) -> fp32 (tokens * (hidden + 1),)."""
    hidden, width = part.shape[-1], out.shape[-1]
    part, out, tokens = part.contiguous(), out.contiguous(), part.numel() // hidden
    sent = torch.empty(tokens * (hidden + 1), dtype=torch.float32, device=part.device)
    blocks = triton.next_power_of_2(hidden), triton.next_power_of_2(width)
    with _on(part):
        _multiply[(tokens,)](part, out, sent, tokens, eps, hidden, width, *blocks, num_warps=_warps(max(blocks)))
    return sent


def divide(summed: Tensor, part: Tensor, ranks: int, eps: float) -> Tensor:
    """fp32 (tokens * (hidden + 1),) -> the shape and dtype of part."""
    hidden = part.shape[-1]
    result, tokens = torch.empty_like(part, memory_format=torch.contiguous_format), part.numel() // hidden
    block = triton.next_power_of_2(hidden)
    with _on(part):
        _divide[(tokens,)](summed, result, tokens, eps, ranks, hidden, block, num_warps=_warps(block))
    return result


@triton.jit(do_not_specialize=["tokens"])
def _multiply(
    part,
    out,
    sent,
    tokens,
    eps,
    HIDDEN: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """One program a token: sent = part * sqrt(mean(out^2) + eps), and the mean after all of them."""
    token, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK_OUT)
    values = tl.load(out + token * WIDTH + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    mean = tl.sum(values * values) / WIDTH
    column = tl.arange(0, BLOCK)
    values = tl.load(part + token * HIDDEN + column, mask=column < HIDDEN, other=0.0).to(tl.float32)
    tl.store(sent + token * HIDDEN + column, values * tl.sqrt(mean + eps), mask=column < HIDDEN)
    tl.store(sent + tokens.to(tl.int64) * HIDDEN + token, mean)


@triton.jit(do_not_specialize=["tokens"])
def _divide(summed, result, tokens, eps, ranks, HIDDEN: tl.constexpr, BLOCK: tl.constexpr):
    """One program a token: result = summed / sqrt(mean of the ranks' means + eps)."""
    token, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    mean = tl.load(summed + tokens.to(tl.int64) * HIDDEN + token) / ranks
    values = tl.load(summed + token * HIDDEN + column, mask=column < HIDDEN, other=0.0)
    values *= tl.rsqrt(mean + eps)
    tl.store(result + token * HIDDEN + column, values.to(result.dtype.element_ty), mask=column < HIDDEN)


def _on(x: Tensor):
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _warps(block: int) -> int:
    return max(1, min(16, block // 512))
