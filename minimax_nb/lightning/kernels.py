"""Three Triton kernels for what flash-linear-attention leaves to PyTorch in a lightning layer. CUDA only, no gradients.

qkv_proj gives each head's q, k and v side by side, before the silu. `silu_split` makes of that the three tensors
without gaps that the library's kernels want: in PyTorch a silu, a product with the mask and three copies. `decode_step`
is a whole token, silu, split, decay, update and readout, in one launch: at one token the launches take the time.
`norm_gate` is what follows attention, the RMSNorm over all heads and the output gate, in one pass over the data.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor


def silu_split(qkv: Tensor, mask: Tensor | None, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """qkv (batch, length, heads * 3 * head_dim) -> q, k, v (batch, length, heads, head_dim) after the silu.

    mask: (batch, length), 0 at pads, or None. The result is fp32 for fp16, else of qkv's dtype. No gradient.
    """
    batch, length, width = qkv.shape
    out = qkv.new_empty(3, batch, length, heads, width // (3 * heads), dtype=_exact(qkv.dtype))
    with _on(qkv):
        _silu_split[(batch * length,)](
            qkv.contiguous(),
            _bytes(mask),
            out,
            out.stride(0),
            HEADS=heads,
            HEAD_DIM=out.shape[-1],
            BLOCK=triton.next_power_of_2(width // 3),
            num_warps=8,
        )
    return out.unbind(0)


def decode_step(
    qkv: Tensor, slopes: Tensor, state: Tensor, heads: int, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One token: qkv (batch, 1, heads * 3 * head_dim), before the silu, and the state in fp32.

    mask: (batch, 1), 0 where the row's token is a pad, which leaves the row's state as it is and has out 0; or None.
    Returns out (batch, 1, heads * head_dim) and the new state; `state` is left as it was. dtypes as in `silu_split`.
    """
    width = state.shape[-1]
    out = qkv.new_empty(*qkv.shape[:2], heads * width, dtype=_exact(qkv.dtype))
    new = torch.empty_like(state, memory_format=torch.contiguous_format)
    columns = min(32, triton.next_power_of_2(width))
    with _on(qkv):
        _decode_step[(qkv.shape[0] * heads, triton.cdiv(width, columns))](
            qkv.contiguous(),
            slopes,
            _bytes(mask),
            state.contiguous(),
            new,
            out,
            HEADS=heads,
            HEAD_DIM=width,
            BLOCK=triton.next_power_of_2(width),
            COLUMNS=columns,
        )
    return out, new


def norm_gate(out: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """sigmoid(gate) * RMSNorm(out): out and gate (batch, length, width), weight (width,); in gate's dtype."""
    gated = torch.empty_like(gate, memory_format=torch.contiguous_format)
    width = gate.shape[-1]
    with _on(out):
        _norm_gate[(gate.numel() // width,)](
            out.contiguous(),
            gate.contiguous(),
            weight.contiguous(),
            gated,
            eps,
            WIDTH=width,
            BLOCK=triton.next_power_of_2(width),
            num_warps=8,
        )
    return gated


def _exact(dtype: torch.dtype) -> torch.dtype:
    """fp16 becomes fp32: a state of fp16 numbers leaves their range."""
    return torch.float32 if dtype == torch.float16 else dtype


def _bytes(mask: Tensor | None) -> Tensor | None:
    """A mask as Triton reads it."""
    return None if mask is None else mask.bool().contiguous().view(torch.uint8)


def _on(x: Tensor) -> AbstractContextManager:
    """Triton launches on the current device. On a CPU only its interpreter runs (TRITON_INTERPRET=1)."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@triton.jit
def _silu(x, like):
    """In fp32, rounded where PyTorch's silu rounds."""
    x = x.to(tl.float32)
    return (x * tl.sigmoid(x)).to(like.dtype.element_ty).to(tl.float32)


@triton.jit
def _decode_step(
    qkv,
    slopes,
    mask,
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
    q = _silu(tl.load(source + i, mask=inside, other=0.0), qkv)
    k = _silu(tl.load(source + HEAD_DIM + i, mask=inside, other=0.0), qkv)
    v = _silu(tl.load(source + 2 * HEAD_DIM + j, mask=j < HEAD_DIM, other=0.0), qkv)

    # exp(-slope) - 1, by its series where the difference would round off digits of a slow head's slope
    s = tl.load(slopes + head % HEADS)
    series = -s * (1 - s / 2 * (1 - s / 3 * (1 - s / 4 * (1 - s / 5 * (1 - s / 6)))))
    loss = tl.where(s < 0.1, series, tl.exp(-s) - 1)
    if mask is not None:
        token = tl.load(mask + head // HEADS) != 0
        loss = tl.where(token, loss, 0.0)
        q = tl.where(token, q, 0.0)
        k = tl.where(token, k, 0.0)
        v = tl.where(token, v, 0.0)

    at = head * HEAD_DIM * HEAD_DIM + i[:, None] * HEAD_DIM + j[None, :]
    both = inside[:, None] & (j < HEAD_DIM)[None, :]
    old = tl.load(state + at, mask=both, other=0.0)
    updated = old + loss * old + k[:, None] * v[None, :]
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
    real = 1
    if mask is not None:
        real = tl.load(mask + token)
    for part in tl.static_range(3):
        x = _silu(tl.load(source + part * HEAD_DIM, mask=inside, other=0.0), qkv)
        x = tl.where(real != 0, x, 0.0)  # no product, for a pad may hold what is not finite
        target = out + part * stride + token * (HEADS * HEAD_DIM) + column
        tl.store(target, x.to(out.dtype.element_ty), mask=inside)  # from fp16 to fp32, for tf32 has as many digits


@triton.jit
def _norm_gate(out, gate, weight, gated, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """One program a token."""
    start = tl.program_id(0).to(tl.int64) * WIDTH
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    x = tl.load(out + start + column, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(gate + start + column, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    normed = x * (1 / tl.sqrt(tl.sum(x * x, axis=0) / WIDTH + eps)) * w
    tl.store(gated + start + column, (normed * tl.sigmoid(g)).to(gated.dtype.element_ty), mask=inside)
