"""The step: one token a row through the layers of one device, written once for both sets of operations.

A model whose layers lie on several devices is several parts, one after the other. Modules are read for their weights
and never called, so that accelerate's hooks stay on them and cost nothing here. Where layers are split over processes
(minimax_nb.parallel), the sums over them are part of the step.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..lightning.layer import rates_of
from ..parallel.layers import ParallelAttention, ParallelHead, ParallelLightning, ParallelMixture
from ..parallel.ranks import join_last, sum_over_ranks
from .buffers import Buffers, Place


@dataclass
class Part:
    """What one device computes: layers by index, and of the ends what lies on it."""

    device: torch.device
    ops: ModuleType
    layers: list[tuple[int, nn.Module]] = field(default_factory=list)
    embedding: nn.Module | None = None
    norm: nn.Module | None = None
    head: nn.Module | None = None
    rates: dict[int, Tensor] = field(default_factory=dict)  # of each lightning layer, (h,)
    frequencies: Tensor | None = None  # of the rotation, (n / 2,) radians a token
    scale: float = 1.0  # of its cosine and sine
    last: bool = False  # whether no later part has layers on this device


def parts_of(model: nn.Module) -> list[Part]:
    """The model cut where the device changes."""
    body, parts = model.model, []

    def part_on(weight: Tensor) -> Part:
        if not parts or parts[-1].device != weight.device:
            parts.append(Part(weight.device, _operations(weight.device)))
        return parts[-1]

    part_on(body.embed_tokens.weight).embedding = body.embed_tokens
    for index, layer in enumerate(body.layers):
        part = part_on(layer.input_layernorm.weight)
        part.layers.append((index, layer))
        if is_lightning(layer):
            part.rates[index] = _kept(rates_of(layer.self_attn), part.device)
    part_on(body.norm.weight).norm = body.norm
    part_on(model.lm_head.weight).head = model.lm_head
    for part in parts:
        part.last = bool(part.layers) and part is [p for p in parts if p.device == part.device and p.layers][-1]
        part.frequencies = _kept(body.rotary_emb.inv_freq.float(), part.device)
        part.scale = float(body.rotary_emb.attention_scaling)
    return parts


def is_lightning(layer: nn.Module) -> bool:
    return hasattr(layer.self_attn, "qkv_proj")


def run(part: Part, x: Tensor, buffers: Buffers) -> Tensor:
    """From token ids (b,) where the part begins with the embedding, else hidden states (b, d); to such, or logits."""
    ops, place = part.ops, buffers.places.get(part.device)
    if part.embedding is not None:
        x = F.embedding(x, part.embedding.weight)
    norms = [layer.input_layernorm for _, layer in part.layers] + ([part.norm] if part.norm is not None else [])
    if norms:
        x = ops.norm(x, norms[0].weight, norms[0].variance_epsilon)
    for (index, layer), (_, following) in zip(part.layers, pairwise([*norms, None]), strict=False):
        if is_lightning(layer):
            new = lightning(ops, layer.self_attn, x, part.rates[index], buffers.states[index])
        else:
            new = softmax(ops, layer.self_attn, x, *buffers.keys[index], place, part.frequencies, part.scale)
        between = layer.post_attention_layernorm
        factors = layer.attn_alpha_factor, layer.attn_beta_factor
        x = ops.sum_norm(x, factors[0], new, factors[1], between.weight, between.variance_epsilon)
        new = mixture(ops, layer.mlp, x)
        factors = layer.mlp_alpha_factor, layer.mlp_beta_factor
        if following is None:  # the next norm is on another device
            x = ops.scaled_sum(x, factors[0], new, factors[1])
        else:
            x = ops.sum_norm(x, factors[0], new, factors[1], following.weight, following.variance_epsilon)
    if part.last:
        ops.advance(place)
    if part.head is None:
        return x
    logits = ops.linear(x, part.head.weight)[0]
    return join_last(logits) if isinstance(part.head, ParallelHead) else logits


def lightning(ops: ModuleType, layer: nn.Module, x: Tensor, rates: Tensor, state: Tensor) -> Tensor:
    qkv, gate = ops.linear(x, layer.qkv_proj.weight, layer.output_gate.weight)
    out = ops.decay_and_read(qkv, rates, state, layer.num_attention_heads)
    gated = ops.norm_and_gate(out, gate, layer.norm.weight, layer.norm.variance_epsilon)
    new = ops.linear(gated, layer.out_proj.weight)[0]
    return layer.joined(new, out) if isinstance(layer, ParallelLightning) else new


def softmax(
    ops: ModuleType,
    layer: nn.Module,
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    place: Place,
    frequencies: Tensor,
    scale: float,
) -> Tensor:
    q, k, v = ops.linear(x, layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight)
    q = ops.rotate_and_keep(q, k, v, keys, values, place, frequencies, scale)
    new = ops.linear(ops.attend(q, keys, values, place), layer.o_proj.weight)[0]
    return sum_over_ranks(new) if isinstance(layer, ParallelAttention) else new


def mixture(ops: ModuleType, layer: nn.Module, x: Tensor) -> Tensor:
    index, weights = ops.route(x, layer.gate.weight, layer.gate.top_k)
    new = ops.experts(layer.experts, x, index, weights)
    return sum_over_ranks(new) if isinstance(layer, ParallelMixture) else new


def _operations(device: torch.device) -> ModuleType:
    if device.type == "cuda":
        from . import triton_ops as ops
    else:
        from . import torch_ops as ops
    return ops


@torch.inference_mode(False)
def _kept(values: Tensor, device: torch.device) -> Tensor:
    return values.clone().to(device)
