#!/usr/bin/env bash
# Two counters of floating point operations, and neither counts a mixture of experts right.
#
# Versions   torch 2.13.0, transformers 5.24.0, accelerate 1.15.0; Python 3.11, CPU.
# Behaviour  torch.utils.flop_counter has no formula for aten::_grouped_mm, which computes the experts by default in
#            Transformers 5. What has no formula counts as 0, without a word: the experts cost nothing. With
#            experts_implementation="eager" the same forward pass is counted in full.
#            Trainer, in its total_flos, takes six for each token and parameter: every expert, not the two that a token
#            is sent to. By the figures of MiniMax-Text-01 (456 B parameters, 45.9 B active) ten times too many.
# Where      torch/utils/flop_counter.py (flop_registry); Trainer.floating_point_ops.
# Instead    count with "eager", or pass custom_mapping; divide total_flos (in trainer_state.json) by hand.
#
# Seen on 2026-11-28 (32 experts, 2 for each token):
#    forward, counted with grouped_mm: 36,175,872
#    forward, counted with eager: 136,839,168, of them experts, by hand: 100,663,296
#    Trainer: 4,898,488,320 forward and backward, 11.9 times three forward passes
#
# Exit code 0 while both are off, another one when one of them is right or the script no longer runs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile \
    torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0 huggingface_hub==2.4.0 \
    numpy==2.4.6 accelerate==1.15.0
cd "$work"
CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 venv/bin/python - <<'PYTHON'
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import MiniMaxConfig, MiniMaxForCausalLM, Trainer, TrainingArguments

HIDDEN, WIDE, LAYERS, TOP, TOKENS = 64, 256, 4, 2, 128
SIZES = dict(vocab_size=64, hidden_size=HIDDEN, intermediate_size=WIDE, num_local_experts=32, num_hidden_layers=LAYERS)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16, bos_token_id=None, eos_token_id=None)
KINDS = ["linear_attention"] * 3 + ["full_attention"]
model = MiniMaxForCausalLM(MiniMaxConfig(**SIZES, **HEADS, num_experts_per_tok=TOP, layer_types=KINDS))
ids = torch.randint(64, (1, TOKENS))


def counted():
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(ids, use_cache=False)
    return counter.get_total_flops()


default = model.config._experts_implementation
fused = counted()
model.set_experts_implementation("eager")
whole = counted()
experts = 2 * TOKENS * TOP * 3 * HIDDEN * WIDE * LAYERS  # three matrices an expert, a product and a sum an element
print(f"forward, counted with {default}: {fused:,}")
print(f"forward, counted with eager: {whole:,}, of them experts, by hand: {experts:,}")
assert default == "grouped_mm" and whole - fused == experts

settings = TrainingArguments("runs", use_cpu=True, report_to="none")
trainer = Trainer(model, settings).floating_point_ops({"input_ids": ids})
print(f"Trainer: {trainer:,} forward and backward, {trainer / (3 * whole):.1f} times three forward passes")
assert trainer > 3 * 3 * whole
PYTHON
