"""patch_config: what it makes of good configs, and what it says to bad ones."""

import copy
import dataclasses
import re

import pytest
from originals import original_config

from minimax_nb.config import (
    FACTORS,
    MARKER,
    patch_config,
    restore_config,
    row_order,
    stock_frequencies,
    verify_frequencies,
)
from minimax_nb.errors import ConfigError
from minimax_nb.keys import KEPT, dropped_keys, refuse_code_keys

NATIVE = ("model_type", "architectures", "layer_types", "rope_parameters")


def renamed_config(**changes) -> dict:
    """Every key under its native name, rotary_dim still there: what the -hf repositories hold."""
    native = patch_config(original_config())
    del native[MARKER], native["rope_parameters"]
    return native | {"rotary_dim": 8, "rope_theta": 10000000} | changes


def test_native_keys_marker_and_unchanged_argument():
    config = original_config()
    before = copy.deepcopy(config)
    native = patch_config(config)
    assert config == before
    assert native["model_type"] == "minimax" and native["architectures"] == ["MiniMaxForCausalLM"]
    assert native["layer_types"] == ["linear_attention"] * 7 + ["full_attention"]
    assert native["full_attn_alpha_factor"] == native["mlp_alpha_factor"] == 2.0
    assert native["rope_parameters"] == {
        "rope_type": "proportional",
        "rope_theta": 1e14,
        "partial_rotary_factor": 0.5,
    }
    assert native["eos_token_id"] is None  # absent, Transformers would assume 2
    assert native[MARKER]["rotary_dim"] == 8 and native[MARKER]["qk_rows"] == "permuted"
    gone = {"auto_map", "attn_type_list", "postnorm", "rotary_dim", "rope_theta", "shared_intermediate_size", *FACTORS}
    assert not gone & native.keys()


def test_marker_survives_load_and_save(tmp_path):
    from transformers import MiniMaxConfig

    native = patch_config(original_config())
    MiniMaxConfig(**native).save_pretrained(tmp_path)
    saved = MiniMaxConfig.from_pretrained(tmp_path).to_dict()
    assert saved[MARKER] == native[MARKER] and saved["rope_parameters"] == native["rope_parameters"]
    assert verify_frequencies(saved) < 1e-6


def test_restore_is_the_inverse():
    for model_type in ("minimax_text_01", "minimax_m1"):
        config = original_config(model_type=model_type)
        restored = restore_config(patch_config(config))
        assert {
            key: restored[key] for key in config if key in restored and key != "architectures"
        }.items() <= config.items()
        assert patch_config(restored) == patch_config(config)


