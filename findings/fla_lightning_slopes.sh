#!/usr/bin/env bash
# flash-linear-attention's `lightning_attn` is not MiniMax's lightning attention: its heads forget at other rates.
#
# Versions   torch 2.13.0, flash-linear-attention 0.6.0, transformers 5.24.0; Python 3.11, CPU.
# Behaviour  chunk_lightning_attn asks for no decay: it computes one from layer_idx and num_layers, 8/H * h * (1 - l/L)
#            for head h = 0 ... H-1. MiniMax's is 2^(-8(h+1)/H) * (1 - l/(L-1) + 1e-5). In fla head 0 never forgets
#            and the last head forgets at once; in MiniMax it is the other way round. Names and shapes fit, nothing
#            warns. fla also scales the scores by 1/sqrt(head_dim), MiniMax does not.
# Where      fla/ops/lightning_attn/chunk.py. The kernel itself needs a GPU, so the script reads the decay that is
#            handed to it.
# Instead    chunk_simple_gla(..., g_gamma=-slopes, scale=1): the same kernel with MiniMax's slopes.
#
# Seen on 2026-11-28:
#    after how many tokens half is forgotten
#    layer  0  head  0  fla  endless  minimax  0.756
#    layer  0  head  1  fla     5.54  minimax  0.824
#    layer  0  head 31  fla    0.179  minimax   11.1
#    layer  0  head 63  fla    0.088  minimax    177
#    layer 40  head  0  fla  endless  minimax   1.53
#    layer 40  head  1  fla     11.1  minimax   1.67
#    layer 40  head 31  fla    0.358  minimax   22.5
#    layer 40  head 63  fla    0.176  minimax    359
#
# Exit code 0 while the slopes differ, another one when they agree or the script no longer runs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile \
    torch==2.13.0 'flash-linear-attention[cpu]==0.6.0' transformers==5.24.0 tokenizers==0.23.3 \
    safetensors==0.8.0 huggingface_hub==2.4.0 numpy==2.4.6
cd "$work"
CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 venv/bin/python - <<'PYTHON'
import importlib
from unittest.mock import patch

import torch
from transformers import MiniMaxConfig
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

chunk = importlib.import_module("fla.ops.lightning_attn.chunk")
HEADS, LAYERS = 64, 80  # of MiniMax-Text-01
config = MiniMaxConfig(hidden_size=64, num_attention_heads=HEADS, head_dim=4, num_hidden_layers=LAYERS)
q = torch.zeros(1, 2, HEADS, 4)


def half_life(slope):
    return f"{0.6931 / slope:.3g}" if slope else "endless"


print("after how many tokens half is forgotten")
for layer in (0, 40):
    with patch.object(chunk, "chunk_simple_gla") as kernel:
        chunk.chunk_lightning_attn(q, q, q, layer_idx=layer, num_layers=LAYERS)
    fla = -kernel.call_args.kwargs["g_gamma"]
    minimax = MiniMaxLightningAttention(config, layer).slope_rate.flatten()
    for head in (0, 1, 31, 63):
        print(f"layer {layer:2}  head {head:2}  fla {half_life(fla[head].item()):>8}", end="  ")
        print(f"minimax {half_life(minimax[head].item()):>6}")
    assert fla[0] == 0 and fla.argmax() == HEADS - 1, "fla: head 0 keeps all, the last one forgets fastest"
    assert minimax.argmax() == 0 and minimax.argmin() == HEADS - 1, "MiniMax: the other way round"
PYTHON
