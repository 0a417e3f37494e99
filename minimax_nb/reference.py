"""The yardstick: MiniMax-Text-01 computed naively, in float64, from its definition.

Written from the paper (arXiv 2501.08313, sections 2.1 to 2.3) and the original config's keys, not from the code it
judges. It takes the *original* config and weights, token by token, and is slow on purpose: nothing here is blocked,
cached or fused, so nothing here can go wrong in those ways. It knows no padding (give it one row without pads) and no
cache.

    logits = reference.forward(config, weights, [1, 2, 3])      # (3, vocab_size), float64
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def forward(config: dict, weights: Mapping[str, Tensor], ids: list[int], *, layers: int | None = None) -> Tensor:
    """Logits (len(ids), vocab_size) in float64 of one row of token ids.

    `weights` maps original tensor names to tensors of any dtype and may load lazily: a tensor is asked for when its
    layer is computed, an expert's when a token is routed to it. `layers` stops after the first so many layers (the
    slopes still follow the whole model's depth).
    """
    x = _get(weights, "model.embed_tokens.weight")[ids]
    for layer in range(config["num_hidden_layers"] if layers is None else layers):
        x = decoder_layer(config, weights, layer, x)
    x = rms_norm(x, _get(weights, "model.norm.weight"), config.get("rms_norm_eps", 1e-5))
    return x @ _get(weights, "lm_head.weight").T


def decoder_layer(config: dict, weights: Mapping[str, Tensor], layer: int, x: Tensor) -> Tensor:
    """One post-norm layer, (length, hidden) in and out: h = norm(x); x = alpha h + beta f(h), attention, experts."""
    prefix, eps = f"model.layers.{layer}.", config.get("rms_norm_eps", 1e-5)
    softmax = config["attn_type_list"][layer] == 1
    kind, attention = ("full", softmax_sublayer) if softmax else ("linear", lightning_sublayer)

    h = rms_norm(x, _get(weights, prefix + "input_layernorm.weight"), eps)
    x = _residual(config, f"{kind}_attention", h, attention(config, weights, layer, h))
    h = rms_norm(x, _get(weights, prefix + "post_attention_layernorm.weight"), eps)
    return _residual(config, "mlp", h, mixture_of_experts(config, weights, layer, h))


def lightning_sublayer(config: dict, weights: Mapping[str, Tensor], layer: int, h: Tensor) -> Tensor:
    """(length, hidden) in and out. Per head and token: S = exp(-slope) S + k v^T; out = q S."""
    prefix, head_dim = f"model.layers.{layer}.self_attn.", _head_dim(config)
    qkv = _silu(h @ _get(weights, prefix + "qkv_proj.weight").T)
    q, k, v = qkv.view(1, len(h), config["num_attention_heads"], 3 * head_dim).split(head_dim, -1)
    out, _ = recurrence(q, k, v, slopes(config, layer))
    normed = rms_norm(out[0].flatten(1), _get(weights, prefix + "norm.weight"), 1e-6)
    gate = torch.sigmoid(h @ _get(weights, prefix + "output_gate.weight").T)
    return (gate * normed) @ _get(weights, prefix + "out_proj.weight").T


def recurrence(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Token by token, S = exp(-slope) S + k v^T and out = q S, in float64.

    q, k, v: (batch, length, heads, head_dim) after the silu; slopes: (heads,); state: (batch, heads, head_dim,
    head_dim) or None. Returns out, like q, and the new state.
    """
    decay, state = torch.exp(-slopes.double())[:, None, None], 0.0 if state is None else state.double()
    out = []
    for token in range(q.shape[1]):
        q_t, k_t, v_t = (x[:, token, :, None, :].double() for x in (q, k, v))
        state = decay * state + k_t.transpose(-1, -2) * v_t
        out.append((q_t @ state)[:, :, 0])
    return torch.stack(out, 1), state


def slopes(config: dict, layer: int) -> Tensor:
    """Decay rate per token of each head: 2^(-8(h+1)/H), scaled down towards the last layer. H is a power of two."""
    count, depth = config["num_attention_heads"], config["num_hidden_layers"]
    head = torch.arange(1, count + 1, dtype=torch.float64)
    return 2.0 ** (-8 * head / count) * (1 - layer / max(depth - 1, 1) + 1e-5)


def softmax_sublayer(config: dict, weights: Mapping[str, Tensor], layer: int, h: Tensor) -> Tensor:
    """(length, hidden) in and out. Causal, grouped KV heads, RoPE on the first rotary_dim dims of each head."""
    prefix, head_dim = f"model.layers.{layer}.self_attn.", _head_dim(config)
    q, k, v = (_heads(h @ _get(weights, f"{prefix}{name}_proj.weight").T, head_dim) for name in "qkv")
    q, k = rope(config, q), rope(config, k)
    group = q.shape[1] // k.shape[1]
    out = torch.empty_like(q)
    for head in range(q.shape[1]):
        scores = q[:, head] @ k[:, head // group].T / head_dim**0.5
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf"))
        out[:, head] = scores.softmax(-1) @ v[:, head // group]
    return out.flatten(1) @ _get(weights, prefix + "o_proj.weight").T


def rope(config: dict, x: Tensor) -> Tensor:
    """Rotate dims (j, j + r/2) of x (length, heads, head_dim) by position * theta^(-2j/r), j < r/2, r = rotary_dim."""
    rotary = config.get("rotary_dim", x.shape[-1])
    half = rotary // 2
    frequency = config["rope_theta"] ** (-2 * torch.arange(half, dtype=torch.float64) / rotary)
    angle = torch.arange(len(x), dtype=torch.float64)[:, None, None] * frequency
    a, b, rest = x[..., :half], x[..., half:rotary], x[..., rotary:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), rest], -1)


def mixture_of_experts(config: dict, weights: Mapping[str, Tensor], layer: int, h: Tensor) -> Tensor:
    """(length, hidden) in and out: each token's top-k experts, weighted by their softmax scores made to sum to 1."""
    prefix = f"model.layers.{layer}.block_sparse_moe."
    scores = (h @ _get(weights, prefix + "gate.weight").T).softmax(-1)
    top, chosen = scores.topk(config["num_experts_per_tok"], dim=-1)
    top = top / top.sum(-1, keepdim=True)
    out = torch.zeros_like(h)
    for expert in chosen.unique().tolist():
        w1, w2, w3 = (_get(weights, f"{prefix}experts.{expert}.{name}.weight") for name in ("w1", "w2", "w3"))
        token, slot = (chosen == expert).nonzero(as_tuple=True)
        out[token] += top[token, slot, None] * ((_silu(h[token] @ w1.T) * (h[token] @ w3.T)) @ w2.T)
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, over the last dim."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def _residual(config: dict, name: str, h: Tensor, f: Tensor) -> Tensor:
    return config[f"layernorm_{name}_alpha"] * h + config[f"layernorm_{name}_beta"] * f


def _get(weights: Mapping[str, Tensor], name: str) -> Tensor:
    return weights[name].double()


def _head_dim(config: dict) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _heads(x: Tensor, head_dim: int) -> Tensor:
    return x.view(len(x), -1, head_dim)


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)
