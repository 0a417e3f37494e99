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
import threading

from . import values
from .errors import ConfigError
from .keys import FACTORS, FIXED, KEPT, LAYER_TYPES, MARKER, ORIGINAL_TYPES, OTHER_MODELS, SIZES
from .values import COPY, get, shown

MARKED = {"qk_rows": "permuted", "version": 1}
LARGEST_FACTOR = 1e4  # of alpha and beta, in size; MiniMax's are 3.56 and 1, and float16 ends at 65504
LARGEST_BLOCK = 2048  # tokens; a layer holds block_size**2 decays for each head, MiniMax's block_size is 256
_IMPORTING = threading.Lock()  # two threads that import a name of Transformers for the first time can miss it
FLOAT32_MAX = 3.4028234663852886e38


def patch_config(config: dict) -> dict:
    """The config of the converted folder, for an original, half-renamed or native config without our marker.

    Right only beside q_proj and k_proj rows in `row_order`; wrong beside the original weights. `config` is left as it
    was. Raises ConfigError. The marker under "minimax_nb" keeps what is needed to check and to convert back.
    """
    model_type = _model_type(config)
    _refuse_unsupported(config)
    sizes = _sizes(config)
    _check_kept(config, sizes["vocab_size"])
    theta, rotary_dim = _rotation(config, sizes["head_dim"])

    native = {key: copy.deepcopy(value) for key, value in config.items() if key in KEPT}
    if model_type in ORIGINAL_TYPES:  # left out, the native class would take 1 and 2 for these
        native = {"bos_token_id": None, "eos_token_id": None, **native}
    native |= {"model_type": "minimax", "architectures": ["MiniMaxForCausalLM"], "head_dim": sizes["head_dim"]}
    native["layer_types"] = _layer_types(config)
    native |= _factors(config)
    native["rope_parameters"] = _rope_parameters(theta, rotary_dim, sizes["head_dim"])
    native[MARKER] = MARKED | {"model_type": model_type, "rotary_dim": rotary_dim, "rope_theta": theta}
    return native


def restore_config(native: dict) -> dict:
    """The way back: a config with original keys for a patched one (what `reference.forward` and an exporter read)."""
    marker = read_marker(native)
    gone = {MARKER, "layer_types", "rope_parameters", "model_type", "architectures", *FACTORS.values()}
    config = {key: copy.deepcopy(value) for key, value in native.items() if key not in gone}
    original_type = get(marker, "model_type")
    config["model_type"] = original_type if original_type in ORIGINAL_TYPES else ORIGINAL_TYPES[0]
    name = "MiniMaxM1ForCausalLM" if config["model_type"] == "minimax_m1" else "MiniMaxText01ForCausalLM"
    config["architectures"] = [name]
    kinds = _kinds(native, "layer_types", LAYER_TYPES)
    config["attn_type_list"] = [LAYER_TYPES.index(kind) for kind in kinds]
    config |= {old: get(native, new) for old, new in FACTORS.items()}
    config |= {"rope_theta": get(marker, "rope_theta"), "rotary_dim": get(marker, "rotary_dim")}
    return config | {"postnorm": True, "shared_intermediate_size": 0}


def first_difference(one: dict, other: dict) -> tuple | None:
    """The first key by which two restored configs describe different models, and both values; None if there is none."""
    keys = (*SIZES, "head_dim", "attn_type_list", *FACTORS, "rope_theta", "rotary_dim")
    return next(((key, one[key], other[key]) for key in keys if one[key] != other[key]), None)


def read_marker(config: dict) -> dict:
    """What `patch_config` noted in a converted config. Raises ConfigError where it did not, or not in this way."""
    marker = config.get(MARKER)
    if not isinstance(marker, dict) or marker.get("qk_rows") != MARKED["qk_rows"]:
        raise ConfigError(f"no {MARKER} marker: this config was not made by patch_config")
    if marker.get("version") != MARKED["version"]:
        version = shown(marker.get("version"))
        raise ConfigError(f"the {MARKER} marker has version {version}, this package knows 1: update it")
    return marker


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
    with _IMPORTING:
        from transformers import MiniMaxConfig
        from transformers.models.minimax.modeling_minimax import MiniMaxRotaryEmbedding

    try:
        rotation = MiniMaxRotaryEmbedding(MiniMaxConfig(**copy.deepcopy(native)))
    except Exception as error:  # its validators raise several types
        reason = " ".join(str(error).split())
        raise ConfigError(f"Transformers refuses a value ({reason}): correct it in config.json") from None
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
    model_type = get(config, "model_type")
    if not isinstance(model_type, str):
        raise ConfigError(f"model_type is {shown(model_type)}: {COPY}")
    if model_type in OTHER_MODELS:
        name = OTHER_MODELS[model_type]
        raise ConfigError(
            f"model_type is {model_type!r}: {name} is a different architecture, only Text-01 and M1 convert"
        )
    if model_type not in (*ORIGINAL_TYPES, "minimax"):
        raise ConfigError(f"model_type is {shown(model_type)}, not one of {', '.join(ORIGINAL_TYPES)}, minimax")
    if model_type in ORIGINAL_TYPES:
        get(config, "postnorm")  # the original's default is pre-norm, so silence does not mean yes
    return model_type


