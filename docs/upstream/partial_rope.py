"""Partial RoPE is ignored: every dim of a head is rotated.

What      MiniMax-Text-01 and M1 rotate the first 64 of 128 dims of each head (rotary_dim 64, head_dim 128).
Expected  rotary_dim, or partial_rotary_factor, decides how many dims are rotated.
Seen      5.23.0: neither changes anything, and the softmax layer's output is off by most of its size. 4.57.6: the same
          for rotary_dim; partial_rotary_factor gives cos and sin for half a head, and rotating with them raises.
Where     MiniMaxRotaryEmbedding.compute_default_rope_parameters knows no partial_rotary_factor; apply_rotary_pos_emb
          multiplies whole heads; MiniMaxConfig keeps rotary_dim as an attribute that nothing reads.
Fix       as was done for minimax_m2 (huggingface/transformers, pull request 48486): convert_rope_params_to_dict of the
          config sets partial_rotary_factor to rotary_dim / head_dim; compute_default_rope_parameters takes
          dim = int(head_dim * partial_rotary_factor); apply_rotary_pos_emb rotates the first cos.shape[-1] dims and
          passes the others through.

The yardstick is the softmax layer computed naively, in float64, from the input that the model gave to it.

    python partial_rope.py      # exit code 1: the trap is there; 0: it is not
"""

import sys

import torch
from transformers import MiniMaxConfig, MiniMaxForCausalLM

HEADS, HEAD_DIM, ROTARY, THETA, LENGTH = 4, 16, 8, 1e7, 40
RIGHT = 1e-4  # relative error of the layer's output; float32 alone gives some 1e-7


def model(**rope) -> MiniMaxForCausalLM:
    """One softmax layer, random, its q and k large enough for peaked attention, as in a trained model."""
    sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=16, num_local_experts=2, num_hidden_layers=1)
    heads = dict(num_attention_heads=HEADS, num_key_value_heads=HEADS, head_dim=HEAD_DIM, rope_theta=THETA)
    made = MiniMaxForCausalLM(MiniMaxConfig(**sizes, **heads, layer_types=["full_attention"], **rope)).eval()
    attention = made.model.layers[0].self_attn
    torch.manual_seed(0)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        torch.nn.init.normal_(getattr(attention, name).weight, std=0.5)
    torch.nn.init.normal_(made.model.embed_tokens.weight)
    return made


def rotate(x: torch.Tensor, rotary: int) -> torch.Tensor:
    """By definition: turn the dims (j, j + rotary/2) of x (heads, length, dim) by position * theta^(-2j/rotary)."""
    frequency = THETA ** (-torch.arange(0, rotary, 2, dtype=torch.float64) / rotary)
    angle = torch.arange(x.shape[1])[:, None] * frequency
    a, b, rest = x[..., : rotary // 2], x[..., rotary // 2 : rotary], x[..., rotary:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin(), rest], -1)


def by_definition(layer: torch.nn.Module, h: torch.Tensor, rotary: int) -> torch.Tensor:
    """Causal softmax attention in float64, (length, hidden) in and out."""
    weights = (layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight)
    q, k, v = ((h.double() @ w.double().T).view(len(h), HEADS, HEAD_DIM).transpose(0, 1) for w in weights)
    scores = rotate(q, rotary) @ rotate(k, rotary).mT / HEAD_DIM**0.5
    scores = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), float("-inf"))
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1) @ layer.o_proj.weight.double().T


@torch.no_grad()
def error(rotary: int, **rope) -> float | str:
    """Relative error of the layer's output, or the name of what the model raised."""
    made, seen = model(**rope), {}
    layer = made.model.layers[0].self_attn
    layer.register_forward_hook(
        lambda _, args, kwargs, out: seen.update(h=kwargs["hidden_states"][0], out=out[0][0]), with_kwargs=True
    )
    try:
        made(torch.arange(LENGTH)[None])
    except RuntimeError as problem:
        return type(problem).__name__
    want = by_definition(layer, seen["h"], rotary)
    return ((seen["out"].double() - want).norm() / want.norm()).item()


def figures() -> dict[str, float | str]:
    if error(HEAD_DIM) > RIGHT:
        raise SystemExit("partial_rope: full RoPE disagrees with the yardstick too, so this script no longer fits")
    factor = ROTARY / HEAD_DIM
    return {
        "error, rotary_dim": error(ROTARY, rotary_dim=ROTARY),
        "error, partial_rotary_factor": error(ROTARY, partial_rotary_factor=factor),
    }


def main() -> int:
    found = figures()
    print("partial_rope:", "; ".join(f"{k} {v if isinstance(v, str) else f'{v:.2g}'}" for k, v in found.items()))
    return int(any(isinstance(v, str) or v > RIGHT for v in found.values()))


if __name__ == "__main__":
    sys.exit(main())
