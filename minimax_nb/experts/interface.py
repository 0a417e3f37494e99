"""The kernels as a Transformers experts implementation; calls that they cannot serve fall back."""

import importlib.util

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.integrations.moe import grouped_mm_experts_forward

HALF = (torch.float16, torch.bfloat16)
PLAIN = (Tensor, nn.Parameter)
SILU = (nn.SiLU, type(ACT2FN["silu"]))
HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON and torch.cuda.is_available():
    from . import launch  # its operator must be known before torch.compile meets it


def experts_forward(module: nn.Module, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """In place of an experts module's forward. x: (tokens, hidden); chosen, weights: (tokens, k).

    Where the kernels cannot serve, Transformers' default, grouped_mm.
    """
    if why_not(module, x, chosen, weights):
        return grouped_mm_experts_forward(module, x, chosen, weights)
    return launch.mixture_of_experts(x, module.gate_up_proj, module.down_proj, chosen, weights)


def why_not(module: nn.Module, x: Tensor, chosen: Tensor, weights: Tensor) -> str | None:
    """Why the kernels cannot serve this call, in words, or None if they can."""
    gate_up, down = module.gate_up_proj, module.down_proj
    tensors = (x, gate_up, down, weights)
    if not x.is_cuda:
        return "not on an NVIDIA GPU"
    if not HAS_TRITON:
        return "Triton is not installed"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "gradients are needed"
    if not all(type(tensor) in PLAIN for tensor in tensors):
        return "a tensor class of its own: quantised or distributed"
    if x.dtype not in HALF or not x.dtype == gate_up.dtype == down.dtype:
        return f"{x.dtype} inputs, {gate_up.dtype} weights: the kernels take bf16 or fp16 for both"
    if any(tensor.device != x.device for tensor in (*tensors, chosen)):
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


def is_swiglu(module: nn.Module) -> bool:
    """Whether the module computes down(silu(gate x) * up x), with all its experts here and nothing more."""
    plain = module.has_gate and module.is_concatenated and not module.is_transposed
    more = module.has_bias or module._is_expert_parallel or getattr(module, "has_post_expert_norm", False)
    return plain and not more and isinstance(module.act_fn, SILU)
