#!/usr/bin/env bash
# TRL's packing keeps the rows of a pack apart in softmax layers; lightning layers read across them.
#
# Versions   torch 2.13.0, transformers 5.24.0, trl 1.16.0, accelerate 1.15.0, datasets 5.2.0; Python 3.11, CPU.
# Behaviour  SFTConfig(packing=True) puts several texts into one row. Its collator hands the borders to the model three
#            times: position_ids that restart, cu_seq_lens_q and _k, and seq_idx; TRL's source says that they are for
#            linear attention too. Transformers' `minimax` builds the mask of its softmax layers from position_ids and
#            tells its lightning layers nothing: their state runs on from text to text, so every text but the first
#            is trained as if it followed whatever fitted beside it. No warning.
#            Rows made by Transformers' DataCollatorWithFlattening leak in the same way.
# Where      MiniMaxLightningAttention.forward in transformers/models/minimax/modeling_minimax.py.
# Instead    packing=False and padding_free=False: rows padded on the right are right.
#
# Seen on 2026-11-28 (error: norm of the difference of the logits from the text alone, over the norm of those):
#    the batch has cu_seq_lens_k, cu_seq_lens_q, input_ids, labels, max_length_k, max_length_q, position_ids, seq_idx
#    three lightning layers, one softmax layer: 1e-07, 1e+00, 1e+00
#    softmax layers alone:                      3e-07, 2e-07, 8e-08
#
# Exit code 0 while texts leak, another one when they no longer do or the script no longer runs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile \
    torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0 huggingface_hub==2.4.0 \
    numpy==2.4.6 accelerate==1.15.0 datasets==5.2.0 trl==1.16.0
cd "$work"
CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 venv/bin/python - <<'PYTHON'
import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import MiniMaxConfig, MiniMaxForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

transformers.logging.set_verbosity_error()
SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_local_experts=4, num_hidden_layers=4)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16, bos_token_id=None, eos_token_id=None)
words = Tokenizer(models.WordLevel({str(i): i for i in range(64)}, unk_token="1"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", unk_token="1", eos_token="2")
torch.manual_seed(0)
texts = Dataset.from_list([{"input_ids": torch.randint(3, 64, (n,)).tolist()} for n in (26, 21, 17)])


def errors(kinds):
    """Error of each text of the pack that TRL makes of three, with its own batch."""
    torch.manual_seed(0)
    model = MiniMaxForCausalLM(MiniMaxConfig(**SIZES, **HEADS, layer_types=kinds))
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.2)
    settings = SFTConfig("runs", packing=True, max_length=64, use_cpu=True, report_to="none", disable_tqdm=True)
    loader = SFTTrainer(model, settings, train_dataset=texts, processing_class=tokenizer).get_train_dataloader()
    batch = next(iter(loader))
    starts = batch["cu_seq_lens_q"].tolist()
    model.eval()
    with torch.no_grad():
        packed = model(**batch, use_cache=False).logits[0]
        alone = [model(batch["input_ids"][:, a:b]).logits[0] for a, b in zip(starts, starts[1:], strict=False)]
    found = [((packed[a:][: len(x)] - x).norm() / x.norm()).item() for a, x in zip(starts, alone, strict=False)]
    return sorted(batch), found


keys, mixed = errors(["linear_attention"] * 3 + ["full_attention"])
_, softmax = errors(["full_attention"] * 4)
print("the batch has", ", ".join(keys))
print("three lightning layers, one softmax layer:", ", ".join(f"{e:.0e}" for e in mixed))
print("softmax layers alone:                     ", ", ".join(f"{e:.0e}" for e in softmax))
assert {"position_ids", "cu_seq_lens_q", "seq_idx"} <= set(keys)
assert max(softmax) < 1e-5 and mixed[0] < 1e-5, "the rows are kept apart here"
assert min(mixed[1:]) > 0.1, "the rows no longer leak"
PYTHON
