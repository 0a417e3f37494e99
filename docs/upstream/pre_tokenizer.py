"""AutoTokenizer puts GPT-2's pre-tokenizer in the place of the one in tokenizer.json: other ids for the same text.

What      a pre-tokenizer cuts a text into pieces before BPE merges bytes within each piece; tokenizer.json holds it.
          MiniMax-Text-01's tokenizer_config.json says "tokenizer_class": "GPT2Tokenizer".
Expected  AutoTokenizer gives the ids that tokenizer.json gives when the tokenizers library reads it: the model was
          trained on them. 4.57.6 does.
Seen      5.23.0 and 5.24.0: for three of the five texts below other ids, without a warning. GPT2Tokenizer makes a
          pre-tokenizer of its own and never looks at the file's. The same files beside a config.json that says
          minimax_m2 are read right.
Where     GPT2Tokenizer.__init__ in models/gpt2/tokenization_gpt2.py. models/auto/tokenization_auto.py passes it by for
          the model types in MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS; minimax_m2 is one of them, minimax is not.
Fix       "minimax" in MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS (huggingface/transformers, pull request 48641, did so
          for others), or ("minimax", "TokenizersBackend") in TOKENIZER_MAPPING_NAMES, as Granite has it (issue 45812,
          pull request 45813).

The tokenizer here is made for the purpose: bytes, a few merges, and a pre-tokenizer that cuts digits by threes and
keeps line breaks together, as that of many models does. MiniMax's own tokenizer.json was not read. If its pre-tokenizer
is GPT-2's, its texts are not touched.

    python pre_tokenizer.py     # exit code 1: the trap is there; 0: it is not
"""

import json
import sys
import tempfile
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer

PIECES = r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
MERGES = [("1", "2"), ("12", "3"), ("2", "3"), ("4", "5"), (":", "Ċ"), ("Ċ", "Ċ"), ("ĊĊ", "Ċ")]  # Ċ stands for "\n"
SPECIAL = {  # as in https://huggingface.co/MiniMaxAI/MiniMax-Text-01/blob/main/tokenizer_config.json
    "bos_token": "<beginning_of_sentence>",
    "eos_token": "<end_of_sentence>",
    "unk_token": "<end_of_document>",
}
TEXTS = (
    "45123 and 1234567",
    "one\n\n\ntwo  three",
    "def f(x):\n    return x\n",
    "蛋黄酱怎么做？",
    "<beginning_of_sentence>user name=user\nHello<end_of_sentence>\n",
)
RIGHT = 0  # texts with other ids


def tokenizer() -> Tokenizer:
    """Byte-level BPE with a pre-tokenizer that is not GPT-2's."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in MERGES)]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=MERGES))
    pieces = pre_tokenizers.Split(Regex(PIECES), "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([pieces, as_bytes])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL.values()))
    return made


def texts_with_other_ids(model_type: str) -> float:
    """Of TEXTS: for how many AutoTokenizer gives other ids than the file, beside a config of `model_type`."""
    made = tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        made.save(str(Path(folder, "tokenizer.json")))
        Path(folder, "config.json").write_text(json.dumps({"model_type": model_type}))
        Path(folder, "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", **SPECIAL}))
        read = AutoTokenizer.from_pretrained(folder)
    return float(sum(read(text)["input_ids"] != made.encode(text).ids for text in TEXTS))


def figures() -> dict[str, float]:
    of = f"texts of {len(TEXTS)} with other ids"
    return {of: texts_with_other_ids("minimax"), f"{of}, as minimax_m2": texts_with_other_ids("minimax_m2")}


def main() -> int:
    found = figures()
    print("pre_tokenizer:", "; ".join(f"{k} {v:.2g}" for k, v in found.items()))
    return int(any(v > RIGHT for v in found.values()))


if __name__ == "__main__":
    sys.exit(main())
