"""The operations of a step in plain PyTorch, for a CPU. triton_ops.py has the same names with the same arguments.

Shapes: batch rows b, hidden size d, heads h, KV heads g, head_dim n. A row is one token of one sequence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..experts.held import values_and_scales
from ..experts.plain import linear as by_expert
from .buffers import Place

FEW = 8  # pairs of a row and an expert up to which a loop over them is faster than sorting them by expert


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm of x (b, d), computed in fp32, as MiniMaxRMSNorm rounds it."""
    return weight * _normed(x.float(), eps).to(x.dtype)


def scaled_sum(x: Tensor, alpha: float, y: Tensor, beta: float) -> Tensor:
    """alpha x + beta y, the residual of a layer."""
    return torch.add(x * alpha, y, alpha=beta)


def sum_norm(x: Tensor, alpha: float, y: Tensor, beta: float, weight: Tensor, eps: float) -> Tensor:
    """`norm` of the `scaled_sum`: between two sublayers nobody else needs the sum."""
    return norm(scaled_sum(x, alpha, y, beta), weight, eps)


def linear(x: Tensor, *weights: Tensor) -> list[Tensor]:
    """x (b, d) by each of the weights (out, d)."""
    return [F.linear(x, weight) for weight in weights]


def decay_and_read(qkv: Tensor, slopes: Tensor, state: Tensor, heads: int) -> Tensor:
    """One token of lightning attention: qkv (b, h * 3 * n) before the silu -> (b, h * n). `state` changes in place.

    S = exp(-slope) S + k v^T, out = q S; the state is (b, h, n, n) in fp32. As in `lightning_attention`, a slow head's
    exp(-slope) is not rounded: what S loses is.
    """
    q, k, v = F.silu(qkv).unflatten(-1, (heads, 3, -1)).to(state.dtype).unbind(2)  # (b, h, n)
    state.addcmul_(torch.expm1(-slopes)[:, None, None], state).addcmul_(k[..., None], v[..., None, :])
    return (q[..., None, :] @ state).flatten(1).to(qkv.dtype)


def norm_and_gate(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """sigmoid(gate) * RMSNorm(x), in gate's dtype; all (b, h * n)."""
    return F.sigmoid(gate) * (weight.float() * _normed(x.float(), eps)).to(gate.dtype)


def _normed(x: Tensor, eps: float) -> Tensor:
    """By the length of the vector, which PyTorch computes in one pass; F.rms_norm takes twice as long for a row."""
    mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    return x * mean.add_(eps).rsqrt_()


def rotate_and_keep(q, k, v, keys: Tensor, values: Tensor, place: Place, frequencies: Tensor, scale: float) -> Tensor:
    """Rotate q (b, h * n) and k (b, g * n) by their position, put k and v into the buffers; return q (b, h, n).

    keys, values: (b, g, room, n). frequencies: (n / 2,) radians a token, for pairs (j, j + n / 2); scale: of cosine
    and sine.
    """
    angles = place.positions[:, None].float() * frequencies  # (b, n / 2)
    angles = torch.cat((angles, angles), -1)[:, None]
    cos, sin = (angles.cos() * scale).to(q.dtype), (angles.sin() * scale).to(q.dtype)
    q, k, v = (x.unflatten(-1, (-1, keys.shape[-1])) for x in (q, k, v))
    keys[:, :, place.length], values[:, :, place.length] = k * cos + _turned(k) * sin, v
    return q * cos + _turned(q) * sin


def _turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def attend(q: Tensor, keys: Tensor, values: Tensor, place: Place) -> Tensor:
    """Softmax attention of q (b, h, n) over the keys so far, the new one included: (b, h * n)."""
    length = place.length + 1
    mask = place.keep[:, None, None, :length] if place.padded else None
    keys, values = keys[:, :, :length], values[:, :, :length]
    out = F.scaled_dot_product_attention(q[:, :, None], keys, values, mask, enable_gqa=True)
    return out.flatten(1)


def route(x: Tensor, weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` experts of each row and their weights, which sum to 1: int64 and fp32, both (b, count)."""
    scores, index = F.linear(x, weight).float().softmax(-1).topk(count, dim=-1)
    return index, scores / scores.sum(-1, keepdim=True)


def experts_of(module, dtype: torch.dtype) -> str:
    return ""  # nothing is recorded


def advance(place: Place) -> None:
    """The next token comes after this one."""
    place.positions.add_(1)


def experts(module, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """What the chosen experts make of x (b, d), weighted and summed. Of int8 only what was chosen is converted."""
    gate_up, down = values_and_scales(module.gate_up_proj), values_and_scales(module.down_proj)
    if index.numel() > FEW or None in (gate_up, down):
        return type(module).forward(module, x, index, weights)
    out = torch.zeros_like(x)
    for row, chosen in enumerate(index.tolist()):
        for slot, expert in enumerate(chosen):
            gate, up = by_expert(x[row], expert, *gate_up).chunk(2)
            part = by_expert(F.silu(gate) * up, expert, *down)
            out[row].addcmul_(part, weights[row, slot].to(x.dtype))
    return out
