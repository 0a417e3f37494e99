#!/usr/bin/env bash
# torchao: int8 passes the experts by, unless they are called by a name no file has; then the default kernel refuses.
#
# Versions   torch 2.13.0, transformers 5.24.0, torchao 0.18.0, accelerate 1.15.0; Python 3.11, CPU.
# Behaviour  Transformers 5 fuses the experts of `minimax` into 3-D parameters; torchao quantises nn.Linear.
#            1. TorchAoConfig(Int8WeightOnlyConfig()) leaves them whole: 95 % of MiniMax-Text-01's weights.
#            2. FqnToConfig with the names that stand in the checkpoint (block_sparse_moe.experts.0.w1) matches nothing.
#               The model loads, no warning, nothing is int8.
#            3. With the fused names the experts become int8, and save and reload. But the first forward raises
#               NotImplementedError: the default experts implementation, grouped_mm, has no int8, nor has batched_mm.
# Where      torchao/quantization: the filter of quantize_, Int8Tensor's table of operators;
#            transformers/integrations/moe.py.
# Instead    the fused names and experts_implementation="eager". It saves memory, not time.
#
# Seen on 2026-11-28 (error: of the logits, relative norm, against float32; a random model):
#    no names: 0% of the experts are int8, 9% of all weights
#    names in the file: 0% of the experts are int8, 0% of all weights
#    fused names: 100% of the experts are int8, 91% of all weights
#    saved, loaded with grouped_mm (the default): NotImplementedError
#    saved, loaded with batched_mm: NotImplementedError
#    saved, loaded with eager: error 1e-04
#
# Exit code 0 while all of it holds, another one when something changes or the script no longer runs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile \
    torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0 huggingface_hub==2.4.0 \
    numpy==2.4.6 accelerate==1.15.0 torchao==0.18.0
cd "$work"
CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 venv/bin/python - <<'PYTHON'
import warnings

import torch
import transformers
from torchao.quantization import FqnToConfig, Int8WeightOnlyConfig
from transformers import MiniMaxConfig, MiniMaxForCausalLM, TorchAoConfig

transformers.logging.set_verbosity_warning()
SIZES = dict(vocab_size=64, hidden_size=128, intermediate_size=256, num_local_experts=8, num_hidden_layers=4)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=32, bos_token_id=None, eos_token_id=None)
KINDS = ["linear_attention"] * 3 + ["full_attention"]
INT8 = Int8WeightOnlyConfig(version=2)
IN_THE_FILE = FqnToConfig({r"re:.*\.block_sparse_moe\.experts\.\d+\.w[123]": INT8})
FUSED = FqnToConfig({r"re:.*\.mlp\.experts\.(gate_up_proj|down_proj)": INT8})

torch.manual_seed(0)
model = MiniMaxForCausalLM(MiniMaxConfig(**SIZES, **HEADS, layer_types=KINDS)).eval()
model.save_pretrained("whole")
ids = torch.randint(64, (2, 20))
with torch.no_grad():
    want = model(ids).logits


def loaded(folder, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchao's own parts
        return MiniMaxForCausalLM.from_pretrained(folder, dtype=torch.float32, **settings)


def int8_of(model, part=""):
    held = [p for name, p in model.named_parameters() if part in name]
    return sum(p.numel() for p in held if type(p.data).__name__ == "Int8Tensor") / sum(p.numel() for p in held)


def answer(model):
    try:
        with torch.no_grad():
            return f"error {((model(ids).logits - want).norm() / want.norm()).item():.0e}"
    except NotImplementedError as refusal:
        return type(refusal).__name__


for what, quantise in {"no names": INT8, "names in the file": IN_THE_FILE, "fused names": FUSED}.items():
    quantised = loaded("whole", quantization_config=TorchAoConfig(quantise))
    share = int8_of(quantised, ".mlp.experts.")
    print(f"{what}: {share:.0%} of the experts are int8, {int8_of(quantised):.0%} of all weights")
    assert share == (quantise is FUSED), what
    assert (int8_of(quantised) == 0) == (quantise is IN_THE_FILE), what

quantised.save_pretrained("int8")
for implementation in (None, "batched_mm", "eager"):
    again = loaded("int8", **({"experts_implementation": implementation} if implementation else {}))
    assert int8_of(again, ".mlp.experts.") == 1
    name = again.config._experts_implementation + ("" if implementation else " (the default)")
    print(f"saved, loaded with {name}: {answer(again)}")
    works = answer(again).startswith("error")
    assert works == (implementation == "eager"), name
PYTHON
