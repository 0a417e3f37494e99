"""MiniMaxConfig accepts the published config.json and builds another model from it, without a word.

What      MiniMax-Text-01's config.json has attn_type_list (0: lightning, 1: softmax) and, for the residual factors,
          layernorm_*_alpha and _beta; MiniMaxConfig calls them layer_types, *_alpha_factor and *_beta_factor.
Expected  MiniMaxConfig(**published) either understands the published names or refuses them.
Seen      they are stored as attributes that nothing reads. layer_types becomes full, linear, full, ...: 50 of 80 layers
          are of the wrong kind. The three alphas become 1 instead of 3.56. from_pretrained with such a config reports
          the weights that those layers miss; of the alphas, nothing tells.
Where     configuration_minimax.py: the defaults, which no published checkpoint has, and attribute_map.
Fix       attribute_map = {"layernorm_full_attention_alpha": "full_attn_alpha_factor", ...} for the six factors; where
          layer_types is made,
              if attn_type_list is not None:
                  layer_types = ["full_attention" if kind else "linear_attention" for kind in attn_type_list]
          and else a default as published: full_attention where (i + 1) % 8 == 0.

    python half_renamed.py      # exit code 1: the trap is there; 0: it is not
"""

import sys

from transformers import MiniMaxConfig

# From https://huggingface.co/MiniMaxAI/MiniMax-Text-01/blob/main/config.json
ALPHA = 3.5565588200778455
PUBLISHED = {
    "attn_type_list": [1 if layer % 8 == 7 else 0 for layer in range(80)],
    "head_dim": 128,
    "hidden_size": 6144,
    "intermediate_size": 9216,
    "layernorm_full_attention_alpha": ALPHA,
    "layernorm_full_attention_beta": 1.0,
    "layernorm_linear_attention_alpha": ALPHA,
    "layernorm_linear_attention_beta": 1.0,
    "layernorm_mlp_alpha": ALPHA,
    "layernorm_mlp_beta": 1.0,
    "max_position_embeddings": 10240000,
    "num_attention_heads": 64,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "postnorm": True,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000000,
    "rotary_dim": 64,
    "vocab_size": 200064,
}
RIGHT = 0  # layers and alphas that are wrong


def figures() -> dict[str, float]:
    """How much of the model is another than config.json describes; 0 if the config is refused."""
    wanted = ["full_attention" if kind else "linear_attention" for kind in PUBLISHED["attn_type_list"]]
    try:
        config = MiniMaxConfig(**PUBLISHED)
        layers, factors = config.layer_types, ("full_attn", "linear_attn", "mlp")
        alphas = [getattr(config, f"{name}_alpha_factor") for name in factors]
    except (TypeError, ValueError) as refusal:
        if "attn_type_list" not in str(refusal):
            raise
        layers, alphas = wanted, [ALPHA] * 3
    return {
        "wrong layers of 80": float(sum(got != want for got, want in zip(layers, wanted, strict=True))),
        "wrong alphas of 3": float(sum(alpha != ALPHA for alpha in alphas)),
    }


def main() -> int:
    found = figures()
    print("half_renamed:", "; ".join(f"{k} {v:.2g}" for k, v in found.items()))
    return int(any(v > RIGHT for v in found.values()))


if __name__ == "__main__":
    sys.exit(main())
