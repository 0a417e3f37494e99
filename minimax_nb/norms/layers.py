"""Decoder layers and norms of the native class whose forward pass goes through the kernels where it can.

A module changes its class, to a subclass that adds no state and back. So `isinstance`, saving and the hooks
that record hidden states work as before, and a copy of a layer computes with its own weights.
"""

import torch
from torch import Tensor, nn
from transformers.models.minimax.modeling_minimax import MiniMaxDecoderLayer, MiniMaxModel, MiniMaxRMSNorm

from ..classes import change_class
from ..lazy import installed
from . import BACKENDS

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def can_run() -> bool:
    return torch.cuda.is_available() and installed("triton")


def servable(x: Tensor, *more: Tensor) -> bool:
    """Whether the kernels can compute on these tensors, here and now."""
    if not x.is_cuda or torch.compiler.is_compiling() or x.dtype not in DTYPES:
        return False
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *more)):
        return False
    return all(tensor.device == x.device for tensor in more)


def needs_gradients(module: nn.Module) -> bool:
    """Whether a gradient of any of its parameters would be asked for, those of adapters included."""
    return torch.is_grad_enabled() and any(parameter.requires_grad for parameter in module.parameters())


class FusedRMSNorm(MiniMaxRMSNorm):
    """(..., hidden) in and out."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not servable(hidden_states, self.weight):
            return super().forward(hidden_states)
        from .kernels import rms_norm

        return rms_norm(hidden_states, self.weight, self.variance_epsilon)


class FusedDecoderLayer(MiniMaxDecoderLayer):
    """(batch, length, hidden) in and out. What else the layer is given, the attention gets as it came."""

    def forward(self, hidden_states: Tensor, *args, **kwargs) -> Tensor:
        first, second = self.input_layernorm, self.post_attention_layernorm
        watched = any(norm._forward_hooks or norm._forward_pre_hooks for norm in (first, second))
        tensors = (hidden_states, first.weight, second.weight)
        if args or watched or needs_gradients(self) or not servable(*tensors):
            return super().forward(hidden_states, *args, **kwargs)
        from .kernels import norm_residual, residual, rms_norm

        h = rms_norm(hidden_states, first.weight, first.variance_epsilon)
        attended, _ = self.self_attn(hidden_states=h, **kwargs)
        alpha, beta = self.attn_alpha_factor, self.attn_beta_factor
        h = norm_residual(h, attended, alpha, beta, second.weight, second.variance_epsilon)
        return residual(h, self.mlp(h), self.mlp_alpha_factor, self.mlp_beta_factor)


def set_backend(model: nn.Module, backend: str) -> str:
    """See use_fused_norms."""
    if backend not in BACKENDS:
        raise ValueError(f"norms {backend!r} is not one of {', '.join(map(repr, BACKENDS))}")
    layers = [module for module in model.modules() if isinstance(module, MiniMaxDecoderLayer)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no native decoder layers: load a converted MiniMax folder")
    runs = can_run()
    if backend == "fused" and not runs:
        raise RuntimeError("the fused norms cannot run here: they need an NVIDIA GPU and Triton")
    fused = runs and backend != "stock"
    for layer in layers:
        change_class(layer, FusedDecoderLayer if fused else MiniMaxDecoderLayer)
    for module in model.modules():
        if isinstance(module, MiniMaxModel):
            change_class(module.norm, FusedRMSNorm if fused else MiniMaxRMSNorm)
    return "fused" if fused else "stock"
