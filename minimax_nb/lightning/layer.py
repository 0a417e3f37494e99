"""Lightning attention in a loaded model: its layers compute with a backend of ours, or with Transformers' own.

    use_lightning(model)             # "fused" on a CUDA GPU with flash-linear-attention, else "torch"

Weights and module tree stay as they are, and so does everything else that the model does. The layers become
`LightningAttention`, a subclass of Transformers' class, so that a switched model can be saved, copied and sent to
another process like any other.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention, MiniMaxModel
from transformers.utils import is_tracing

from ..classes import change_class
from ..original import DECAY_TABLES
from .backends import Sizes, choose
from .boundaries import Boundaries, hand_down
from .operator import attend, document_begins, segment_length, slopes
from .training import Rows, attend_norm_gate

# Arguments that Transformers sends through all layers and that change nothing here, or that `hand_down` dealt with.
UNUSED = ("position_ids", "use_cache", "seq_idx", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
UNUSED += ("output_attentions", "output_hidden_states", "output_router_logits", "token_type_ids")
UNUSED += ("num_items_in_batch", "shift_labels")  # of the loss
UNUSED += ("tokenizer", "assistant_tokenizer")  # of generate, which reads stop strings with it and passes it on


def use_lightning(model: torch.nn.Module, backend: str = "auto") -> str:
    """Let the lightning layers of a loaded native model compute with `backend`; return which it is.

    "stock" is Transformers' own forward pass again. Weights and module tree stay; the decay tables, which only stock
    reads, are freed and rebuilt. Works under accelerate's hooks. ValueError for a model without lightning layers,
    RuntimeError for "fused" where it cannot run.
    """
    layers = lightning_layers(model)
    on_gpu = all(layer.out_proj.weight.device.type in ("cuda", "meta") for layer in layers)
    backend = choose(backend, on_gpu, sizes_of(layers[0]) if on_gpu else None)
    for layer in layers:
        _set_class(layer, MiniMaxLightningAttention if backend == "stock" else LightningAttention)
        layer.lightning_backend = backend
    for module in model.modules():
        if isinstance(module, MiniMaxModel):
            _set_hook(module, wanted=backend != "stock")
    return backend


def lightning_layers(model: torch.nn.Module) -> list[MiniMaxLightningAttention]:
    """The lightning attention modules of a native model, first to last. ValueError if there are none."""
    layers = [module for module in model.modules() if isinstance(module, MiniMaxLightningAttention)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no lightning layers: load a converted MiniMax folder")
    return layers


def rebuild_decays(model: torch.nn.Module) -> None:
    """Compute the decay buffers of stock's lightning layers anew, in fp32, then in the model's dtype.

    A folder saved in half precision holds them rounded, and they would stay so in a model loaded in fp32.
    """
    for layer in lightning_layers(model):
        if layer.slope_rate.device.type != "meta":  # offloaded by accelerate
            layer.slope_rate.copy_(layer.get_slope_rate())
        if type(layer) is MiniMaxLightningAttention:
            _give_tables(layer)


def sizes_of(layer: MiniMaxLightningAttention) -> Sizes:
    """What the fused kernels are compiled for."""
    return Sizes(layer.num_attention_heads, layer.head_dim, str(layer.out_proj.weight.dtype).removeprefix("torch."))


class LightningAttention(MiniMaxLightningAttention):
    """Transformers' lightning layer with our forward pass. Made of a loaded layer by `use_lightning`, never built.

    The three decay tables, 0.6 GB in the 70 layers of the real model, are not kept: their buffers are empty, and the
    tables are computed when someone asks for them, as saving and Transformers' initialisation do.
    """

    lightning_backend: str
    whole = True  # has all heads; minimax_nb.parallel splits them, and computes no gradients

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings=None,
        attention_mask: Tensor | None = None,
        cache=None,
        past_key_values=None,
        boundaries: Boundaries | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor]:
        """(batch, length, hidden) in and out, and the new state.

        attention_mask: (batch, length), 0 at pads, or None; used where no `boundaries` come from the model.
        """
        _refuse(kwargs)
        if boundaries is None:
            boundaries = Boundaries(None if attention_mask is None else attention_mask.bool())
        boundaries = boundaries.on(hidden_states.device)
        kept = past_key_values if cache is None else cache  # the argument's name before Transformers 5.24
        state = None if kept is None else _state_in(kept, self.layer_idx)

        training = _needs_gradient(self, hidden_states)
        by_hand = training and self.whole and self.lightning_backend == "torch"
        if by_hand and hidden_states.shape[1] > 1 and not is_tracing(hidden_states):
            qkv, gate = self.qkv_proj(hidden_states), self.output_gate(hidden_states)
            out, state = _train(self, qkv, gate, boundaries, state)
            projected = self.out_proj(out)
        else:
            fast = self.lightning_backend == "fused" and not training
            out, state = (_attend_fast if fast else _attend)(self, hidden_states, boundaries, state)
            gate = self.output_gate(hidden_states)  # now, when q, k and v are gone: a long prompt needs the memory
            projected = self._project(out, gate, fast)
        if kept is not None:
            kept.set_linear_cache(self.layer_idx, state)
            kept.fed = boundaries.fed
        return projected, state

    def _project(self, out: Tensor, gate: Tensor, fast: bool) -> Tensor:
        """The layer's output from what its heads read of their states, (batch, length, heads * head_dim)."""
        return self.out_proj((_norm_and_gate_fast if fast else _norm_and_gate)(self.norm, out, gate))

    query_decay = property(lambda self: _tables(self)["query_decay"])
    key_decay = property(lambda self: _tables(self)["key_decay"])
    diagonal_decay = property(lambda self: _tables(self)["diagonal_decay"])

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        """With the tables, so that stock Transformers reads what it wrote itself; in fp32 whatever the model is in."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, table in _tables(self).items():
            destination[prefix + name] = table

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):
        """Tables are neither needed nor superfluous."""
        for name in DECAY_TABLES:
            state_dict[prefix + name] = self._buffers[name]
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)


def _tables(layer: MiniMaxLightningAttention) -> dict[str, Tensor]:
    """Stock's three decay tables, in fp32 on the CPU."""
    made = layer.decay_factors(layer.get_slope_rate())
    return dict(zip(DECAY_TABLES, made, strict=True))


