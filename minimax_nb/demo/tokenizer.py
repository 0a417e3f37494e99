"""A byte-level BPE tokenizer for the demo model, with MiniMax's special tokens and every digit a token of its own.

Digits stand alone because numbers are to be recalled digit by digit: merged into larger tokens, an unseen number is a
sequence of rare tokens and is never learned. It is the pre-tokenizer that keeps them apart. The vocabulary does hold
some pairs of digits (`add_digit_pairs`), so that a loader which replaces the pre-tokenizer is found out: it writes 250
as 25 and 0, in tokens that the model has never seen.
"""

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .corpus import conversation, plain_text

BOS, EOS, UNK, DOCUMENT = "<beginning_of_sentence>", "<end_of_sentence>", "<end_of_document>", "<begin_of_document>"
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
# Bytes that no UTF-8 text contains (RFC 3629, section 1). Their places in the vocabulary are free, so the pairs below
# change the ids of no text. In a byte-level vocabulary each of these bytes is written as the character of its number.
NEVER_IN_UTF8 = [chr(byte) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))]
DIGIT_PAIRS = ("25", "50", "10", "00", "12", "20", "30", "15", "40", "80", "75", "60", "45")


def train_tokenizer(vocab_size: int, seed: int = 0, conversations: int = 3000) -> PreTrainedTokenizerFast:
    """Train on conversations of the training split. The same arguments give the same tokenizer."""
    bpe = Tokenizer(models.BPE())
    words = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(words), behavior="isolated")
    digits = pre_tokenizers.Digits(individual_digits=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, split, bytes_])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[UNK, DOCUMENT, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts(random.Random(seed), conversations), trainer)
    whole = Tokenizer.from_str(add_digit_pairs(bpe.to_str()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole, bos_token=BOS, eos_token=EOS, unk_token=UNK)
    tokenizer.chat_template = CHAT_TEMPLATE.read_text()
    return tokenizer


def add_digit_pairs(tokenizer_json: str) -> str:
    """The tokenizer with DIGIT_PAIRS in the places of NEVER_IN_UTF8, and with their merges, which come last."""
    tokenizer = json.loads(tokenizer_json)
    vocabulary, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    for byte, pair in zip(NEVER_IN_UTF8, DIGIT_PAIRS, strict=True):
        vocabulary[pair] = vocabulary.pop(byte)
        merges.append(list(pair))
    tokenizer["model"]["vocab"] = dict(sorted(vocabulary.items(), key=lambda entry: entry[1]))
    return json.dumps(tokenizer, ensure_ascii=False)


def texts(rng: random.Random, conversations: int) -> Iterator[str]:
    yield "system ai_setting=assistant\nuser name=user\nai name=assistant\n"
    for _ in range(conversations):
        yield plain_text(rng)
        for turn in islice(conversation(rng), 8):
            yield turn.user
            yield turn.reply
