"""Lightning attention in a loaded model: its layers compute with a backend of ours, or with Transformers' own.

    use_lightning(model)             # "fused" on a CUDA GPU with flash-linear-attention, else "torch"

Weights and module tree stay as they are, and so does everything else that the model does.
"""

from functools import cache
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor

from .operator import has_fused, lightning_attention, segment_length, slopes

BACKENDS = ("auto", "fused", "torch", "stock")
NO_FUSED = {False: "they need a CUDA GPU", True: "flash-linear-attention is missing, pip install -e '.[fast]'"}
DECAYS = ("query_decay", "key_decay", "diagonal_decay")  # stock's buffers: 0.6 GB in the 80 layers of the real model


def use_lightning(model: torch.nn.Module, backend: str = "auto") -> str:
    """Let the lightning layers of a loaded native model compute with `backend`; return which it is.

    "stock" is Transformers' own forward pass again. Weights and module tree stay; the decay buffers, which only stock
    reads, are freed and rebuilt. Works under accelerate's hooks. ValueError for a model without lightning layers,
    RuntimeError for "fused" where it cannot run.
    """
    from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

    layers = [module for module in model.modules() if isinstance(module, MiniMaxLightningAttention)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no lightning layers: load a converted MiniMax folder")
    backend = choose(backend, on_gpu=all(layer.out_proj.weight.device.type in ("cuda", "meta") for layer in layers))
    for layer in layers:
        _set_forward(layer, type(layer).forward if backend == "stock" else _forward)
        _set_decays(layer, keep=backend == "stock")
        layer.lightning_backend = backend
    return backend


def choose(backend: str, on_gpu: bool) -> str:
    """The backend asked for, "auto" decided. ValueError if unknown, RuntimeError if it cannot run here."""
    if backend not in BACKENDS:
        raise ValueError(f"lightning backend {backend!r} is not one of {', '.join(map(repr, BACKENDS))}")
    runs = on_gpu and torch.cuda.is_available() and has_fused()
    if backend == "fused" and not runs:
        raise RuntimeError(f"the fused lightning kernels cannot run here: {NO_FUSED[on_gpu]}; 'torch' runs everywhere")
    return ("fused" if runs else "torch") if backend == "auto" else backend


def described(backend: str, on_gpu: bool) -> str:
    """The backend in words, with the reason, for the line that load() prints."""
    notes = {
        "fused": ", fp32 state (its kernels are tuned in the first prompt, up to a minute)",
        "torch": ", fp32 state",
    }
    why = f" ({NO_FUSED[True]})" if backend == "torch" and on_gpu and not has_fused() else ""
    return f"{backend} lightning attention{notes.get(backend, '')}{why}"


def _set_forward(layer, forward) -> None:
    """Under an accelerate hook `layer.forward` is the hook, and what it calls is `_old_forward`."""
    if hasattr(layer, "_hf_hook"):
        layer._old_forward = MethodType(forward, layer)
    elif forward is type(layer).forward:
        vars(layer).pop("forward", None)
    else:
        layer.forward = MethodType(forward, layer)


def _set_decays(layer, keep: bool) -> None:
    """Free stock's decay buffers, or rebuild them as stock does; they are no weights and not in any checkpoint."""
    if not keep:
        for name in DECAYS:
            setattr(layer, name, None)
    elif layer.diagonal_decay is None:
        made = layer.decay_factors(layer.get_slope_rate())
        for name, values in zip(DECAYS, made, strict=True):
            setattr(layer, name, values.to(layer.slope_rate))


def _forward(
    self, hidden_states, position_embeddings=None, attention_mask=None, cache=None, past_key_values=None, **kwargs
):
    """In place of MiniMaxLightningAttention.forward: (batch, length, hidden) in and out, and the new state.

    attention_mask: (batch, length), 0 at pads, or None.
    """
    kept = past_key_values if cache is None else cache  # the argument's name before Transformers 5.24
    state = None if kept is None else kept.get_linear_cache(self.layer_idx)
    state = state if isinstance(state, Tensor) else None
    qkv = self.qkv_proj(hidden_states)
    gate = self.output_gate(hidden_states)
    fast = self.lightning_backend == "fused" and not (torch.is_grad_enabled() and qkv.requires_grad)
    out, state = (_attend_fast if fast else _attend)(self, qkv, attention_mask, state)
    out = (_norm_and_gate_fast if fast else _norm_and_gate)(self.norm, out, gate)
    if kept is not None:
        kept.set_linear_cache(self.layer_idx, state)
    return self.out_proj(out), state


@cache
def _slopes_on(heads: int, layer: int, layers: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor made in inference mode could not serve in training later
        return slopes(heads, layer, layers, device)


def _rates(layer, device: torch.device) -> Tensor:
    return _slopes_on(layer.num_attention_heads, layer.layer_idx, layer.num_hidden_layers, device)


def _attend(layer, qkv: Tensor, mask: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """From qkv before the silu to (batch, length, heads * head_dim); fp32 where the model is fp16, for its range."""
    outs, size = [], segment_length(qkv) if layer.lightning_backend == "torch" else qkv.shape[1]
    for start in range(0, qkv.shape[1], size):
        piece = layer.act_fn(qkv[:, start : start + size])
        if mask is not None:
            piece = piece * mask[:, start : start + size, None].to(piece.dtype)
        if piece.dtype == torch.float16 or qkv.shape[1] == 1:  # one conversion instead of three
            piece = piece.float()
        q, k, v = piece.unflatten(-1, (layer.num_attention_heads, 3, layer.head_dim)).unbind(3)
        out, state = lightning_attention(q, k, v, _rates(layer, qkv.device), state, backend=layer.lightning_backend)
        outs.append(out)
    return (outs[0] if len(outs) == 1 else torch.cat(outs, 1)).flatten(2), state


def _attend_fast(layer, qkv: Tensor, mask: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same without gradients, and with fewer passes over the data."""
    from .kernels import decode_step, silu_split

    if qkv.shape[1] == 1 and mask is None and state is not None:
        return decode_step(qkv, _rates(layer, qkv.device), state.float(), layer.num_attention_heads)
    q, k, v = silu_split(qkv, mask, layer.num_attention_heads)
    out, state = lightning_attention(q, k, v, _rates(layer, qkv.device), state, backend="fused")
    return out.flatten(2), state


def _norm_and_gate(norm, out: Tensor, gate: Tensor) -> Tensor:
    """sigmoid(gate) * RMSNorm(out), in gate's dtype."""
    normed = F.rms_norm(out.float(), out.shape[-1:], norm.weight.float(), norm.variance_epsilon)
    return F.sigmoid(gate) * normed.to(gate.dtype)


def _norm_and_gate_fast(norm, out: Tensor, gate: Tensor) -> Tensor:
    """The same by one kernel, called without the library's wrapper for gradients, which costs more than the kernel."""
    from fla.modules.norm.fused_norm_gate import layer_norm_gated_fwd

    settings = {"activation": "sigmoid", "eps": norm.variance_epsilon, "out_dtype": gate.dtype, "is_rms_norm": True}
    with torch.cuda.device(out.device):
        made = layer_norm_gated_fwd(out.flatten(0, 1), gate.flatten(0, 1), norm.weight, None, **settings)
    return made[0].view_as(gate)
