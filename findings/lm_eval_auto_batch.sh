#!/usr/bin/env bash
# lm_eval with batch_size "auto" tries MiniMax-Text-01 on 10,240,000 tokens first; its perplexity knows no window.
#
# Versions   torch 2.13.0, transformers 5.24.0, lm_eval 0.4.13, accelerate 1.15.0; Python 3.11, CPU.
# Behaviour  HFLM takes max_position_embeddings for the length of its inputs; MiniMax-Text-01's config says 10,240,000.
#            Before a generation task, batch_size="auto" looks for the largest batch by forward passes of that length,
#            whatever the prompts: 64 rows, then half as many after each CUDA out of memory, and settles on 1. A
#            machine planned for 1M tokens is not planned for the last try either.
#            loglikelihood_rolling, which gives wikitext's word perplexity, cuts a text into windows of the same
#            length, so it does not cut: figures cannot be compared with those of a model of 2,048 or 4,096.
# Where      HFLM._detect_batch_size and resolve_max_length in lm_eval/models/.
# Instead    batch_size as a number, and max_length=4096 in model_args.
#
# The script never makes such a pass: it notes the shape and answers with the error that a full GPU would raise.
#
# Seen on 2026-11-28:
#    Passed argument batch_size = auto. Detecting largest batch size
#    Determined Largest batch size: 1
#    a prompt of 2 tokens, batch_size=auto tries [(2, 10240000), (1, 10240000)]
#    perplexity of 5,000 tokens, as it comes reads [(1, 5000)]
#    perplexity of 5,000 tokens, {'max_length': 2048} reads [(1, 2048), (1, 2048), (1, 2048)]
#
# Exit code 0 while it is so, another one when a shorter batch is tried or the script no longer runs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile \
    torch==2.13.0 transformers==5.24.0 tokenizers==0.23.3 safetensors==0.8.0 huggingface_hub==2.4.0 \
    numpy==2.4.6 accelerate==1.15.0 lm_eval[hf]==0.4.13
cd "$work"
CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 venv/bin/python - <<'PYTHON'
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import MiniMaxConfig, MiniMaxForCausalLM, PreTrainedTokenizerFast

LENGTH = 10_240_000  # max_position_embeddings of MiniMax-Text-01
SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_local_experts=4, num_hidden_layers=2)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2, head_dim=16, bos_token_id=None, eos_token_id=None)
config = MiniMaxConfig(**SIZES, **HEADS, max_position_embeddings=LENGTH)
words = Tokenizer(models.WordLevel({"word": 2, "<unk>": 1, "<end>": 0}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<end>", pad_token="<end>")


class Noted(HFLM):
    """Notes the shape of each forward pass; one that no machine holds ends as on a full GPU."""

    def __init__(self, **settings):
        super().__init__(MiniMaxForCausalLM(config).eval(), tokenizer=tokenizer, device="cpu", **settings)
        self.shapes = []

    def _model_call(self, ids, *args, **kwargs):
        self.shapes.append(tuple(ids.shape))
        if ids.numel() > 1_000_000:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super()._model_call(ids, *args, **kwargs)


def request(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=arguments, idx=0)]


auto = Noted(batch_size="auto", max_batch_size=2)  # 64 unless told; 2 keeps the ids of this test small
auto.generate_until(request("generate_until", "word word", {"max_gen_toks": 2, "until": ["<end>"]}))
print("a prompt of 2 tokens, batch_size=auto tries", auto.shapes)
assert auto.shapes[:2] == [(2, LENGTH), (1, LENGTH)]

for settings in ({}, {"max_length": 2048}):
    rolling = Noted(batch_size=1, **settings)
    rolling.loglikelihood_rolling(request("loglikelihood_rolling", "word " * 5000))
    print("perplexity of 5,000 tokens,", settings or "as it comes", "reads", rolling.shapes)
    assert (len(rolling.shapes) == 1) == (not settings)
PYTHON
