#!/usr/bin/env bash
# output_attentions=True returns the states of lightning layers as attentions, and with sdpa the list has gaps.
#
# Versions   torch 2.13.0, transformers 5.24.0; Python 3.11, CPU.
# Behaviour  `minimax` records the second value of every attention layer under "attentions". In a lightning layer that
#            is its state, the decayed sum of k^T v: (batch, heads, head_dim, head_dim), no row a distribution, some
#            entries negative. A tool that draws attentions draws it as if it were one, and in a text of head_dim
#            tokens not even the shape tells. With sdpa, the default, a softmax layer has nothing to return and is
#            left out of the tuple: from then on entry i is not layer i.
# Where      _can_record_outputs of MiniMaxPreTrainedModel in transformers/models/minimax/modeling_minimax.py.
# Instead    attn_implementation="eager", and only the entries whose layer_types is "full_attention".
#
# Seen on 2026-11-28 (layers: lightning, softmax, lightning, lightning; head_dim 16, 16 tokens):
#    eager: entry 0, (1, 4, 16, 16), no distribution, smallest entry -4e-02
#    eager: entry 1, (1, 4, 16, 16), rows sum to 1, smallest entry 0e+00
#    eager: entry 2, (1, 4, 16, 16), no distribution, smallest entry -4e-02
#    eager: entry 3, (1, 4, 16, 16), no distribution, smallest entry -6e-02
#    sdpa: entry 0, (1, 4, 16, 16), no distribution, smallest entry -4e-02
#    sdpa: entry 1, (1, 4, 16, 16), no distribution, smallest entry -4e-02
#    sdpa: entry 2, (1, 4, 16, 16), no distribution, smallest entry -6e-02
#
# Exit code 0 while it is so, another one when the list is in order or the script no longer runs.
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
from transformers import MiniMaxConfig, MiniMaxForCausalLM

transformers.logging.set_verbosity_error()
SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_local_experts=4, num_hidden_layers=4)
HEADS = dict(num_attention_heads=4, num_key_value_heads=4, head_dim=16)
KINDS = ["linear_attention", "full_attention", "linear_attention", "linear_attention"]
ids = torch.arange(16)[None]


def attentions(implementation):
    torch.manual_seed(0)
    config = MiniMaxConfig(**SIZES, **HEADS, layer_types=KINDS, attn_implementation=implementation)
    with torch.no_grad():
        return MiniMaxForCausalLM(config).eval()(ids, output_attentions=True).attentions


for implementation in ("eager", "sdpa"):
    for at, scores in enumerate(attentions(implementation)):
        sums = scores.sum(-1)
        kind = "rows sum to 1" if torch.allclose(sums, torch.ones_like(sums)) else "no distribution"
        print(f"{implementation}: entry {at}, {tuple(scores.shape)}, {kind}, smallest entry {scores.min():.0e}")

eager, sdpa = attentions("eager"), attentions("sdpa")
assert len(eager) == 4 and torch.allclose(eager[1].sum(-1), torch.ones(1, 4, 16))
assert all(eager[at].shape == eager[1].shape and (eager[at] < 0).any() for at in (0, 2, 3))
assert len(sdpa) == 3 and torch.allclose(sdpa[1], eager[2], atol=1e-6), "entry 1 of sdpa is layer 2"
PYTHON
