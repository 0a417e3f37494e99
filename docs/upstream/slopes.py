"""The decay slopes differ from MiniMax's when the number of heads is not a power of two.

What      head h of H decays by exp(-slope_h) a token. MiniMax's code builds the slopes as ALiBi does (Press et al.,
          arXiv 2108.12409): a geometric series for H = 2^n; for another H, the series of the next smaller power of two,
          then every other term of the series of twice as many heads.
Expected  the same slopes, for any H.
Seen      one geometric series over H heads, whatever H. Text-01 and M1 have 64 heads and are right; a model with
          12 or 24 heads, trained with the original code, would not be.
Where     MiniMaxLightningAttention.get_slope_rate. The original: _build_slope_tensor in
          https://huggingface.co/MiniMaxAI/MiniMax-Text-01/blob/main/modeling_minimax_text_01.py
Fix       in get_slope_rate, with n the largest power of two that is not above H,
              rate = [2 ** (-8 * i / n) for i in range(1, n + 1)]
              rate += [2 ** (-4 * i / n) for i in range(1, 2 * (H - n), 2)]
          or a ValueError for such an H.

    python slopes.py            # exit code 1: the trap is there; 0: it is not
"""

import sys

import torch
from transformers import MiniMaxConfig, MiniMaxForCausalLM

RIGHT = 1e-4  # relative difference


def by_definition(heads: int) -> torch.Tensor:
    """The slopes of layer 0, before the factor of the layer."""
    power = 2 ** (heads.bit_length() - 1)
    first = [2 ** (-8 * i / power) for i in range(1, power + 1)]
    return torch.tensor(first + [2 ** (-4 * i / power) for i in range(1, 2 * (heads - power), 2)], dtype=torch.float64)


def error(heads: int) -> float:
    """The norm of the slopes' error in layer 0 of 2, relative to the norm of the slopes; 1 if they are refused."""
    sizes = dict(vocab_size=8, hidden_size=16, intermediate_size=8, num_local_experts=2, num_hidden_layers=2)
    width = dict(num_attention_heads=heads, num_key_value_heads=heads, head_dim=4)
    try:
        made = MiniMaxForCausalLM(MiniMaxConfig(**sizes, **width, layer_types=["linear_attention", "full_attention"]))
    except ValueError:
        return 0.0
    want = by_definition(heads)
    return ((made.model.layers[0].self_attn.slope_rate.flatten() - want).norm() / want.norm()).item()


def figures() -> dict[str, float]:
    return {f"error, {heads} heads": error(heads) for heads in (64, 12, 24)}


def main() -> int:
    found = figures()
    print("slopes:", "; ".join(f"{k} {v:.2g}" for k, v in found.items()))
    return int(any(v > RIGHT for v in found.values()))


if __name__ == "__main__":
    sys.exit(main())
