"""Triton kernels: RMSNorm, a scaled residual, and both at once. CUDA only, no gradients.

Each row is read once, computed in fp32 and rounded once, when it is written. 131,072 rows of 6,144 are under
2^31 values, but 349,526 are not, so offsets are 64 bits wide.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dim, in x's dtype. x: (..., hidden)."""
    return _launch(x, None, weight, 1.0, 0.0, eps)


def norm_residual(h: Tensor, f: Tensor, alpha: float, beta: float, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of alpha * h + beta * f over the last dim. h, f: (..., hidden); returns h's dtype."""
    return _launch(h, f, weight, alpha, beta, eps)


def residual(h: Tensor, f: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * h + beta * f. h, f: (..., hidden); returns h's dtype."""
    return _launch(h, f, None, alpha, beta, 0.0)


def _launch(h: Tensor, f: Tensor | None, weight: Tensor | None, alpha: float, beta: float, eps: float) -> Tensor:
    hidden = h.shape[-1]
    if f is not None and f.shape != h.shape:
        raise ValueError(f"h is {tuple(h.shape)} and f {tuple(f.shape)}: both must have one shape")
    h, f = h.contiguous(), None if f is None else f.contiguous()
    out = torch.empty_like(h)
    rows = h.numel() // hidden
    if rows == 0:
        return out
    block = triton.next_power_of_2(hidden)
    settings = {"BLOCK": block, "num_warps": min(16, max(1, block // 1024))}
    with torch.cuda.device(h.device) if h.is_cuda else nullcontext():
        _norm_residual[(rows,)](h, f, weight, out, float(alpha), float(beta), float(eps), hidden, **settings)
    return out


@triton.jit(do_not_specialize=["alpha", "beta", "eps"])
def _norm_residual(h, f, weight, out, alpha, beta, eps, HIDDEN, BLOCK: tl.constexpr):
    """One program a row. f None: no residual. weight None: no norm."""
    start = tl.program_id(0).to(tl.int64) * HIDDEN
    column = tl.arange(0, BLOCK)
    inside = column < HIDDEN
    x = tl.load(h + start + column, mask=inside, other=0.0).to(tl.float32)
    if f is not None:
        x = alpha * x + beta * tl.load(f + start + column, mask=inside, other=0.0).to(tl.float32)
    if weight is not None:
        x *= tl.rsqrt(tl.sum(x * x) / HIDDEN + eps)
        x *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + start + column, x.to(out.dtype.element_ty), mask=inside)
