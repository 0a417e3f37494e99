"""MiniMax-Text-01 as it was published: the sizes of the model, and its config.json in the original format.

    original_config()                                          # 80 layers, 456 B parameters
    original_config(num_hidden_layers=8, hidden_size=128)      # another size, the same architecture

The values are those of config.json in MiniMaxAI/MiniMax-Text-01; MiniMax-M1's differs in its name alone.
"""

LAYERS = 80
PERIOD = 8  # seven lightning layers, then one of softmax attention
ALPHA_AND_BETA = ("full_attention", "linear_attention", "mlp")
# Buffers of a lightning layer that Transformers computes from the config, by the end of their names. They are no
# weights and in no checkpoint of MiniMax's; `save_pretrained` writes them.
DECAY_TABLES = ("query_decay", "key_decay", "diagonal_decay")
DECAY_BUFFERS = ("slope_rate", *DECAY_TABLES)


def original_config(**changes) -> dict:
    """The original config.json, with `changes`.

    The kinds of layer and alpha follow the number of layers where they are not given: alpha is (2 layers)^(1/4),
    DeepNorm's (arXiv 2501.08313, section 2.2).
    """
    layers = changes.get("num_hidden_layers", LAYERS)
    config = {
        "architectures": ["MiniMaxText01ForCausalLM"],
        "attention_dropout": 0.0,
        "attn_type_list": [1 if layer % PERIOD == PERIOD - 1 else 0 for layer in range(layers)],
        "auto_map": {
            "AutoConfig": "configuration_minimax_text_01.MiniMaxText01Config",
            "AutoModelForCausalLM": "modeling_minimax_text_01.MiniMaxText01ForCausalLM",
        },
        "bos_token_id": None,
        "eos_token_id": None,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 6144,
        "initializer_range": 0.02,
        "intermediate_size": 9216,
    }
    for sublayer in ALPHA_AND_BETA:
        config |= {f"layernorm_{sublayer}_alpha": (2 * layers) ** 0.25, f"layernorm_{sublayer}_beta": 1.0}
    config |= {
        "max_position_embeddings": 10240000,
        "model_type": "minimax_text_01",
        "num_attention_heads": 64,
        "num_experts_per_tok": 2,
        "num_hidden_layers": layers,
        "num_key_value_heads": 8,
        "num_local_experts": 32,
        "output_router_logits": False,
        "postnorm": True,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000000,
        "rotary_dim": 64,
        "router_aux_loss_coef": 0.001,
        "router_jitter_noise": 0.0,
        "shared_intermediate_size": 0,
        "shared_moe_mode": "sigmoid",
        "sliding_window": None,
        "tie_word_embeddings": False,
        "transformers_version": "4.45.2",
        "use_cache": True,
        "vocab_size": 200064,
    }
    return config | changes
