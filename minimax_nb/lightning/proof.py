"""Whether the fused kernels compute what plain PyTorch does on this machine, tried once."""

from functools import partial

import torch
from torch import Tensor

from .fused import CHUNK, RECURRENT, attend
from .operator import attend as by_backend
from .operator import lightning_attention, slopes


@torch.no_grad()
def largest_error(heads: int, head_dim: int, dtype: str) -> float:
    """Run each kernel at these sizes, and return the largest relative error against plain PyTorch.

    This compiles and tunes them, so the first prompt need not. Raises what the compiler or the driver raises.
    """
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


@torch.enable_grad()
@torch.inference_mode(False)
def gradient_error(
    heads: int, head_dim: int, dtype: str, gated: bool, packed: bool, short: bool, device: str = "cuda"
) -> float:
    """The largest relative error of the gradients of q, k and v against plain PyTorch's, for two rows of a kind."""
    generator = torch.Generator().manual_seed(0)
    length = RECURRENT if short else 3 * CHUNK
    made = torch.randn(4, 2, length, heads, head_dim, generator=generator).to(device, getattr(torch, dtype))
    *qkv, weights = torch.nn.functional.silu(made).unbind()
    mask = torch.ones(2, length, dtype=torch.bool, device=device)
    mask[0, -RECURRENT // 2 :] = False
    ends = torch.tensor([0, length // 3, length, 2 * length], device=device)
    found = []
    with torch.autocast(torch.device(device).type, enabled=False):
        for function in (attend, partial(by_backend, backend="torch")):
            leaves = [x.detach().requires_grad_() for x in qkv]
            given = [x.masked_fill(~mask[..., None, None], 0) for x in leaves] if gated else leaves
            rows = (mask if gated else None, ends if packed else None)
            out, _ = function(*given, slopes(heads, 0, 8, device), None, *rows)
            found.append(torch.autograd.grad((out.float() * weights.float()).sum(), leaves))
    return max(_error(*pair) for pair in zip(*found, strict=True))


def _attention_errors(qkv: Tensor, rates: Tensor, mask: Tensor | None, head_dim: int) -> list[float]:
    """Of all tokens but one, fed in two pieces, and of that one, decoded: out and state of each."""
    from . import kernels

    heads, length = len(rates), qkv.shape[1]
    q, k, v = torch.nn.functional.silu(qkv.float()).unflatten(-1, (heads, 3, head_dim)).unbind(3)
    errors, state = [], None
    for piece in (slice(0, length // 2), slice(length // 2, length - 1), slice(length - 1, length)):
        marks = None if mask is None else mask[:, piece]
        if piece.stop < length:
            got = attend(*kernels.silu_split(qkv[:, piece], marks, heads), rates, state, marks, None)
        else:
            got = kernels.decode_step(qkv[:, piece], rates, state, heads, marks)
        want = lightning_attention(q[:, piece], k[:, piece], v[:, piece], rates, state, mask=marks, backend="torch")
        errors += [_error(*pair) for pair in zip(got, want, strict=True)]
        state = want[1]
    return errors


def _norm_error(x: Tensor, width: int) -> float:
    from . import kernels

    out, gate, weight = x[..., :width].contiguous(), x[..., width : 2 * width].contiguous(), x[0, 0, :width]
    want = torch.sigmoid(gate.float()) * torch.nn.functional.rms_norm(out.float(), (width,), weight.float(), 1e-6)
    return _error(kernels.norm_gate(out, gate, weight, 1e-6), want)


def _error(got: Tensor, want: Tensor) -> float:
    got = got.double().view(want.shape)
    return ((got - want.double()).norm() / want.double().norm()).item()
