#!/usr/bin/env bash
# PEFT's "all-linear" adapts routers and fused experts too, at ranks it says it ignores; the usual names adapt little.
#
# Versions   torch 2.13.0, transformers 5.24.0, peft 0.21.2; Python 3.11, CPU.
# Behaviour  1. target_modules="all-linear" also takes the router and the fused 3-D tensors of experts, though none of
#               them is an nn.Linear. gate_up_proj holds two matrices and gets twice the rank, by a rank_pattern of
#               PEFT's own. A warning says that this pattern "did not match any targeted module" and was "ignored".
#               It was not: lora_A has the doubled rank.
#            2. With it, lora_dropout raises ValueError, use_dora too.
#            3. q_proj, k_proj, v_proj, o_proj, the usual list, exist in softmax layers alone: 1 layer in 8 of
#               MiniMax-Text-01. The other seven get no adapter, and nothing says so.
# Where      peft/utils/transformers_weight_conversion.py, peft/tuners/tuners_utils.py, lora.ParamWrapper.
# Instead    name what you mean: target_modules ["qkv_proj", "out_proj", "output_gate", "q_proj", "k_proj", "v_proj",
#            "o_proj"] for all attention; experts by target_parameters, without dropout; print the trainable names.
#
# Seen on 2026-11-28:
#    PEFT says:
#      The following rank_pattern keys did not match any targeted module and were ignored: ['.*\\.gate_up_proj'].
#    all-linear, r=4, ranks in layer 0: {'router': 4, 'gate_up_proj': 8, 'down_proj': 4}
#    all-linear with {'lora_dropout': 0.1}: ValueError: lora.ParamWrapper does not work with lora_dropout != 0.
#    all-linear with {'use_dora': True}: ValueError: lora.ParamWrapper does not work with use_dora=True.
#    the usual four names: adapters in layers ['7'] of 8
#
# Exit code 0 while all of it holds, another one when something changes or the script no longer runs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile \
    torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0 huggingface_hub==2.4.0 \
    numpy==2.4.6 accelerate==1.15.0 peft==0.21.2
cd "$work"
CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 venv/bin/python - <<'PYTHON'
import warnings

from peft import LoraConfig, get_peft_model
from transformers import MiniMaxConfig, MiniMaxForCausalLM

RANK, EXPERTS = 4, 8
SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_local_experts=EXPERTS, num_hidden_layers=8)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16)
KINDS = ["linear_attention"] * 7 + ["full_attention"]


def adapted(**settings):
    model = MiniMaxForCausalLM(MiniMaxConfig(**SIZES, **HEADS, layer_types=KINDS))
    return dict(get_peft_model(model, LoraConfig(r=RANK, **settings)).named_parameters())


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = adapted(target_modules="all-linear")
said = [str(w.message) for w in caught if "rank_pattern" in str(w.message)]
print("PEFT says:", said[0], sep="\n  ")
# PEFT wraps the two tensors of one module in turn: gate_up_proj first, as base_layer, then down_proj.
names = {"router": "mlp.gate", "gate_up_proj": "mlp.experts.base_layer", "down_proj": "mlp.experts"}
ranks = {}
for what, name in names.items():
    rows = len(found[f"base_model.model.model.layers.0.{name}.lora_A.default.weight"])
    ranks[what] = rows if what == "router" else rows // EXPERTS
print("all-linear, r=4, ranks in layer 0:", ranks)
assert "gate_up_proj" in said[0] and "were ignored" in said[0]
assert ranks == {"router": RANK, "gate_up_proj": 2 * RANK, "down_proj": RANK}

for settings in (dict(lora_dropout=0.1), dict(use_dora=True)):
    try:
        adapted(target_modules="all-linear", **settings)
        raise AssertionError(f"{settings} is taken now")
    except ValueError as error:
        print(f"all-linear with {settings}: ValueError: {error}")

usual = adapted(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
layers = {name.split(".layers.")[1].split(".")[0] for name, p in usual.items() if p.requires_grad}
print(f"the usual four names: adapters in layers {sorted(layers)} of {len(KINDS)}")
assert layers == {"7"}
PYTHON
