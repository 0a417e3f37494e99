"""Two Triton kernels for what flash-linear-attention leaves to PyTorch in a lightning layer. CUDA only, no gradients.

qkv_proj gives each head's q, k and v side by side, before the silu. `silu_split` makes of that the three tensors
without gaps that the library's kernels want: in PyTorch a silu, a product with the mask and three copies. `decode_step`
is a whole token, silu, split, decay, update and readout, in one launch: at one token the launches take the time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


def silu_split(qkv: Tensor, mask: Tensor | None, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """qkv (batch, length, heads * 3 * head_dim) -> q, k, v (batch, length, heads, head_dim) after the silu.

    mask: (batch, length), 0 at pads, or None. The result is fp32 for fp16, else of qkv's dtype. No gradient.
    """
    batch, length, width = qkv.shape
    dtype = torch.float32 if qkv.dtype == torch.float16 else qkv.dtype
    out = qkv.new_empty(3, batch, length, heads, width // (3 * heads), dtype=dtype)
    with torch.cuda.device(qkv.device):
        _silu_split[(batch * length,)](
            qkv.contiguous(),
            None if mask is None else mask.contiguous(),
            out,
            out.stride(0),
            HEADS=heads,
            HEAD_DIM=out.shape[-1],
            BLOCK=triton.next_power_of_2(width // 3),
            num_warps=8,
        )
    return out.unbind(0)


def decode_step(qkv: Tensor, slopes: Tensor, state: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """One token: qkv (batch, 1, heads * 3 * head_dim), before the silu, and the state in fp32.

    Returns out (batch, 1, heads * head_dim) and the new state; `state` is left as it was. dtypes as in `silu_split`.
    """
    width = state.shape[-1]
    dtype = torch.float32 if qkv.dtype == torch.float16 else qkv.dtype
    out, new = qkv.new_empty(*qkv.shape[:2], heads * width, dtype=dtype), torch.empty_like(state)
    columns = min(32, triton.next_power_of_2(width))
    with torch.cuda.device(qkv.device):
        _decode_step[(qkv.shape[0] * heads, triton.cdiv(width, columns))](
            qkv.contiguous(),
            slopes,
            state.contiguous(),
            new,
            out,
            HEADS=heads,
            HEAD_DIM=width,
            BLOCK=triton.next_power_of_2(width),
            COLUMNS=columns,
        )
    return out, new


@triton.jit
def _decode_step(
    qkv,
    slopes,
    state,
    new,
    out,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program a head and some columns of its state."""
    head = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, BLOCK), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    source, inside = qkv + head * 3 * HEAD_DIM, i < HEAD_DIM
    q = tl.load(source + i, mask=inside, other=0.0).to(tl.float32)
    k = tl.load(source + HEAD_DIM + i, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(source + 2 * HEAD_DIM + j, mask=j < HEAD_DIM, other=0.0).to(tl.float32)
    q = (q * tl.sigmoid(q)).to(qkv.dtype.element_ty).to(tl.float32)  # rounded where PyTorch's silu rounds
    k = (k * tl.sigmoid(k)).to(qkv.dtype.element_ty).to(tl.float32)
    v = (v * tl.sigmoid(v)).to(qkv.dtype.element_ty).to(tl.float32)

    at = head * HEAD_DIM * HEAD_DIM + i[:, None] * HEAD_DIM + j[None, :]
    both = inside[:, None] & (j < HEAD_DIM)[None, :]
    decay = tl.exp(-tl.load(slopes + head % HEADS))
    updated = decay * tl.load(state + at, mask=both, other=0.0) + k[:, None] * v[None, :]
    tl.store(new + at, updated, mask=both)
    row = tl.sum(q[:, None] * updated, axis=0)
    tl.store(out + head * HEAD_DIM + j, row.to(out.dtype.element_ty), mask=j < HEAD_DIM)


@triton.jit
def _silu_split(qkv, mask, out, stride, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr):
    """One program a token: three passes over its row, one each for q, k and v."""
    token = tl.program_id(0).to(tl.int64)  # 131,072 tokens of 24,576 values are beyond 32 bits, and so is
    stride = tl.cast(stride, tl.int64)  # twice the distance from q to k
    column = tl.arange(0, BLOCK)
    inside = column < HEADS * HEAD_DIM
    source = qkv + token * (3 * HEADS * HEAD_DIM) + (column // HEAD_DIM) * (3 * HEAD_DIM) + column % HEAD_DIM
    keep = 1.0
    if mask is not None:
        keep = tl.load(mask + token).to(tl.float32)
    for part in tl.static_range(3):
        x = tl.load(source + part * HEAD_DIM, mask=inside, other=0.0).to(tl.float32)
        x = (x * tl.sigmoid(x) * keep).to(qkv.dtype.element_ty)  # in fp16 so that tf32, of as many bits, holds it
        target = out + part * stride + token * (HEADS * HEAD_DIM) + column
        tl.store(target, x.to(out.dtype.element_ty), mask=inside)
