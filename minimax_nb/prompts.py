"""From messages to token ids, through the tokenizer's chat template: the whole of a conversation, or what is new in it.

    prompts = Prompts(tokenizer)
    prompts.first(messages)                  # ids up to where the first reply begins
    prompts.next(messages, last=ids[-1])     # ids from the end of the last reply to where the next one begins

It knows no model. A special token that somebody wrote into a message stays text, unless
`split_special_tokens` is False. The word is Transformers' own; its `apply_chat_template` takes it and ignores
it.
"""

import functools
import re
from collections.abc import Iterable
from itertools import count

from .errors import CheckpointError, UsageMistake

TEMPLATE = "the folder's chat_template.jinja"


class Prompts:
    """Of one tokenizer. CheckpointError (a ValueError) if it has no chat template, or one that cannot be used."""

    def __init__(self, tokenizer, split_special_tokens: bool = True):
        if not tokenizer.chat_template:
            wanted = "a folder that `minimax-nb patch` made has one, chat_template.jinja"
            raise CheckpointError(f"the tokenizer has no chat template: {wanted}")
        self._tokenizer, self._split = tokenizer, split_special_tokens
        self._special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]

    def first(self, messages: list[dict], **known: list) -> list[int]:
        """All ids of a conversation, to where the next reply begins. `known` is what else the template reads: tools."""
        mark = _unused(message["content"] for message in messages)
        return self._ids(self._rendered(messages, mark, **known), mark)

    def next(self, messages: list[dict], last: int) -> list[int]:
        """Ids from the end of the last reply to where the next begins; `last` is the last id of messages[-2]."""
        mark = _unused(message["content"] for message in messages)
        reply = mark + mark  # stands for the reply, which is not tokenised again
        *earlier, answered, asked = messages
        parts = self._rendered([*earlier, answered | {"content": reply}, asked], mark).split(reply)
        if len(parts) != 2:
            raise CheckpointError(f"{TEMPLATE} must write each reply once")
        new = self._ids(parts[1], mark)
        # Unless its reply was cut, the model has said <end_of_sentence> itself
        return new[1:] if new[:1] == [last] else new

    def _rendered(self, messages: list[dict], mark: str, **known: list) -> str:
        """The template's text, with `mark` inside of special tokens that somebody wrote."""
        # MiniMax's template reads content[0]["text"]
        parts = [[{"type": "text", "text": self._shielded(message["content"], mark)}] for message in messages]
        lists = [message | {"content": part} for message, part in zip(messages, parts, strict=True)]
        try:
            text = self._tokenizer.apply_chat_template(lists, add_generation_prompt=True, tokenize=False, **known)
        except Exception as error:  # of jinja, or of Python within an expression of the template
            raise CheckpointError(f"{TEMPLATE} fails on this conversation: {type(error).__name__}: {error}") from error
        if not text.strip():
            raise CheckpointError(f"{TEMPLATE} writes nothing for this conversation")
        return text

    def _shielded(self, text: str, mark: str) -> str:
        for token in self._special if self._split else ():
            text = text.replace(token, token[0] + mark + token[1:])
        return text

    def _ids(self, text: str, mark: str) -> list[int]:
        """Ids of the template's text; special tokens as such, but for those with `mark` inside."""
        tokenised = functools.partial(self._tokenizer, add_special_tokens=False)
        if mark not in text:
            return tokenised(text).input_ids
        # A tokenizer, too, tokenises what stands between special tokens by itself, so nothing else changes
        special = "|".join(map(re.escape, sorted(self._special, key=len, reverse=True)))
        found = []
        for piece in re.split(f"({special})", text):
            if piece in self._special:
                found.append(self._tokenizer.convert_tokens_to_ids(piece))
            elif piece:
                found += tokenised(piece.replace(mark, ""), split_special_tokens=True).input_ids
        return found


def require_text(what: str, text: str) -> None:
    """TypeError or UsageMistake (a ValueError) for a message that is no text, an empty one, or a broken one."""
    if not isinstance(text, str):
        raise TypeError(f"{what} is a {type(text).__name__}: give a string, one message at a time")
    if not text.strip():
        raise UsageMistake(f"{what} is empty: say something")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        broken = f"{what} holds half of a character, {text[error.start]!r} at {error.start}"
        raise UsageMistake(f"{broken}: give whole ones, in UTF-8") from None


def _unused(texts: Iterable[str]) -> str:
    """A string that is in none of the texts, of a character that Unicode keeps for private use."""
    said = "".join(texts)
    return next(mark for size in count(1) if (mark := "\ue000" * size) not in said)
