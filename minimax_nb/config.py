"""An original MiniMax config, turned into the config of a converted folder: plain dicts in, plain dicts out.

Stock Transformers rotates whole heads, MiniMax rotates the first `rotary_dim` dims of each. The two agree once the rows
of q_proj and k_proj are reordered (`row_order`) and the base of the rotation is raised (`patch_config`). This module
knows nothing of files or tensors; checkpoint.py does the part on disk. A patched config beside unpatched weights is
wrong: use both or neither.

    native = patch_config(json.loads(Path("config.json").read_text()))
    verify_frequencies(native)          # asks the installed Transformers what it will compute
"""

import copy
import math
from numbers import Real

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
DROPPED = ("auto_map", "transformers_version", "shared_moe_mode", "partial_rotary_factor", "rope_theta", "rotary_dim")
FLOAT32_MAX = 3.4028234663852886e38


def patch_config(config: dict) -> dict:
    """The config of the converted folder, for an original, half-renamed or native config without our marker.

    Right only beside q_proj and k_proj rows in `row_order`; wrong beside the original weights. `config` is left as it
    was. Raises ConfigError. The marker under "minimax_nb" keeps what is needed to check and to convert back.
    """
    model_type = _model_type(config)
    _refuse_unsupported(config)
    sizes = _sizes(config)
    theta, rotary_dim = _rotation(config, sizes["head_dim"])

    renamed = {"attn_type_list", *FACTORS, "postnorm", "shared_intermediate_size", "rope_scaling", *DROPPED}
    native = {key: copy.deepcopy(value) for key, value in config.items() if key not in renamed}
    if model_type in ORIGINAL_TYPES:  # left out, the native class would take 1 and 2 for these
        native = {"bos_token_id": None, "eos_token_id": None, **native}
    native |= {"model_type": "minimax", "architectures": ["MiniMaxForCausalLM"], "head_dim": sizes["head_dim"]}
    native["layer_types"] = _layer_types(config)
    native |= _factors(config)
    native["rope_parameters"] = _rope_parameters(theta, rotary_dim, sizes["head_dim"])
    native[MARKER] = {
        "qk_rows": "permuted",
        "version": 1,
        "model_type": model_type,
        "rotary_dim": rotary_dim,
        "rope_theta": theta,
    }
    return native


def restore_config(native: dict) -> dict:
    """The way back: a config with original keys for a patched one (what `reference.forward` and an exporter read)."""
    marker = native.get(MARKER)
    if not isinstance(marker, dict):
        raise ConfigError(f"no {MARKER} marker: this config was not made by patch_config")
    gone = {MARKER, "layer_types", "rope_parameters", "model_type", "architectures", *FACTORS.values()}
    config = {key: copy.deepcopy(value) for key, value in native.items() if key not in gone}
    config["model_type"] = marker["model_type"] if marker["model_type"] in ORIGINAL_TYPES else ORIGINAL_TYPES[0]
    name = "MiniMaxM1ForCausalLM" if config["model_type"] == "minimax_m1" else "MiniMaxText01ForCausalLM"
    config["architectures"] = [name]
    config["attn_type_list"] = [LAYER_TYPES.index(kind) for kind in native["layer_types"]]
    config |= {old: native[new] for old, new in FACTORS.items()}
    config |= {"rope_theta": marker["rope_theta"], "rotary_dim": marker["rotary_dim"]}
    return config | {"postnorm": True, "shared_intermediate_size": 0}


def row_order(head_dim: int, rotary_dim: int) -> list[int]:
    """Where each row of a converted head comes from: converted[i] = original[order[i]].

    MiniMax pairs dims (j, j + rotary_dim/2), stock pairs (j, j + head_dim/2). So the first half of the rotated dims
    stays, the second half moves to head_dim/2, and the unrotated dims fill what is left, in order.
    """
    if rotary_dim % 2 or head_dim % 2 or not 0 < rotary_dim <= head_dim:
        raise ConfigError(f"rotary_dim is {rotary_dim}, head_dim {head_dim}: both must be even, the first not larger")
    rotated = rotary_dim // 2
    rest = list(range(rotary_dim, head_dim))
    kept = head_dim // 2 - rotated
    return [*range(rotated), *rest[:kept], *range(rotated, rotary_dim), *rest[kept:]]