def _refuse_unsupported(config: dict) -> None:
    for key, (value, reason) in FIXED.items():
        if key in config and (config[key] != value or isinstance(config[key], bool) != isinstance(value, bool)):
            raise ConfigError(f"{key} is {shown(config[key])}, not {value!r}: {reason}")


def _sizes(config: dict) -> dict[str, int]:
    sizes = {key: values.positive_int(key, get(config, key)) for key in SIZES}
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
    sizes["head_dim"] = hidden // heads if head_dim is None else values.positive_int("head_dim", head_dim)
    return sizes


def _check_kept(config: dict, vocab_size: int) -> None:
    for key, check in KEPT.items():
        if check and config.get(key) is not None:
            check(key, config[key])
    if config.get("block_size") is not None and config["block_size"] > LARGEST_BLOCK:
        why = "a lightning layer keeps block_size**2 decays for each head"
        raise ConfigError(f"block_size is {config['block_size']}, more than {LARGEST_BLOCK}: {why}; MiniMax's is 256")
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = config.get(key)
        for one in ids if isinstance(ids, list) and key == "eos_token_id" else [] if ids is None else [ids]:
            values.token_id(key, one, vocab_size)


def _layer_types(config: dict) -> list[str]:
    found = {}
    for key, kinds in {"attn_type_list": (0, 1), "layer_types": LAYER_TYPES}.items():
        if config.get(key) is not None:
            found[key] = [LAYER_TYPES[kinds.index(kind)] for kind in _kinds(config, key, kinds)]
    return values.one_of(found, "attn_type_list")


def _kinds(config: dict, key: str, kinds: tuple) -> list:
    """The list under `key`: one of the two `kinds` for each layer."""
    listed, count = get(config, key), config["num_hidden_layers"]
    if not isinstance(listed, list) or len(listed) != count:
        what = f"{len(listed)} entries" if isinstance(listed, list) else f"a {type(listed).__name__}"
        raise ConfigError(f"{key} has {what}, but must list num_hidden_layers = {count} values")
    for kind in listed:
        if isinstance(kind, bool | float) or kind not in kinds:
            raise ConfigError(f"{key} holds {shown(kind)}: each entry must be {kinds[0]!r} or {kinds[1]!r}")
    return listed


def _factors(config: dict) -> dict[str, float]:
    check = values.between(-LARGEST_FACTOR, LARGEST_FACTOR)
    factors = {}
    for old, new in FACTORS.items():
        found = {key: check(key, config[key]) for key in (old, new) if config.get(key) is not None}
        factors[new] = values.one_of(found, old)
    return factors


def _rotation(config: dict, head_dim: int) -> tuple[float, int]:
    rope = config.get("rope_parameters") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise ConfigError(f"rope_parameters is {shown(rope)}: only rope_type 'default' can be converted")
    places = {"rope_theta": config.get("rope_theta"), "rope_parameters.rope_theta": rope.get("rope_theta")}
    found = {key: values.positive(key, value) for key, value in places.items() if value is not None}
    theta = values.one_of(found, "rope_theta")

    rotary_dim = config.get("rotary_dim")
    rotary_dim = head_dim if rotary_dim is None else values.positive_int("rotary_dim", rotary_dim)
    if rotary_dim % 2 or rotary_dim > head_dim or head_dim % 2:
        raise ConfigError(
            f"rotary_dim is {rotary_dim}: it must be even and at most head_dim, which is {head_dim} (even)"
        )
    for key, value in {
        "partial_rotary_factor": config.get("partial_rotary_factor"),
        "rope_parameters.partial_rotary_factor": rope.get("partial_rotary_factor"),
    }.items():
        if value is not None and abs(values.positive(key, value) * head_dim - rotary_dim) > 0.5:
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