@pytest.mark.parametrize("head_dim, rotary_dim", [(16, 4), (16, 8), (16, 12), (16, 16), (128, 64), (44, 30), (6, 2)])
def test_row_order_puts_pairs_where_stock_looks_for_them(head_dim, rotary_dim):
    order = row_order(head_dim, rotary_dim)
    assert sorted(order) == list(range(head_dim))
    for j in range(rotary_dim // 2):
        assert (order[j], order[j + head_dim // 2]) == (j, j + rotary_dim // 2)
    rest = [row for row in order if row >= rotary_dim]
    assert rest == sorted(rest)


@pytest.mark.parametrize("theta", [1e4, 1e6, 1e7])
@pytest.mark.parametrize("head_dim, rotary_dim", [(128, 32), (128, 64), (128, 96), (128, 128), (44, 30), (112, 54)])
def test_stock_frequencies_are_the_wanted_ones(head_dim, rotary_dim, theta):
    config = original_config(head_dim=head_dim, rotary_dim=rotary_dim, rope_theta=theta)
    assert verify_frequencies(patch_config(config)) < 5e-6


def test_every_rotary_dim_keeps_its_pairs():
    """Stock counts int(fraction * head_dim // 2) pairs, which loses one to rounding for some fractions."""
    mended = 0
    for head_dim in range(4, 130, 2):
        for rotary_dim in range(2, head_dim + 1, 2):
            config = original_config(head_dim=head_dim, rotary_dim=rotary_dim, rope_theta=1.5)
            rope = patch_config(config)["rope_parameters"]
            assert int(rope["partial_rotary_factor"] * head_dim // 2) == rotary_dim // 2
            mended += rope["partial_rotary_factor"] != rotary_dim / head_dim
    assert mended > 0


def test_wrong_frequencies_are_refused():
    native = patch_config(original_config())
    native["rope_parameters"]["rope_theta"] = 1e7
    with pytest.raises(ConfigError, match="for pair 1 Transformers would rotate by"):
        verify_frequencies(native)
    native["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e14}
    with pytest.raises(ConfigError, match="for pair 4"):
        verify_frequencies(native)


def test_rotary_dim_absent_means_whole_heads():
    config = original_config()
    del config["rotary_dim"]
    native = patch_config(config)
    assert native[MARKER]["rotary_dim"] == 16 and native["rope_parameters"]["rope_theta"] == 1e7
    assert stock_frequencies(native)[-1] > 0


def test_head_dim_absent_follows_from_hidden_size():
    config = original_config(hidden_size=64)
    del config["head_dim"]
    assert patch_config(config)["head_dim"] == 16
    with pytest.raises(ConfigError, match="head_dim is missing"):
        patch_config(original_config(hidden_size=50, head_dim=None))


def model_part(native: dict) -> dict:
    return {key: value for key, value in native.items() if key not in (MARKER, "bos_token_id", "eos_token_id")}


@pytest.mark.parametrize(
    "config",
    [
        original_config(model_type="minimax_m1", architectures=["MiniMaxM1ForCausalLM"]),
        original_config(model_type="minimax"),  # only the type renamed
        original_config(model_type="minimax") | {"layer_types": ["linear_attention"] * 7 + ["full_attention"]},
        original_config(full_attn_alpha_factor=2.0),
        renamed_config(),
        renamed_config(rope_parameters={"rope_type": "default", "rope_theta": 1e7}),
        renamed_config(rope_parameters={"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.5}),
        renamed_config(attn_type_list=[0] * 7 + [1], postnorm=True),
    ],
)
def test_other_spellings_give_the_same_model(config):
    assert model_part(patch_config(config)) == model_part(patch_config(original_config()))


# The changed keys (None removes one), and what the error must name.
BAD = [
    ({"model_type": None}, "model_type is missing"),
    ({"model_type": "minimax_m2"}, "MiniMax-M2 is a different architecture"),
    ({"model_type": "minimax_vl_01"}, "MiniMax-VL-01 is a different architecture"),
    ({"model_type": "llama"}, "'llama', not one of"),
    ({"model_type": ["minimax"]}, "model_type is"),
    *(({key: None}, f"{key} is missing") for key in ("hidden_size", "vocab_size", "attn_type_list", "rope_theta")),
    *(({key: None}, f"{key} is missing") for key in ("postnorm", "num_local_experts", "layernorm_mlp_beta")),
    ({"attn_type_list": [0] * 7}, "attn_type_list has 7 entries"),
    ({"attn_type_list": "00000001"}, "attn_type_list has a str"),
    ({"attn_type_list": [0] * 7 + [2]}, "attn_type_list holds 2"),
    ({"attn_type_list": [0] * 7 + [True]}, "attn_type_list holds True"),
    ({"attn_type_list": [0] * 7 + ["1"]}, "attn_type_list holds '1'"),
    ({"attn_type_list": [0] * 7 + [[1]]}, "attn_type_list holds"),
    ({"layer_types": ["full_attention", "linear_attention"] * 4}, "attn_type_list and layer_types contradict"),
    ({"full_attn_alpha_factor": 1}, "layernorm_full_attention_alpha and full_attn_alpha_factor contradict"),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rope_theta and rope_parameters.rope_theta"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e7}}, "rope_parameters is"),
    ({"rope_parameters": [1e7]}, "rope_parameters is"),
    ({"partial_rotary_factor": 0.25}, "partial_rotary_factor is 0.25, but rotary_dim is 8"),
    ({"partial_rotary_factor": 1e308}, "partial_rotary_factor is 1e+308"),
    ({"postnorm": False}, "postnorm is False"),
    ({"shared_intermediate_size": 64}, "shared experts are not supported"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ({"sliding_window": 128}, "sliding_window is 128"),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, "scaled RoPE"),
    ({"quantization_config": {"quant_method": "fp8"}}, "quantised weights are not supported"),
    ({"num_attention_heads": 6}, "num_attention_heads is 6, not a power of two"),
    ({"num_key_value_heads": 3}, "num_key_value_heads is 3"),
    ({"num_experts_per_tok": 5}, "num_experts_per_tok is larger"),
    ({"hidden_size": True}, "hidden_size is True"),
    ({"hidden_size": 48.0}, "hidden_size is 48.0"),
    ({"hidden_size": "48"}, "hidden_size is '48'"),
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    ({"head_dim": 0}, "head_dim is 0"),
    ({"head_dim": 15}, "rotary_dim is 8: it must be even and at most head_dim, which is 15"),
    ({"rotary_dim": 7}, "rotary_dim is 7"),
    ({"rotary_dim": 0}, "rotary_dim is 0"),
    ({"rotary_dim": -8}, "rotary_dim is -8"),
    ({"rotary_dim": 18}, "rotary_dim is 18"),
    ({"rotary_dim": 8.0}, "rotary_dim is 8.0"),
    ({"rope_theta": 0}, "rope_theta is 0"),
    ({"rope_theta": -1e7}, "rope_theta is -1"),
    ({"rope_theta": "1e7"}, "rope_theta is '1e7'"),
    ({"rope_theta": float("nan")}, "rope_theta is nan"),
    ({"rope_theta": True}, "rope_theta is True"),
    ({"rope_theta": 1e20}, "more than float32 holds"),
    ({"rope_theta": 1e200}, "more than float32 holds"),
    ({"rotary_dim": 2}, "more than float32 holds"),
    ({"layernorm_mlp_alpha": float("nan")}, "layernorm_mlp_alpha is nan"),
    ({"layernorm_linear_attention_beta": float("inf")}, "layernorm_linear_attention_beta is inf"),
    ({"layernorm_full_attention_alpha": "2"}, "layernorm_full_attention_alpha is '2'"),
    ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
    ({"block_size": -1}, "block_size is -1"),
    ({"block_size": 10**12}, "block_size is 1000000000000, more than 2048"),
    ({"rope_theta": 10**400}, "rope_theta is 1000000"),
    ({"layernorm_mlp_alpha": 10**400}, "layernorm_mlp_alpha is 1000000"),
    ({"layernorm_mlp_alpha": 1e308}, "layernorm_mlp_alpha is 1e+308: it must be between"),
    ({"layernorm_full_attention_beta": -1e308}, "layernorm_full_attention_beta is -1e+308"),
    ({"full_attn_alpha_factor": 1e30, "layernorm_full_attention_alpha": 1e30}, "layernorm_full_attention_alpha is"),
    ({"rms_norm_eps": 10**400}, "rms_norm_eps is 1000000"),
    ({"max_position_embeddings": 10**400}, "max_position_embeddings is 1000000"),
    ({"max_position_embeddings": 2**63}, "max_position_embeddings is 9223372036854775808"),
    ({"attention_dropout": 1.5}, "attention_dropout is 1.5"),
    ({"router_jitter_noise": "0.1"}, "router_jitter_noise is '0.1'"),
    ({"initializer_range": 0}, "initializer_range is 0"),
    ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'"),
    ({"use_cache": 1}, "use_cache is 1"),
    ({"torch_dtype": "int8"}, "torch_dtype is 'int8'"),
    ({"dtype": ["float32"]}, "dtype is ['float32']"),
    *(({key: 128}, f"{key} is 128: it must be null or an id below") for key in ("pad_token_id", "eos_token_id")),
    ({"pad_token_id": -1}, "pad_token_id is -1"),
    ({"pad_token_id": [3]}, "pad_token_id is [3]"),
    ({"bos_token_id": True}, "bos_token_id is True"),
    ({"eos_token_id": [3, 200]}, "eos_token_id is 200"),
    ({"hidden_act": [[[["x" * 500]]]]}, "hidden_act is [[[['xxx"),
    ({MARKER: {"qk_rows": "permuted"}}, "already converted"),
]


def bad_config(changes: dict) -> dict:
    return {key: value for key, value in original_config(**changes).items() if changes.get(key, 0) is not None}


@pytest.mark.parametrize("changes, message", BAD, ids=[message for _, message in BAD])
def test_bad_values_are_named(changes, message):
    with pytest.raises(ConfigError) as error:
        patch_config(bad_config(changes))
    assert message in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300


STRANGE = {
    "use_return_dict": True,
    "max_new_tokens": -1,
    "num_experts": 7,  # Transformers' other name for num_local_experts
    "attn_implementation": "someone/kernel",
    "_attn_implementation": "someone/kernel",
    "_attn_implementation_internal": "someone/kernel",
    "experts_implementation": {"": "someone/kernel"},
    "base_model_tp_plan": {"layers.*": "x"},
    "per_layer_config": {"0": {"hidden_size": 3}},
    "extra_files": ["x"],
    "use_kernels": True,
    "id2label": {"a": "b"},
    "name_or_path": "../x",
}


@pytest.mark.parametrize("key", STRANGE)
def test_other_keys_stay_behind(key):
    config = original_config(**{key: STRANGE[key]})
    assert patch_config(config) == patch_config(original_config())
    assert key in dropped_keys(config) and key not in dropped_keys(original_config())


def test_every_key_that_is_kept_is_one_of_transformers():
    from transformers import MiniMaxConfig

    assert set(KEPT) - {"torch_dtype"} <= {field.name for field in dataclasses.fields(MiniMaxConfig)}
    assert set(patch_config(original_config())) <= {*KEPT, *FACTORS.values(), MARKER, *NATIVE}


CHOOSE_CODE = ["base_model_tp_plan", "extra_files", "per_layer_config", *(key for key in STRANGE if "_impl" in key)]


@pytest.mark.parametrize("key", CHOOSE_CODE)
def test_keys_that_choose_code_are_refused_in_a_converted_config(key):
    native = patch_config(original_config())
    refuse_code_keys(native)
    with pytest.raises(ConfigError, match=f"{key} is .*which code runs, delete the key"):
        refuse_code_keys(native | {key: STRANGE[key]})
    refuse_code_keys(native | {key: None, "_attn_implementation_autoset": True})


def test_ids_in_the_vocabulary_are_taken():
    ids = {"pad_token_id": 0, "bos_token_id": 127, "eos_token_id": [3, 5]}
    assert ids.items() <= patch_config(original_config(**ids)).items()


def test_a_converted_config_that_was_changed_is_refused_by_name():
    native = patch_config(original_config())
    for changes, message in (
        ({"layer_types": ["other"] * 8}, "layer_types holds 'other'"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries"),
        ({"layer_types": None}, "layer_types is missing"),
        ({"mlp_alpha_factor": None}, "mlp_alpha_factor is missing"),
        ({MARKER: {"qk_rows": "permuted", "version": 1}}, "model_type is missing"),
        ({MARKER: {"qk_rows": "permuted", "version": 2}}, "version 2"),
        ({MARKER: {"qk_rows": "other"}}, "no minimax_nb marker"),
        ({MARKER: []}, "no minimax_nb marker"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            restore_config(native | changes)


@pytest.mark.parametrize("config", [[], None, "text"])
def test_not_an_object(config):
    with pytest.raises(ConfigError, match="JSON object"):
        patch_config(config)


def test_a_marker_is_needed_to_go_back():
    with pytest.raises(ConfigError, match="no minimax_nb marker"):
        restore_config(original_config())


@pytest.mark.parametrize("head_dim, rotary_dim", [(8, 7), (8, 10), (8, 0), (7, 4)])
def test_row_order_of_what_cannot_be(head_dim, rotary_dim):
    with pytest.raises(ConfigError, match="must be even"):
        row_order(head_dim, rotary_dim)
