"""A lightning layer's attention, norm and gate in training, in plain PyTorch, with gradients written by hand.

Left to autograd, each slice of a row gets a gradient as large as the row, mostly zeros, and every step of every piece
is kept. Here the backward pass goes through the pieces from last to first, so nothing larger than a piece is written
besides the gradients. Kept are the inputs, the attention before its norm, and the state before each piece.

    out, state = attend_norm_gate(qkv, gate, weight, state, rows)

The formulas are those of `operator.block_attention`, differentiated. There are no gradients of gradients.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .operator import Tables, block_attention, check_steepness, counts, pieces, tables

# Tokens, over all rows, of a piece on a CPU; with 512 a step of the demo's layer took 1.3 times as long
CPU_PIECE = 2048


class Rows(NamedTuple):
    """What is known of the rows of a call, and gets no gradients."""

    slopes: Tensor  # (heads,)
    eps: float  # of the norm
    mask: Tensor | None  # (batch, length), False at pads
    gated: bool  # whether pads hold the decay still; they do not count in any case
    begins: Tensor | None  # (batch, length), true where a packed document begins


def attend_norm_gate(
    qkv: Tensor, gate: Tensor, weight: Tensor, state: Tensor | None, rows: Rows
) -> tuple[Tensor, Tensor]:
    """sigmoid(gate) * RMSNorm(attention(silu(qkv))), and the new state. Gradients reach all but `rows`.

    qkv: (batch, length, heads * 3 * head_dim); gate: (batch, length, heads * head_dim), as is out, in gate's dtype;
    weight: (heads * head_dim,), of the norm; state: (batch, heads, head_dim, head_dim), at least fp32, or None.
    """
    check_steepness(rows.slopes)
    if state is None:
        head_dim = qkv.shape[-1] // (3 * len(rows.slopes))
        dtype = torch.promote_types(qkv.dtype, torch.float32)
        state = qkv.new_zeros(len(qkv), len(rows.slopes), head_dim, head_dim, dtype=dtype)
    with torch.autocast(qkv.device.type, enabled=False):  # it would compute the products in half precision
        return _AttendNormGate.apply(qkv, gate, weight, state, rows)


def refuse_lost_gradients(model: torch.nn.Module, kwargs: dict) -> None:
    """ValueError for a balance loss of the routers under reentrant gradient checkpointing.

    There the layers run without gradients first, and that is when Transformers notes the routers' scores for this loss:
    it would be added to the loss and teach nothing.
    """
    if not (kwargs.get("output_router_logits") and model.training and torch.is_grad_enabled()):
        return
    layer = model.layers[0]
    settings = getattr(getattr(layer, "_gradient_checkpointing_func", None), "keywords", {})
    if layer.gradient_checkpointing and settings.get("use_reentrant"):
        raise ValueError(
            "output_router_logits and reentrant gradient checkpointing do not go together: the routers' auxiliary loss "
            'would have no gradients. Give gradient_checkpointing_kwargs={"use_reentrant": False}'
        )


class _AttendNormGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qkv, gate, weight, state, rows):
        out, states = torch.empty_like(gate), []
        attended = torch.empty_like(gate, dtype=state.dtype)
        for place, size in pieces(*qkv.shape[:2], state.shape[-1], qkv.device.type, CPU_PIECE):
            states.append(state)
            q, k, v = _heads(_silu(qkv[:, place], rows, place, state.dtype), size)
            piece, state, _ = block_attention(q, k, v, state, _tables(rows, place, size, state))
            attended[:, place].unflatten(-1, (q.shape[1], -1)).copy_(piece.permute(0, 2, 3, 1, 4).flatten(1, 2))
            out[:, place] = _norm(attended[:, place], weight, rows.eps)[0] * torch.sigmoid(gate[:, place])
        ctx.save_for_backward(qkv, gate, weight, attended, *states)
        ctx.rows = rows
        return out, state

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, grad_state):
        with torch.autocast(grad_out.device.type, enabled=False):
            return _AttendNormGate.gradients(ctx, grad_out, grad_state)

    @staticmethod
    def gradients(ctx, grad_out: Tensor, grad_state: Tensor) -> tuple:
        qkv, gate, weight, attended, *states = ctx.saved_tensors
        rows, dtype = ctx.rows, states[0].dtype
        grad_qkv, grad_gate = torch.empty_like(qkv), torch.empty_like(gate)
        grad_weight = torch.zeros_like(weight, dtype=dtype)
        cut = pieces(*qkv.shape[:2], attended.shape[-1] // len(rows.slopes), qkv.device.type, CPU_PIECE)
        for (place, size), state in reversed(list(zip(cut, states, strict=True))):
            grads = _norm_gate_backward(attended[:, place], gate[:, place], weight, rows.eps, grad_out[:, place])
            grad_attended, grad_gate[:, place], more = grads
            grad_weight += more
            a = _silu(qkv[:, place], rows, place, dtype)
            t = _tables(rows, place, size, state)
            grad_a = torch.empty_like(a)
            grad_state = _blocks_backward(*_heads(a, size), state, t, grad_attended, grad_state, _heads(grad_a, size))
            if rows.mask is not None:
                grad_a.masked_fill_(~rows.mask[:, place, None, None, None], 0)
            x = qkv[:, place].to(dtype).view(a.shape)
            grad_qkv[:, place] = torch.ops.aten.silu_backward(grad_a, x).flatten(2)
        return grad_qkv, grad_gate, grad_weight.to(weight.dtype), grad_state, None


def _silu(qkv: Tensor, rows: Rows, place: slice, dtype: torch.dtype) -> Tensor:
    """silu of a piece of qkv, 0 at pads: (batch, length, heads, 3, head_dim)."""
    a = F.silu(qkv.to(dtype)).unflatten(-1, (len(rows.slopes), 3, -1))
    return a if rows.mask is None else a.masked_fill_(~rows.mask[:, place, None, None, None], 0)


def _heads(a: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of q, k and v in blocks: (batch, heads, blocks, size, head_dim) each."""
    return a.unflatten(1, (-1, size)).permute(4, 0, 3, 1, 2, 5).unbind(0)


