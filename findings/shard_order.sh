#!/usr/bin/env bash
# from_pretrained does not look up in the index where a tensor is: it reads all files, and the last name wins.
#
# Versions   torch 2.13.0, transformers 5.24.0, safetensors 0.8.0; Python 3.11, CPU.
# Behaviour  model.safetensors.index.json maps each tensor to a file. To change some tensors of a large checkpoint one
#            would add a small file and point the map at it. Transformers takes from the map only the set of files. It
#            reads all tensors of all of them in the order of their names, and of two with one name the later
#            file's stays. A new shard that sorts before the old one is read and overwritten, without a word.
# Where      transformers/modeling_utils.py, where the files of a checkpoint are opened.
# Instead    give the new file a name that sorts last, and compare a tensor after loading.
#
# Seen on 2026-11-28:
#    also in model-00002-of-00009.safetensors, the index says changed.safetensors: loaded is the old one
#    also in model-00002-of-00009.safetensors, the index says zz-changed.safetensors: loaded is the new one
#
# Exit code 0 while the index is not followed, another one when it is or the script no longer runs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile \
    torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0 huggingface_hub==2.4.0 \
    numpy==2.4.6
cd "$work"
CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 venv/bin/python - <<'PYTHON'
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import MiniMaxConfig, MiniMaxForCausalLM

transformers.logging.set_verbosity_error()
SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_local_experts=4, num_hidden_layers=4)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16, bos_token_id=None, eos_token_id=None)

model = MiniMaxForCausalLM(MiniMaxConfig(**SIZES, **HEADS))
name = next(name for name in model.state_dict() if name.endswith("o_proj.weight"))
old = model.state_dict()[name]
new = old + 1
model.save_pretrained("model", max_shard_size="60KB")
index = Path("model/model.safetensors.index.json")
where = json.loads(index.read_text())
before = where["weight_map"][name]

for shard in ("changed.safetensors", "zz-changed.safetensors"):
    save_file({name: new}, f"model/{shard}", metadata={"format": "pt"})
    where["weight_map"][name] = shard
    index.write_text(json.dumps(where))
    got = MiniMaxForCausalLM.from_pretrained("model").state_dict()[name]
    Path("model", shard).unlink()
    found = "new" if torch.equal(got, new) else "old" if torch.equal(got, old) else "neither"
    print(f"also in {before}, the index says {shard}: loaded is the {found} one")
    assert found == ("new" if shard > before else "old")
PYTHON
