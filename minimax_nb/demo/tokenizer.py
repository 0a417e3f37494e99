"""A byte-level BPE tokenizer for the demo model, with MiniMax's special tokens and every digit a token of its own.

Digits stand alone because numbers are to be recalled digit by digit: merged into larger tokens, an unseen number is a
sequence of rare tokens and is never learned.
"""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .corpus import conversation, plain_text

BOS, EOS, UNK, DOCUMENT = "<beginning_of_sentence>", "<end_of_sentence>", "<end_of_document>", "<begin_of_document>"
CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


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
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=BOS, eos_token=EOS, unk_token=UNK)
    tokenizer.chat_template = CHAT_TEMPLATE.read_text()
    return tokenizer


def texts(rng: random.Random, conversations: int) -> Iterator[str]:
    yield "system ai_setting=assistant\nuser name=user\nai name=assistant\n"
    for _ in range(conversations):
        yield plain_text(rng)
        for turn in islice(conversation(rng), 8):
            yield turn.user
            yield turn.reply