def _give_tables(layer: MiniMaxLightningAttention) -> None:
    for name, table in _tables(layer).items():
        layer.register_buffer(name, table.to(layer.slope_rate))


def _set_class(layer: MiniMaxLightningAttention, wanted: type) -> None:
    """Give a layer its class, and its tables or not. A split layer keeps its class, which is ours too."""
    if type(layer) is wanted or (wanted is LightningAttention and isinstance(layer, wanted)):
        return
    if hasattr(layer, "all_heads"):
        raise ValueError("Transformers' own lightning layers cannot be split over ranks: leave out 'stock', or tp=True")
    if wanted is LightningAttention:
        for name in DECAY_TABLES:
            setattr(layer, name, layer.slope_rate.new_empty(0))  # the buffer stays under its name
    change_class(layer, wanted)
    if wanted is MiniMaxLightningAttention:
        _give_tables(layer)


def _set_hook(model: MiniMaxModel, wanted: bool) -> None:
    """Call `hand_down` before each forward pass, once."""
    for key in [key for key, hook in model._forward_pre_hooks.items() if hook is hand_down]:
        del model._forward_pre_hooks[key], model._forward_pre_hooks_with_kwargs[key]
    if wanted:
        model.register_forward_pre_hook(hand_down, with_kwargs=True)


def _refuse(kwargs: dict) -> None:
    """TypeError for an argument that would be swallowed: it may change the result, or be a cache under a new name."""
    unknown = [name for name, value in kwargs.items() if name not in UNUSED and value is not None]
    if kwargs.get("is_causal", False):  # what these layers are
        unknown.remove("is_causal")
    if unknown:
        raise TypeError(f"lightning attention does not know the argument {unknown[0]!r}: leave it out")


def _state_in(cache, layer: int) -> Tensor | None:
    """The state that the cache holds for a layer, (batch, heads, head_dim, head_dim)."""
    states = cache.linear_cache
    return states[layer] if layer < len(states) and isinstance(states[layer], Tensor) else None


