"""A byte-level BPE tokenizer of 300 tokens, with MiniMax's special tokens and template, for random folders."""

import json
from pathlib import Path

import minimax_nb

TEXTS = ["mayonnaise and mustard", "one two three", "a recipe for the sauce", "蛋黄酱怎么做", "the the and and one one"]
SPECIAL = {
    "bos_token": "<beginning_of_sentence>",
    "eos_token": "<end_of_sentence>",
    "unk_token": "<end_of_document>",
}
TEMPLATE = Path(minimax_nb.__file__).parent / "demo" / "chat_template.jinja"
VOCABULARY = 300


def write_tokenizer(folder: Path) -> None:
    """Put the tokenizer's files into an original folder, as upstream has them: no pad token, an auto_map."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL.values()), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