def wanted_frequencies(native: dict) -> list[float]:
    """head_dim/2 angles per position, in radians: theta^(-2j/rotary_dim) for the rotated pairs, then zeros."""
    marker = native[MARKER]
    rotary_dim = marker["rotary_dim"]
    rotated = [float(marker["rope_theta"]) ** (-2 * j / rotary_dim) for j in range(rotary_dim // 2)]
    return rotated + [0.0] * (native["head_dim"] // 2 - len(rotated))


def stock_frequencies(native: dict) -> list[float]:
    """The head_dim/2 angles per position that the installed Transformers computes from a patched config."""
    from transformers import MiniMaxConfig
    from transformers.models.minimax.modeling_minimax import MiniMaxRotaryEmbedding

    try:
        rotation = MiniMaxRotaryEmbedding(MiniMaxConfig(**copy.deepcopy(native)))
    except Exception as error:  # its validators raise several types
        raise ConfigError(f"Transformers refuses a value ({error}): correct it in config.json") from None
    if rotation.attention_scaling != 1:
        raise ConfigError(f"rope_parameters: Transformers scales by {rotation.attention_scaling}, MiniMax does not")
    return rotation.inv_freq.tolist()


def verify_frequencies(native: dict) -> float:
    """The largest relative difference of stock frequencies from the wanted ones; ConfigError above 1e-5."""
    wanted, stock = wanted_frequencies(native), stock_frequencies(native)
    if len(wanted) != len(stock):
        raise ConfigError(f"rope_parameters: Transformers makes {len(stock)} frequencies, the model has {len(wanted)}")
    worst = 0.0
    for j, (want, got) in enumerate(zip(wanted, stock, strict=True)):
        off = abs(got - want) / want if want else float(got != 0)
        if not off <= 1e-5:
            raise ConfigError(
                f"rotary_dim, rope_theta: for pair {j} Transformers would rotate by {got:.6g} instead of {want:.6g}; "
                "if rope_parameters was edited, convert the original again, else this Transformers cannot compute it"
            )
        worst = max(worst, off)
    return worst


def _model_type(config: dict) -> str:
    if not isinstance(config, dict):
        raise ConfigError(f"a config is a JSON object, not a {type(config).__name__}")
    if MARKER in config:
        raise ConfigError(f"{MARKER}: already converted; use the folder as it is, or start from the original one")
    model_type = _get(config, "model_type")
    if not isinstance(model_type, str):
        raise ConfigError(f"model_type is {model_type!r}: copy it from the original config.json")
    if model_type in OTHER_MODELS:
        name = OTHER_MODELS[model_type]
        raise ConfigError(
            f"model_type is {model_type!r}: {name} is a different architecture, only Text-01 and M1 convert"
        )
    if model_type not in (*ORIGINAL_TYPES, "minimax"):
        raise ConfigError(f"model_type is {model_type!r}, not one of {', '.join(ORIGINAL_TYPES)}, minimax")
    if model_type in ORIGINAL_TYPES:
        _get(config, "postnorm")  # the original's default is pre-norm, so silence does not mean yes
    return model_type


def _refuse_unsupported(config: dict) -> None:
    for key, (value, reason) in FIXED.items():
        if key in config and (config[key] != value or isinstance(config[key], bool) != isinstance(value, bool)):
            raise ConfigError(f"{key} is {config[key]!r}, not {value!r}: {reason}")


def _sizes(config: dict) -> dict[str, int]:
    sizes = {key: _positive_int(key, _get(config, key)) for key in SIZES}
    heads, kv_heads, hidden = (sizes[key] for key in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    if heads & (heads - 1):
        raise ConfigError(
            f"num_attention_heads is {heads}, not a power of two: stock computes other decay rates for it"
        )
    if heads % kv_heads:
        raise ConfigError(f"num_key_value_heads is {kv_heads}, which does not divide num_attention_heads {heads}")
    if sizes["num_experts_per_tok"] > sizes["num_local_experts"]:
        raise ConfigError("num_experts_per_tok is larger than num_local_experts: set it to the trained value (2)")
    head_dim = config.get("head_dim")
    if head_dim is None and hidden % heads:
        raise ConfigError(f"head_dim is missing and hidden_size {hidden} is no multiple of {heads} heads: add head_dim")
    sizes["head_dim"] = hidden // heads if head_dim is None else _positive_int("head_dim", head_dim)
    for key in ("block_size", "max_position_embeddings"):
        if key in config:
            _positive_int(key, config[key])
    if "rms_norm_eps" in config:
        _positive("rms_norm_eps", config["rms_norm_eps"])
    return sizes


def _layer_types(config: dict) -> list[str]:
    count, found = config["num_hidden_layers"], {}
    for key, values in {"attn_type_list": (0, 1), "layer_types": LAYER_TYPES}.items():
        if config.get(key) is None:
            continue
        kinds = config[key]
        if not isinstance(kinds, list) or len(kinds) != count:
            what = f"{len(kinds)} entries" if isinstance(kinds, list) else f"a {type(kinds).__name__}"
            raise ConfigError(f"{key} has {what}, but must list num_hidden_layers = {count} values")
        wrong = [kind for kind in kinds if isinstance(kind, bool | float) or kind not in values]
        if wrong:
            raise ConfigError(f"{key} holds {wrong[0]!r}: each entry must be {values[0]!r} or {values[1]!r}")
        found[key] = [LAYER_TYPES[values.index(kind)] for kind in kinds]
    return _one_of(found, "attn_type_list")


def _factors(config: dict) -> dict[str, float]:
    factors = {}
    for old, new in FACTORS.items():
        found = {key: _number(key, config[key]) for key in (old, new) if config.get(key) is not None}
        factors[new] = _one_of(found, old)
    return factors


def _rotation(config: dict, head_dim: int) -> tuple[float, int]:
    rope = config.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise ConfigError(f"rope_parameters is {rope!r}: without our marker only rope_type 'default' can be converted")
    places = {"rope_theta": config.get("rope_theta"), "rope_parameters.rope_theta": rope.get("rope_theta")}
    theta = _one_of({k: _positive(k, value) for k, value in places.items() if value is not None}, "rope_theta")

    rotary_dim = config.get("rotary_dim")
    rotary_dim = head_dim if rotary_dim is None else _positive_int("rotary_dim", rotary_dim)
    if rotary_dim % 2 or rotary_dim > head_dim or head_dim % 2:
        raise ConfigError(
            f"rotary_dim is {rotary_dim}: it must be even and at most head_dim, which is {head_dim} (even)"
        )
    for key, value in {
        "partial_rotary_factor": config.get("partial_rotary_factor"),
        "rope_parameters.partial_rotary_factor": rope.get("partial_rotary_factor"),
    }.items():
        if value is not None and abs(_positive(key, value) * head_dim - rotary_dim) > 0.5:
            raise ConfigError(f"{key} is {value}, but rotary_dim is {rotary_dim} of head_dim {head_dim}: correct one")
    return theta, rotary_dim


def _rope_parameters(theta: float, rotary_dim: int, head_dim: int) -> dict:
    # "proportional" spaces its frequencies over head_dim; the larger base restores the spacing over rotary_dim.
    try:
        base = float(theta) ** (head_dim / rotary_dim)
    except OverflowError:
        base = math.inf
    if base > FLOAT32_MAX:
        raise ConfigError(
            f"rope_theta is {theta:g}: for rotary_dim {rotary_dim} of head_dim {head_dim} stock would need a base of "
            f"{base:.3g}, more than float32 holds; this model cannot be converted"
        )
    fraction = rotary_dim / head_dim
    if int(fraction * head_dim // 2) != rotary_dim // 2:  # how stock counts the pairs: 30/44 of 44 is 29.99...
        fraction = (rotary_dim + 0.5) / head_dim
    return {"rope_type": "proportional", "rope_theta": base, "partial_rotary_factor": fraction}


def _get(config: dict, key: str):
    if config.get(key) is None:
        raise ConfigError(f"{key} is missing: copy it from the original config.json")
    return config[key]


def _one_of(found: dict, key: str):
    """The value of a key that may be given under two names, which must then agree."""
    if not found:
        raise ConfigError(f"{key} is missing: copy it from the original config.json")
    (first, value), *others = found.items()
    for other, also in others:
        if also != value:
            raise ConfigError(
                f"{first} and {other} contradict each other: delete the one that the model was not trained with"
            )
    return value


def _number(key: str, value) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ConfigError(f"{key} is {value!r}: it must be a finite number")
    return value


def _positive(key: str, value) -> float:
    if _number(key, value) <= 0:
        raise ConfigError(f"{key} is {value!r}: it must be larger than zero")
    return value


def _positive_int(key: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ConfigError(f"{key} is {value!r}: it must be a whole number above zero")
    return value
