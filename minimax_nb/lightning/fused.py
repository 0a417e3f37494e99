"""The fused backend of lightning attention: the kernels of flash-linear-attention, with an fp32 state. CUDA only."""

import torch
from torch import Tensor

RECURRENT = 16  # so many tokens are taken one by one, in one kernel; more in chunks
CHUNK = 64  # tokens a chunk; 128 took 3 % longer on an H200


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor,
    state: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """As `lightning_attention`, but q, k and v are 0 at pads already."""
    from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

    # The kernels keep states between chunks in the dtype of k, which overflows in fp16; in fp32 they compute in tf32,
    # with as many digits as fp16 and the range of fp32.
    inputs = [x.float() if x.dtype == torch.float16 else x for x in (q, k, v)]
    # One decay for all tokens, or a gate for each: log decay -slope at tokens, 0 at pads. (batch, length, heads)
    decay = {"g_gamma": -slopes} if mask is None else {"g": -slopes * mask[..., None]}
    kernel, more = fused_recurrent_simple_gla, {}
    if q.shape[1] > RECURRENT:
        kernel, more = chunk_simple_gla, {"chunk_size": CHUNK}
    if cu_seqlens is not None:  # the library takes documents in one row
        inputs = [x.flatten(0, 1)[None] for x in inputs]
        out, _ = kernel(*inputs, **decay, scale=1.0, cu_seqlens=cu_seqlens.long(), **more)
        return out.view(q.shape).to(q.dtype), None
    if state is not None:
        state = state.float().contiguous()
    out, state = kernel(*inputs, **decay, scale=1.0, initial_state=state, output_final_state=True, **more)
    return out.to(q.dtype), state


@torch.no_grad()
def largest_error(heads: int, head_dim: int, dtype: str) -> float:
    """Run each kernel at these sizes, and return the largest relative error against plain PyTorch.

    This compiles and tunes them, so the first prompt need not. Raises what the compiler or the driver raises.
    """
    from .operator import slopes

    generator = torch.Generator().manual_seed(0)
    shape = 2, 3 * CHUNK, 3 * heads * head_dim
    qkv = torch.randn(shape, generator=generator).to("cuda", getattr(torch, dtype))
    mask = torch.ones(shape[:2], dtype=torch.bool, device="cuda")
    mask[0, -RECURRENT // 2 :] = False
    rates = slopes(heads, 0, 8, "cuda")
    errors = [_norm_error(qkv, heads * head_dim)]
    for length in (3 * CHUNK, RECURRENT):
        for gates in (None, mask[:, -length:]):
            errors += _attention_errors(qkv[:, -length:], rates, gates, head_dim)
    return max(errors)


def _attention_errors(qkv: Tensor, rates: Tensor, mask: Tensor | None, head_dim: int) -> list[float]:
    """Of out and state after all tokens but one, and after that one, decoded."""
    from . import kernels
    from .operator import lightning_attention

    heads, before = len(rates), None if mask is None else mask[:, :-1]
    q, k, v = torch.nn.functional.silu(qkv.float()).unflatten(-1, (heads, 3, head_dim)).unbind(3)
    got = attend(*kernels.silu_split(qkv[:, :-1], before, heads), rates, None, before, None)
    want = lightning_attention(q[:, :-1], k[:, :-1], v[:, :-1], rates, mask=before, backend="torch")
    last = None if mask is None else mask[:, -1:]
    next_got = kernels.decode_step(qkv[:, -1:], rates, want[1], heads, last)
    next_want = lightning_attention(q[:, -1:], k[:, -1:], v[:, -1:], rates, want[1], mask=last, backend="torch")
    return [_error(*pair) for pair in zip((*got, *next_got), (*want, *next_want), strict=True)]


def _norm_error(x: Tensor, width: int) -> float:
    from .kernels import norm_gate

    out, gate, weight = x[..., :width].contiguous(), x[..., width : 2 * width].contiguous(), x[0, 0, :width]
    want = torch.sigmoid(gate.float()) * torch.nn.functional.rms_norm(out.float(), (width,), weight.float(), 1e-6)
    return _error(norm_gate(out, gate, weight, 1e-6), want)


def _error(got: Tensor, want: Tensor) -> float:
    got = got.double().view(want.shape)
    return ((got - want.double()).norm() / want.double().norm()).item()
