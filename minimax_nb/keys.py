"""The keys of MiniMax's config.json: their names in Transformers, which are kept, and which are refused."""

from . import values
from .errors import ConfigError

MARKER = "minimax_nb"
ORIGINAL_TYPES = ("minimax_text_01", "minimax_m1")
OTHER_MODELS = {"minimax_m2": "MiniMax-M2", "minimax_vl_01": "MiniMax-VL-01"}
LAYER_TYPES = ("linear_attention", "full_attention")  # attn_type_list says 0 or 1
FACTORS = {
    f"layernorm_{old}_{factor}": f"{new}_{factor}_factor"
    for old, new in {"full_attention": "full_attn", "linear_attention": "linear_attn", "mlp": "mlp"}.items()
    for factor in ("alpha", "beta")
}
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "num_local_experts",
    "num_experts_per_tok",
    "vocab_size",
)
# What the native class always does. A config that asks for anything else describes another model.
FIXED = {
    "postnorm": (True, "only post-norm layers are supported"),
    "shared_intermediate_size": (0, "shared experts are not supported"),
    "hidden_act": ("silu", "only silu is supported"),
    "sliding_window": (None, "sliding-window attention is not supported"),
    "rope_scaling": (None, "scaled RoPE is not supported"),
    "quantization_config": (None, "quantised weights are not supported, convert the unquantised checkpoint"),
}
# Keys that keep their name and their meaning, each with its check. Whatever else a config holds stays behind:
# some keys choose code that Transformers would fetch and run (attn_implementation), some it cannot take
# (use_return_dict), and the others it would ignore.
KEPT = {
    **dict.fromkeys((*SIZES, "head_dim", "max_position_embeddings"), values.positive_int),
    **dict.fromkeys(("output_router_logits", "tie_word_embeddings", "use_cache"), values.flag),
    "attention_dropout": values.between(0, 1),
    "router_aux_loss_coef": values.between(0, 1),
    "router_jitter_noise": values.between(0, 1),
    **dict.fromkeys(("dtype", "torch_dtype"), values.word("float64", "float32", "float16", "bfloat16")),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), None),  # they depend on vocab_size
    "block_size": values.positive_int,
    "hidden_act": None,  # these two are among FIXED
    "sliding_window": None,
    "initializer_range": values.positive,
    "rms_norm_eps": values.positive,
}
SAYS_WHICH_CODE = (  # parts of keys
    "implementation",
    "kernel",
    "auto_map",
    "auto_class",
    "custom_generate",
    "extra_config_files",
    "extra_files",
    "per_layer_config",
    "_plan",
)


def dropped_keys(config: dict) -> list[str]:
    """Keys that have no counterpart and no meaning in a converted config, in their order."""
    known = {*KEPT, *FIXED, *FACTORS, *FACTORS.values(), "architectures", "model_type"}
    known |= {"attn_type_list", "layer_types", "rope_theta", "rotary_dim", "rope_parameters", "partial_rotary_factor"}
    return [key for key in config if key not in known]


def says_which_code(key: str) -> bool:
    """Whether a key of this name can choose the code that Transformers runs."""
    return any(part in key for part in SAYS_WHICH_CODE)


def refuse_code_keys(config: dict) -> None:
    """Refuse keys by which a folder chooses the code that runs: Transformers would fetch some from the hub."""
    for key, value in config.items():
        chosen = value is not None and not isinstance(value, bool)
        if chosen and says_which_code(key):
            why = "a folder must not choose which code runs"
            raise ConfigError(f"{key} is {values.shown(value)}: {why}, delete the key")
