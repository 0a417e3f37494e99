"""Experts in plain PyTorch from what their parameters hold: the int8 form on a CPU, and what kernels do not serve.

torchao's own operators would do for most calls. They fail under torch.inference_mode, and in fp16 they can overflow,
because they multiply by the scale after fp16 has rounded the sum.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .held import values_and_scales


def by_expert(module: nn.Module, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """As Transformers' "eager": x (tokens, hidden), chosen and weights (tokens, k) -> (tokens, hidden)."""
    gate_up, down = values_and_scales(module.gate_up_proj), values_and_scales(module.down_proj)
    out = torch.zeros_like(x)
    for expert in chosen.unique().tolist():
        token, slot = torch.where(chosen == expert)
        gate, up = linear(x[token], expert, *gate_up).chunk(2, -1)
        part = linear(module.act_fn(gate) * up, expert, *down) * weights[token, slot, None]
        out.index_add_(0, token, part.to(out.dtype))
    return out


def linear(x: Tensor, expert: int, values: Tensor, scales: Tensor | None) -> Tensor:
    """x (..., columns) by one expert's rows -> (..., rows). values (e, rows, columns); scales (e, rows) if int8."""
    if scales is None:
        return F.linear(x, values[expert])
    if x.dtype == torch.float32:  # a row's scale may come after its sum
        return F.linear(x, values[expert].to(x.dtype)) * scales[expert]
    return F.linear(x, (values[expert] * scales[expert, :, None]).to(x.dtype))
