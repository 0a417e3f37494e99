"""The demo model: its config, and a forward pass fast enough to train it with.

The weights live in Transformers' own MiniMaxForCausalLM under a converted config, where stock computes what
MiniMax's code computes (tests hold both to the float64 yardstick). Stock's loops over blocks and experts are
slow to train through, so `forward` computes the same from the same parameters in batched form: no cache, no
padding on the left.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import patch_config
from ..lightning.operator import lightning_attention
from ..original import original_config

# rope_theta: the real base, 1e7, is chosen for a million tokens, this one for a thousand.
SIZES = {"num_hidden_layers": 8, "hidden_size": 128, "intermediate_size": 176, "num_local_experts": 4}
SIZES |= {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32, "rotary_dim": 16}
SIZES |= {"rope_theta": 10000, "max_position_embeddings": 8192}


def demo_config(vocab_size: int, **changes) -> dict:
    """The original-format config.json of the demo model: one hybrid period, as MiniMax-Text-01 but for the sizes."""
    return original_config(**SIZES | {"vocab_size": vocab_size} | changes)


def new_model(config: dict, seed: int = 0):
    """A freshly initialised native model (fp32, CPU) for an original config."""
    from transformers import MiniMaxConfig, MiniMaxForCausalLM

    torch.manual_seed(seed)
    return MiniMaxForCausalLM(MiniMaxConfig(**patch_config(config)))


def forward(model, ids: Tensor) -> tuple[Tensor, Tensor]:
    """ids (batch, length) -> logits (batch, length, vocab_size) and the experts' balance loss, a scalar.

    Rows may be padded on the right: every token sees only those before it.
    """
    x = model.model.embed_tokens(ids)
    angle = torch.arange(x.shape[1], device=x.device)[:, None] * model.model.rotary_emb.inv_freq.float()
    rotation = angle.cos(), angle.sin()
    balance = x.new_zeros(())
    for layer in model.model.layers:
        h = layer.input_layernorm(x)
        if layer.block_type == "linear_attention":
            mixed = lightning_sublayer(layer.self_attn, h)
        else:
            mixed = softmax_sublayer(layer.self_attn, h, rotation)
        h = layer.post_attention_layernorm(layer.attn_alpha_factor * h + layer.attn_beta_factor * mixed)
        mixed, uneven = mixture_of_experts(layer.mlp, h)
        x = layer.mlp_alpha_factor * h + layer.mlp_beta_factor * mixed
        balance = balance + uneven
    return model.lm_head(model.model.norm(x)), balance / len(model.model.layers)


def lightning_sublayer(attention, h: Tensor) -> Tensor:
    """(batch, length, hidden) in and out, with gradients."""
    qkv = F.silu(attention.qkv_proj(h)).unflatten(-1, (attention.num_attention_heads, 3, attention.head_dim))
    q, k, v = qkv.unbind(3)  # (batch, length, heads, head_dim)
    out, _ = lightning_attention(q, k, v, attention.slope_rate.float().flatten(), backend="torch")
    gate = torch.sigmoid(attention.output_gate(h))
    return attention.out_proj(gate * attention.norm(out.flatten(2)))


def softmax_sublayer(attention, h: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """(batch, length, hidden) in and out: causal, grouped KV heads, RoPE as the converted config lays it out."""
    batch, length, _ = h.shape
    q, k, v = (
        projection(h).view(batch, length, -1, attention.head_dim).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    q, k = rotate(q, *rotation), rotate(k, *rotation)
    groups = attention.num_key_value_groups
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    out = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
    return attention.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def mixture_of_experts(block, h: Tensor) -> tuple[Tensor, Tensor]:
    """(batch, length, hidden) in and out, and the Switch balance loss (arXiv 2101.03961, equations 4 to 6).

    All experts compute every token and the unchosen are weighted 0: at this size one wide product beats a
    dispatch.
    """
    experts, count = block.experts, block.experts.num_experts
    scores = F.linear(h, block.gate.weight).float().softmax(-1)
    top, chosen = scores.topk(block.top_k, -1)
    weight = torch.zeros_like(scores).scatter(-1, chosen, top / top.sum(-1, keepdim=True))
    gate, up = F.linear(h, experts.gate_up_proj.flatten(0, 1)).unflatten(-1, (count, -1)).chunk(2, -1)
    hidden = F.silu(gate) * up * weight.to(gate.dtype)[..., None]
    out = F.linear(hidden.flatten(-2), experts.down_proj.transpose(0, 1).flatten(1))
    share = (weight > 0).float().mean((0, 1)) / block.top_k
    return out, count * (share * scores.mean((0, 1))).sum()


@torch.inference_mode()
def greedy(
    model, prompts: list[list[int]], eos: int, max_new_tokens: int = 160, batch_size: int = 128
) -> list[list[int]]:
    """Greedy replies to rows of token ids, each recomputed from its first token: slow, and no cache to trust."""
    order, replies = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), [[] for _ in prompts]
    for start in range(0, len(order), batch_size):
        rows = {i: list(prompts[i]) for i in order[start : start + batch_size]}
        for _ in range(max_new_tokens):
            longest = max(map(len, rows.values()))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows.values()], device=model.device)
            ends = torch.tensor([len(row) - 1 for row in rows.values()], device=model.device)
            best = forward(model, ids)[0][torch.arange(len(ids), device=model.device), ends].argmax(-1).tolist()
            for i, token in zip(list(rows), best, strict=True):
                rows[i].append(token)
                replies[i].append(token)
                if token == eos:
                    del rows[i]
            if not rows:
                break
    return replies
