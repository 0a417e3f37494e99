"""The operations of a step as Triton kernels, for CUDA GPUs: what torch_ops.py says, with the same names.

Weights of many rows are read by cuBLAS, for one row by `gemv`, which reaches more of the memory's bandwidth. Whoever
calls has set the device. No gradients.
"""

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from ..experts import NAME as EXPERTS
from ..experts.held import is_int8
from ..lightning.kernels import _decode_step
from ..lightning.kernels import norm_gate as norm_and_gate  # noqa: F401
from . import kernels
from .buffers import Place
from .flash import attend as attend_split

ROWS, BLOCK, WARPS = 1, 2048, 4  # of a program of gemv: outputs, inputs at a time; the best of ten on an H200


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _sum_norm(x, 1.0, x, 0.0, weight, eps, False, True)


def scaled_sum(x: Tensor, alpha: float, y: Tensor, beta: float) -> Tensor:
    return _sum_norm(x, alpha, y, beta, x, 0.0, True, False)


def sum_norm(x: Tensor, alpha: float, y: Tensor, beta: float, weight: Tensor, eps: float) -> Tensor:
    return _sum_norm(x, alpha, y, beta, weight, eps, True, True)


def _sum_norm(x, alpha, y, beta, weight, eps, add: bool, normed: bool) -> Tensor:
    out, width = torch.empty_like(x), x.shape[1]
    block = triton.next_power_of_2(width)
    kernels.sum_norm[(len(x),)](
        x, y, weight, out, float(alpha), float(beta), float(eps), width, block, add, normed, num_warps=_warps(block)
    )
    return out


def linear(x: Tensor, *weights: Tensor) -> list[Tensor]:
    if len(x) > 1:
        return [F.linear(x, weight) for weight in weights]
    counts, width = [len(weight) for weight in weights], x.shape[1]
    out = x.new_empty(1, sum(counts))
    first, second, third = (*weights, *weights[:1] * 2)[:3]
    counts += [0] * (3 - len(counts))
    block = min(BLOCK, triton.next_power_of_2(width))
    grid = (sum(triton.cdiv(count, ROWS) for count in counts),)
    kernels.gemv[grid](x, first, second, third, out, *counts, width, ROWS, block, num_warps=WARPS)
    return list(out.split(counts[: len(weights)], 1))


def decay_and_read(qkv: Tensor, slopes: Tensor, state: Tensor, heads: int) -> Tensor:
    width = state.shape[-1]
    out = qkv.new_empty(len(qkv), heads * width, dtype=torch.float32 if qkv.dtype == torch.float16 else qkv.dtype)
    columns = min(32, triton.next_power_of_2(width))
    grid = (len(qkv) * heads, triton.cdiv(width, columns))
    sizes = {"HEADS": heads, "HEAD_DIM": width, "BLOCK": triton.next_power_of_2(width), "COLUMNS": columns}
    _decode_step[grid](qkv, slopes, None, state, state, out, **sizes)  # a program reads what it writes
    return out


def rotate_and_keep(q, k, v, keys: Tensor, values: Tensor, place: Place, frequencies: Tensor, scale: float) -> Tensor:
    batch, grouped, room, width = keys.shape
    heads, out, half = q.shape[1] // width, torch.empty_like(q), triton.next_power_of_2(width // 2)
    kernels.rotate_and_keep[(batch, heads + 2 * grouped)](
        q, k, v, out, keys, values, place.at, place.positions, frequencies, scale, room, heads, grouped, width, half,
        num_warps=1,
    )  # fmt: skip
    return out.view(batch, heads, width)


def attend(q: Tensor, keys: Tensor, values: Tensor, place: Place) -> Tensor:
    return attend_split(q, keys, values, place.keep, place.at)


def route(x: Tensor, weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    (logits,) = linear(x, weight)
    index = torch.empty(len(x), count, dtype=torch.long, device=x.device)
    weights = torch.empty(len(x), count, dtype=torch.float32, device=x.device)
    experts = len(weight)
    kernels.route[(len(x),)](logits, index, weights, experts, triton.next_power_of_2(experts), count, num_warps=1)
    return index, weights


def experts(module, x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """By the package's own kernels if the model has them, else by what Transformers has and a graph can record."""
    return ALL_EXPERTS_FUNCTIONS[experts_of(module, x.dtype)](module, x, index, weights)


def experts_of(module, dtype: torch.dtype) -> str:
    """The implementation's name. grouped_mm asks the device how many tokens an expert has, unless they are in bf16.

    int8 has no other that a graph can record.
    """
    ours = getattr(module.config, "_experts_implementation", None) == EXPERTS
    if is_int8(module.gate_up_proj) or (ours and dtype in (torch.bfloat16, torch.float16)):
        return EXPERTS
    return "grouped_mm" if dtype == torch.bfloat16 else "batched_mm"


def advance(place: Place) -> None:
    torch._foreach_add_([place.at, place.positions], 1)


def _warps(block: int) -> int:
    return max(1, min(16, block // 512))
