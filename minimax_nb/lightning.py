"""Lightning attention, exact in half precision and fast: the operator, and how it gets into a loaded model.

Token by token the definition (arXiv 2501.08313, section 2.2) is, for one head,

    S = exp(-slope) S + k_t v_t^T        S is the state, (head_dim, head_dim)
    out_t = q_t S

Stock Transformers keeps S and its decay in the model's dtype, where exp(-slope) of a slow head rounds to 0.9961 in
bf16 or to 1, loops over blocks in Python, and over single tokens once there is a cache. Here both stay in fp32 and a
block form serves any length. It knows no padding: zero q, k and v at pads, as the model's forward pass does.

    out, state = lightning_attention(q, k, v, slopes(64, layer=0, layers=80))
    use_lightning(model)             # "fused" on a CUDA GPU with flash-linear-attention, else "torch"
"""

import importlib.util
from functools import cache
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor

BACKENDS = ("auto", "fused", "torch", "stock")
BLOCK = 64  # tokens a block of the torch backend, at most head_dim: the pairs within it cost about what its state costs
SEGMENT = 8192  # tokens, over all rows, that the torch backend holds in fp32 at a time
CPU_SEGMENT = 512  # the same on a CPU: larger temporaries are new pages in each layer, and mapping those took longer
RECURRENT = 16  # the fused backend takes so many tokens one by one, in one kernel; more in chunks
CHUNK = 64  # tokens a chunk of the fused backend; 128 took 3 % longer on an H200
NO_FUSED = {False: "they need a CUDA GPU", True: "flash-linear-attention is missing, pip install -e '.[fast]'"}
DECAYS = ("query_decay", "key_decay", "diagonal_decay")  # stock's buffers: 0.6 GB in the 80 layers of the real model


def slopes(heads: int, layer: int, layers: int, device: torch.device | str = "cpu") -> Tensor:
    """Decay rate per token of each head, (heads,) in fp32: 2^(-8h/heads), h from 1, falling towards the last layer.

    From the original modelling code; stock Transformers agrees for heads a power of two, and ValueError for others.
    """
    if heads & (heads - 1):
        raise ValueError(f"{heads} heads: the decay rates are defined here for powers of two")
    head = torch.arange(1, heads + 1, dtype=torch.float64)
    rates = 2.0 ** (-8 * head / heads) * (1 - layer / max(layers - 1, 1) + 1e-5)
    return rates.to(device, torch.float32)


