#!/usr/bin/env bash
# A folder saved in bfloat16 keeps rounded decay tables, and loading it in float32 does not bring the right ones back.
#
# Versions   torch 2.13.0, transformers 5.24.0; Python 3.11, CPU.
# Behaviour  A lightning layer's slopes and decay factors follow from the config; published checkpoints do not hold
#            them. save_pretrained writes them, as buffers, in the model's dtype. So a model that went through bfloat16
#            once, to be fine-tuned or cut into other shards, has them rounded to 8 bits in its file, and
#            from_pretrained(dtype=float32) takes the file's over those it has just computed. Without them in the file
#            the same weights load with exact tables, and a report that calls them MISSING.
# Where      nn.Buffer(...) without persistent=False in MiniMaxLightningAttention, modeling_minimax.py.
# Instead    take the tables out of the saved files (names below), or compute them again after loading.
#
# Seen on 2026-11-28 (error: relative norm, against the tables of the config):
#    tables in the file: slope_rate 2e-03, query_decay 2e-03, key_decay 2e-03, diagonal_decay 1e-03
#    tables taken out: slope_rate 0e+00, query_decay 0e+00, key_decay 0e+00, diagonal_decay 0e+00
#    the same weights, both in float32, 600 tokens: logits 0.084 apart
#
# Exit code 0 while the rounded tables survive, another one when they do not or the script no longer runs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile \
    torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0 huggingface_hub==2.4.0 \
    numpy==2.4.6
cd "$work"
CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 venv/bin/python - <<'PYTHON'
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import MiniMaxConfig, MiniMaxForCausalLM

transformers.logging.set_verbosity_error()
TABLES = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")
SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_local_experts=4, num_hidden_layers=8)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16, bos_token_id=None, eos_token_id=None)
KINDS = ["linear_attention"] * 7 + ["full_attention"]

torch.manual_seed(0)
fresh = MiniMaxForCausalLM(MiniMaxConfig(**SIZES, **HEADS, layer_types=KINDS)).eval()
for weight in fresh.parameters():
    if weight.ndim > 1:
        torch.nn.init.normal_(weight, std=0.2)
right = {name: table.clone() for name, table in fresh.named_buffers() if name.endswith(TABLES)}
fresh.to(torch.bfloat16).save_pretrained("saved")
file = "saved/model.safetensors"
loaded = MiniMaxForCausalLM.from_pretrained("saved", dtype=torch.float32).eval()
weights = load_file(file)
held = {name for name in weights if name.endswith(TABLES)}
save_file({name: t for name, t in weights.items() if name not in held}, file, metadata={"format": "pt"})
without = MiniMaxForCausalLM.from_pretrained("saved", dtype=torch.float32).eval()


def off(got, want):
    return ((got - want).norm() / want.norm()).item()


assert held == set(right)
for what, model in {"tables in the file": loaded, "tables taken out": without}.items():
    buffers = dict(model.named_buffers())
    errors = {t: max(off(buffers[name], right[name]) for name in right if name.endswith(t)) for t in TABLES}
    print(f"{what}:", ", ".join(f"{t} {error:.0e}" for t, error in errors.items()))
    assert buffers["model.layers.1.self_attn.slope_rate"].dtype == torch.float32
    assert (max(errors.values()) > 1e-3) == (model is loaded), what
ids = torch.randint(64, (1, 600))
with torch.no_grad():
    logits = off(loaded(ids).logits, without(ids).logits)
print(f"the same weights, both in float32, 600 tokens: logits {logits:.3f} apart")
assert logits > 1e-3
PYTHON