def _tables(rows: Rows, place: slice, size: int, state: Tensor) -> Tables:
    blocks = (place.stop - place.start) // size
    mask = rows.mask[:, place] if rows.gated and rows.mask is not None else None
    begins = None if rows.begins is None else rows.begins[:, place]
    marks = [None if marks is None else counts(marks) for marks in (mask, begins)]
    return tables(rows.slopes.to(state.dtype), size, blocks, *marks)


def _norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """RMSNorm of x (..., width), and of it x / rms alone and 1 / rms."""
    scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    unit = x * scale
    return unit * weight, unit, scale


def _norm_gate_backward(x: Tensor, gate: Tensor, weight: Tensor, eps: float, grad: Tensor) -> tuple:
    """Gradients of x, gate and weight, where sigmoid(gate) * RMSNorm(x) has `grad`."""
    opened = torch.sigmoid(gate.to(x.dtype))
    normed, unit, scale = _norm(x, weight, eps)
    grad_normed = grad * opened
    grad_gate = normed.mul_(grad_normed).mul_(1 - opened)
    grad_unit = grad_normed * weight
    grad_weight = grad_normed.mul_(unit).flatten(0, -2).sum(0)
    mean = torch.linalg.vecdot(grad_unit, unit)[..., None] / x.shape[-1]
    return grad_unit.addcmul_(unit, mean, value=-1).mul_(scale), grad_gate, grad_weight


def _blocks_backward(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, t: Tables, grad: Tensor, grad_end: Tensor, into: tuple
) -> Tensor:
    """Write the gradients of q, k and v to `into`, views like them; return that of the state before the piece.

    grad: (batch, length, heads * head_dim), of what the blocks give; grad_end: of the state after the piece.
    """
    grad = grad.unflatten(-1, (q.shape[1], -1)).unflatten(1, q.shape[2:4]).permute(0, 3, 1, 2, 4).contiguous()
    _, _, (q, k, v, scores, q_seeing, k_staying, states) = block_attention(q, k, v, state, t, with_out=False)
    grad_q, grad_k, grad_v = into

    grad_states = q_seeing.transpose(-1, -2) @ grad
    grad_last = t.last * grad_end
    grad_states[:, :, -1] += grad_last if t.carries is None else t.carries * grad_last
    grad_steps = (t.between[..., :-1, :-1].transpose(-1, -2) @ grad_states.flatten(-2)).view(grad_states.shape)
    grad_added = torch.cat([grad_steps[:, :, 1:], grad_last[:, :, None]], 2)

    torch.add(scores.transpose(-1, -2) @ grad, k_staying @ grad_added, out=grad_v)
    grad_scores = (grad @ v.transpose(-1, -2)).tril_()
    if t.same is not None:
        grad_scores *= t.same
    seen, stayed = grad @ states.transpose(-1, -2), v @ grad_added.transpose(-1, -2)
    if t.same is not None:
        seen, stayed = seen * t.sees, stayed * t.stays
    torch.mul((grad_scores @ k).add_(seen), t.q_decay, out=grad_q)
    torch.mul((grad_scores.transpose(-1, -2) @ q).add_(stayed), t.k_decay, out=grad_k)
    return grad_steps[:, :, 0]