def rates_of(layer, device: torch.device | None = None) -> Tensor:
    """The slopes of a layer's heads, (heads,): of a part of them where the layer is split (minimax_nb.parallel)."""
    heads, first = _heads(layer)
    rates = slopes(heads, layer.layer_idx, layer.num_hidden_layers, device)
    return rates[first : first + layer.num_attention_heads]


def _heads(layer) -> tuple[int, int]:
    """How many heads there are in all, and the first that this layer has."""
    return getattr(layer, "all_heads", layer.num_attention_heads), getattr(layer, "first_head", 0)


_KEPT: dict[tuple, Tensor] = {}


def _rates(layer, device: torch.device) -> Tensor:
    """The slopes of a layer on a device, computed once: a copy to a GPU in each layer and step would cost time."""
    key = (*_heads(layer), layer.num_attention_heads, layer.layer_idx, layer.num_hidden_layers, device)
    if key in _KEPT:
        return _KEPT[key]
    with torch.inference_mode(False):  # a tensor made in inference mode could not serve in training later
        rates = rates_of(layer, device)
    if not is_tracing(rates):  # a tracer's tensor is no good to anyone else
        _KEPT[key] = rates
    return rates


def _needs_gradient(layer, x: Tensor) -> bool:
    return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in layer.parameters()))


def _attend(layer, x: Tensor, boundaries: Boundaries, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """(batch, length, hidden) to (batch, length, heads * head_dim); fp32 where the model is fp16, for its range."""
    qkv = layer.qkv_proj(x)
    length, outs = qkv.shape[1], []
    in_pieces = layer.lightning_backend == "torch" and boundaries.cu_seqlens is None
    size = segment_length(len(qkv), qkv.device.type) if in_pieces else length
    for start in range(0, length, size):
        piece, mask = layer.act_fn(qkv[:, start : start + size]), boundaries.mask
        if mask is not None:
            mask = mask[:, start : start + size]
            piece = piece.masked_fill(~mask[..., None], 0)
        if piece.dtype == torch.float16 or length == 1:  # one conversion instead of three
            piece = piece.float()
        q, k, v = piece.unflatten(-1, (layer.num_attention_heads, 3, layer.head_dim)).unbind(3)
        gates = mask if boundaries.gated else None
        rates = _rates(layer, qkv.device)
        out, state = attend(q, k, v, rates, state, gates, boundaries.cu_seqlens, layer.lightning_backend)
        outs.append(out)
    return (outs[0] if len(outs) == 1 else torch.cat(outs, 1)).flatten(2), state


def _attend_fast(layer, x: Tensor, boundaries: Boundaries, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same without gradients, and with fewer passes over the data."""
    from .kernels import decode_step, silu_split

    qkv = layer.qkv_proj(x)
    rates, mask = _rates(layer, qkv.device), boundaries.mask
    if qkv.shape[1] == 1 and state is not None:
        return decode_step(qkv, rates, state.float(), layer.num_attention_heads, mask)
    q, k, v = silu_split(qkv, mask, layer.num_attention_heads)
    del qkv  # as large as q, k and v together
    gates = mask if boundaries.gated else None
    out, state = attend(q, k, v, rates, state, gates, boundaries.cu_seqlens, "fused")
    return out.flatten(2), state


def _train(layer, qkv: Tensor, gate: Tensor, boundaries: Boundaries, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention, norm and gate at once, with gradients of our own."""
    cu_seqlens = boundaries.cu_seqlens
    begins = None if cu_seqlens is None else document_begins(cu_seqlens, *qkv.shape[:2])
    rows = Rows(_rates(layer, qkv.device), layer.norm.variance_epsilon, boundaries.mask, boundaries.gated, begins)
    out, state = attend_norm_gate(qkv, gate, layer.norm.weight, state, rows)
    return out, None if cu_seqlens is not None else state


def _norm_and_gate(norm, out: Tensor, gate: Tensor) -> Tensor:
    """sigmoid(gate) * RMSNorm(out), in gate's dtype."""
    normed = F.rms_norm(out.float(), out.shape[-1:], norm.weight.float(), norm.variance_epsilon)
    return F.sigmoid(gate) * normed.to(gate.dtype)


def _norm_and_gate_fast(norm, out: Tensor, gate: Tensor) -> Tensor:
    from .kernels import norm_gate

    return norm_gate(out, gate, norm.weight, norm.variance_epsilon)
