#!/usr/bin/env bash
# The first layers of a checkpoint, loaded with num_hidden_layers, are not the layers of that checkpoint.
#
# Versions   torch 2.13.0, transformers 5.24.0; Python 3.11, CPU.
# Behaviour  from_pretrained(folder, num_hidden_layers=8) is the usual way to try a large model on a small machine. A
#            lightning layer's decay depends on its index over the number of layers, and published checkpoints have no
#            tables of it: they are computed from the config, so for a model of 8 layers, not of 80. Of the first layers
#            all weights are right, and layer 6 of 8 forgets 6.5 times more slowly than layer 6 of 80. layer_types may
#            keep its 80 entries. The report names the layers left out, and tables as missing that are always missing.
# Where      MiniMaxLightningAttention.get_slope_rate in transformers/models/minimax/modeling_minimax.py.
# Instead    after loading, copy the four tables from lightning layers that were made with the whole config.
#
# Seen on 2026-11-28 (error: of the hidden states after a layer, relative norm, against the whole model):
#    layer 0: fastest head forgets 0.250 a token, in the whole model 0.250; error 0.00, with the right tables 0.00
#    layer 1: fastest head forgets 0.214 a token, in the whole model 0.247; error 0.02, with the right tables 0.00
#    layer 6: fastest head forgets 0.036 a token, in the whole model 0.231; error 0.40, with the right tables 0.00
#
# Exit code 0 while the first layers differ, another one when they agree or the script no longer runs.
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
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

transformers.logging.set_verbosity_error()
LAYERS, FIRST, TABLES = 80, 8, ("slope_rate", "query_decay", "key_decay", "diagonal_decay")
SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=16, num_local_experts=2, num_hidden_layers=LAYERS)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16, bos_token_id=None, eos_token_id=None)
KINDS = (["linear_attention"] * 7 + ["full_attention"]) * (LAYERS // 8)

torch.manual_seed(0)
whole = MiniMaxForCausalLM(MiniMaxConfig(**SIZES, **HEADS, layer_types=KINDS)).eval()
for weight in whole.parameters():
    if weight.ndim > 1:
        torch.nn.init.normal_(weight, std=0.2)
whole.save_pretrained("whole")
file = "whole/model.safetensors"
kept = {name: t for name, t in load_file(file).items() if not name.endswith(TABLES)}  # as published
save_file(kept, file, metadata={"format": "pt"})

first, mended = (MiniMaxForCausalLM.from_pretrained("whole", num_hidden_layers=FIRST).eval() for _ in range(2))
of_whole, of_first = dict(whole.named_parameters()), dict(first.named_parameters())
assert len(first.model.layers) == FIRST and all(torch.equal(p, of_whole[name]) for name, p in of_first.items())
for at in range(FIRST - 1):
    made = MiniMaxLightningAttention(whole.config, at)
    for table in TABLES:
        getattr(mended.model.layers[at].self_attn, table).copy_(getattr(made, table))

ids = torch.randint(64, (1, 600))


@torch.no_grad()
def after(model, at):
    """Hidden states (1, 600, 32) after layer `at`."""
    return model.model(ids, use_cache=False, output_hidden_states=True).hidden_states[at + 1]


for at in (0, 1, 6):
    slow, fast = (model.model.layers[at].self_attn.slope_rate.max().item() for model in (first, whole))
    want = after(whole, at)
    error, left = (((after(model, at) - want).norm() / want.norm()).item() for model in (first, mended))
    print(f"layer {at}: fastest head forgets {slow:.3f} a token, in the whole model {fast:.3f};", end=" ")
    print(f"error {error:.2f}, with the right tables {left:.2f}")
    assert left < 1e-5, at
assert error > 0.1, "the first layers agree now"
PYTHON