def lightning_attention(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor | None = None, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Attend over a piece of a sequence, from the state that the earlier pieces left.

    q, k, v: (batch, length, heads, head_dim), after the silu and zero at pads, any floating dtype, length >= 1.
    slopes: (heads,), positive. state: (batch, heads, head_dim, head_dim) in fp32, or None for zeros.
    Returns out, like q, and the new state in fp32. Pads on the right decay the returned state, once each.
    In fp16 a true value beyond 65504 is inf in `out`; give fp32 to avoid that. Gradients reach q, k, v and state.
    backend: "torch" (CPU, CUDA; written for MPS too, not run there), "fused" (CUDA, flash-linear-attention), or "auto",
    the fastest there is. ValueError for others.
    """
    if backend not in ("auto", "torch", "fused"):
        raise ValueError(f"backend is {backend!r}, not 'auto', 'torch' or 'fused'")
    if backend == "auto":
        backend = "fused" if q.is_cuda and has_fused() else "torch"
    if state is None:
        state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3], dtype=torch.float32)
    return (_fused if backend == "fused" else _torch)(q, k, v, slopes, state)


# ---- the torch backend ---------------------------------------------------------------------------------------------


def _torch(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Whole blocks in segments that bound the memory, then what is left as one shorter block."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    state, slopes, length, outs, start = state.to(dtype), slopes.to(dtype), q.shape[1], [], 0
    if length == 1:
        return _step(q, k, v, slopes, state)
    while start < length:
        left = min(length - start, _segment(q))
        size = min(left, BLOCK, q.shape[3])
        piece = slice(start, start + left - left % size)
        out, state = _blocks(*(x[:, piece].to(dtype) for x in (q, k, v)), slopes, state, size)
        outs.append(out.to(q.dtype))
        start = piece.stop
    return outs[0] if len(outs) == 1 else torch.cat(outs, 1), state


def _segment(x: Tensor) -> int:
    """Tokens of a row in a segment of x (batch, length, ...): whole blocks, at least one."""
    tokens = min(SEGMENT, CPU_SEGMENT) if x.device.type == "cpu" else SEGMENT
    return max(1, tokens // len(x) // BLOCK) * BLOCK


def _step(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token, as in the definition."""
    column, row = (x.transpose(1, 2).to(state.dtype) for x in (k, v))  # (batch, heads, 1, head_dim)
    state = torch.exp(-slopes)[:, None, None] * state + column.transpose(-1, -2) * row
    return (q.transpose(1, 2).to(state.dtype) @ state).transpose(1, 2).to(q.dtype), state


def _blocks(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Blocks of `size` tokens all at once: pairs within a block, and states between blocks by one product."""
    q, k, v = (x.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4).contiguous() for x in (q, k, v))
    slope = slopes[:, None, None]  # and q, k, v are (batch, heads, blocks, size, head_dim)
    decay = decays(slope, size + 1)[:, None]  # its row and column 0: the end of the block before
    from_start, to_end, within = decay[..., 1:, :1], decay[..., -1, 1:, None], decay[..., 1:, 1:]

    added = (k * to_end).transpose(-1, -2) @ v  # what each block adds to the state
    steps = torch.cat([state[:, :, None], added[:, :, :-1]], 2).flatten(-2)
    states = (decays(slope * size, steps.shape[2]) @ steps).unflatten(-1, state.shape[-2:])  # before block 0, 1, ...
    out = (q @ k.transpose(-1, -2)).mul_(within) @ v  # in place: on a CPU half of what it took
    out = torch.addcmul(out, q @ states, from_start)
    state = from_start[:, 0, -1:] * states[:, :, -1] + added[:, :, -1]
    return out.permute(0, 2, 3, 1, 4).flatten(1, 2), state


def decays(slope: Tensor, size: int) -> Tensor:
    """slope (heads, 1, 1), positive -> (heads, size, size): exp(-slope (i - j)) at and below the diagonal, 0 above."""
    steps = torch.arange(size, device=slope.device, dtype=slope.dtype)
    return torch.exp(slope * (steps - steps[:, None])).tril()


# ---- the fused backend ---------------------------------------------------------------------------------------------


@cache
def has_fused() -> bool:
    """Whether flash-linear-attention and Triton are installed."""
    return all(importlib.util.find_spec(name) for name in ("fla", "triton"))


def _fused(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

    # The kernels keep states between chunks in the dtype of k, which overflows in fp16; in fp32 they compute in tf32,
    # with as many digits as fp16 and the range of fp32.
    inputs = [x.float() if x.dtype == torch.float16 else x for x in (q, k, v)]
    short = q.shape[1] <= RECURRENT
    kernel, more = (fused_recurrent_simple_gla, {}) if short else (chunk_simple_gla, {"chunk_size": CHUNK})
    state = state.float().contiguous()
    out, state = kernel(*inputs, g_gamma=-slopes, scale=1.0, initial_state=state, output_final_state=True, **more)
    return out.to(q.dtype), state


# ---- into a loaded model -------------------------------------------------------------------------------------------


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


def _forward(self, hidden_states, position_embeddings=None, attention_mask=None, past_key_values=None, **kwargs):
    """In place of MiniMaxLightningAttention.forward: (batch, length, hidden) in and out, and the new state.

    attention_mask: (batch, length), 0 at pads, or None.
    """
    state = None if past_key_values is None else past_key_values.get_linear_cache(self.layer_idx)
    state = state if isinstance(state, Tensor) else None
    qkv = self.qkv_proj(hidden_states)
    gate = self.output_gate(hidden_states)
    fast = self.lightning_backend == "fused" and not (torch.is_grad_enabled() and qkv.requires_grad)
    out, state = (_attend_fast if fast else _attend)(self, qkv, attention_mask, state)
    out = (_norm_and_gate_fast if fast else _norm_and_gate)(self.norm, out, gate)
    if past_key_values is not None:
        past_key_values.set_linear_cache(self.layer_idx, state)
    return self.out_proj(out), state


@cache
def _slopes_on(heads: int, layer: int, layers: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a tensor made in inference mode could not serve in training later
        return slopes(heads, layer, layers, device)


def _rates(layer, device: torch.device) -> Tensor:
    return _slopes_on(layer.num_attention_heads, layer.layer_idx, layer.num_hidden_layers, device)


def _attend(layer, qkv: Tensor, mask: Tensor | None, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """From qkv before the silu to (batch, length, heads * head_dim); fp32 where the model is fp16, for its range."""
    outs, size = [], _segment(qkv) if layer.lightning_backend == "torch" else qkv.shape[1]
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
