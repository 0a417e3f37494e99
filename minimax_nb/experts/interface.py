"""The kernels as a Transformers experts implementation; calls that they cannot serve fall back."""

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.integrations.moe import grouped_mm_experts_forward

from ..lazy import installed
from . import held
from .held import is_int8, values_and_scales
from .plain import by_expert

HALF = (torch.float16, torch.bfloat16)
SILU = (nn.SiLU, type(ACT2FN["silu"]))
HAS_TRITON = installed("triton")
if HAS_TRITON and torch.cuda.is_available():
    from . import launch  # its operator must be known before torch.compile meets it


def experts_forward(module: nn.Module, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """In place of an experts module's forward. x: (tokens, hidden); chosen, weights: (tokens, k).

    Where the kernels cannot serve, Transformers' default, grouped_mm. It has no int8: that goes expert by expert.
    """
    if why_not(module, x, chosen, weights):
        if is_int8(module.gate_up_proj):
            return by_expert(module, x, chosen, weights)
        return grouped_mm_experts_forward(module, x, chosen, weights)
    gate_up, gate_up_scale = values_and_scales(module.gate_up_proj)
    down, down_scale = values_and_scales(module.down_proj)
    return launch.mixture_of_experts(x, gate_up, down, chosen, weights, gate_up_scale, down_scale)


def why_not(module: nn.Module, x: Tensor, chosen: Tensor, weights: Tensor) -> str | None:
    """Why the kernels cannot serve this call, in words, or None if they can."""
    if not x.is_cuda:
        return "not on an NVIDIA GPU"
    if not HAS_TRITON:
        return "Triton is not installed"
    given = (x, module.gate_up_proj, module.down_proj, weights)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        return "gradients are needed"
    found = [values_and_scales(weight) for weight in (module.gate_up_proj, module.down_proj)]
    if None in found or not all(type(tensor) in held.PLAIN for tensor in (x, weights)):
        return "a tensor class of its own: distributed, or quantised in another way than int8"
    (gate_up, _), (down, _) = found
    if reason := _why_not_these_dtypes(x, gate_up, down):
        return reason
    if any(tensor.device != x.device for tensor in (gate_up, down, weights, chosen)):
        return "inputs and weights are on different devices"
    if not is_swiglu(module):
        return "not the plain SwiGLU experts of this model"
    if not (gate_up.is_contiguous() and down.is_contiguous()) or x.shape[-1] % 16 or down.shape[-1] % 16:
        return "weights with gaps, or widths that 16 does not divide"
    if not len(x):
        return "no tokens"
    major = torch.cuda.get_device_properties(x.device).major
    if major < 8 or (major != 9 and len(x) > launch.FEW):
        return f"compute capability {major}.x: many tokens need 9.x, up to {launch.FEW} at least 8.0"
    return None


def _why_not_these_dtypes(x: Tensor, gate_up: Tensor, down: Tensor) -> str | None:
    if gate_up.dtype == down.dtype == torch.int8:
        if x.dtype in HALF or (x.dtype == torch.float32 and len(x) <= launch.FEW):
            return None
        return f"{len(x)} tokens in {x.dtype}: with int8 weights the kernels take bf16, fp16, and fp32 for a few"
    if x.dtype in HALF and x.dtype == gate_up.dtype == down.dtype:
        return None
    return f"{x.dtype} inputs, {gate_up.dtype} weights: the kernels take bf16 or fp16 for both"


def is_swiglu(module: nn.Module) -> bool:
    """Whether the module computes down(silu(gate x) * up x), with all its experts here and nothing more."""
    plain = module.has_gate and module.is_concatenated and not module.is_transposed
    more = module.has_bias or module._is_expert_parallel or getattr(module, "has_post_expert_norm", False)
    return plain and not more and isinstance(module.act_fn, SILU)
