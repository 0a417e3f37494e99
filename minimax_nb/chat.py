"""A conversation: messages in, streamed replies out, every token computed once.

    chat = Chat(model, tokenizer, system="You are a helpful assistant.")
    chat.send("What is your favourite condiment?", max_new_tokens=100)
    for piece in chat.stream("Do you have a recipe for it?", do_sample=True):
        print(piece, end="")

The cache is kept from turn to turn. A turn appends the ids of what the template puts after the last reply; the reply
itself stays the ids that the model sampled, for decoding and tokenising again may give other ids. Stopping a stream
(`close`, leaving the loop, Ctrl-C) takes the cache back, and the chat is as if that turn had never been asked.

It knows one conversation at a time: no batches, no beams. `generation` is whatever `model.generate` takes, and
`generator`, a torch.Generator to draw from instead of the one that all share, and `watch`, a function that is called
after each draw with the token (1, 1), the scores it was drawn from and the model's own logits (1, vocabulary). But not
`stop_strings`, which `generate` drops beside a decoding loop of one's own: give a StopStringCriteria among
`stopping_criteria` instead. Special tokens that a user types are read as such, as everywhere in Transformers.
"""

import functools
import weakref
from collections.abc import Iterable, Iterator

import torch
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from .cache import CACHE_ARGUMENT, get_mask_sizes, get_seq_length, repair_cache, restore, snapshot

MARK = "\ue000reply\ue000"  # stands for the last reply while the template is asked what follows it


class _OwnCache(MiniMaxCache):
    """Right even while another thread is inside `stock_cache()`, which puts back the methods of the class above."""

    get_seq_length = get_seq_length
    get_mask_sizes = get_mask_sizes


class Chat:
    """One conversation with `model`. `messages` is a list of {"role", "content"}, `ids` all token ids so far.

    Making one calls `repair_cache()`, which holds for the whole process.
    Raises ValueError if the tokenizer has no chat template.
    """

    def __init__(self, model, tokenizer, system: str | None = None):
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template: load a folder that `minimax-nb patch` made")
        if system is not None:
            _require_text("system", system)
        repair_cache()
        self.model, self.tokenizer = model, tokenizer
        self.messages = [] if system is None else [{"role": "system", "content": system}]
        self.ids: list[int] = []
        self._cache = _OwnCache()
        self._fed = 0  # how many of the ids the cache has seen; the last one sampled waits for the next turn
        self._last = None  # what undo needs: ids, ids fed and cache before the last turn
        self._running = lambda: None  # the stream not yet finished, if it still exists

    def send(self, text: str, **generation) -> str:
        """The reply to `text`."""
        return "".join(self.stream(text, **generation))

    def stream(self, text: str, **generation) -> Iterator[str]:
        """The reply in pieces, whole characters only. `messages` grows when it has ended.

        A stream that was left unfinished is closed, so that its turn leaves no trace. TypeError or ValueError for a
        message that is no text, or an empty one.
        """
        _require_text("the message", text)
        return self._started(self._turn(text, generation))

    def stream_again(self, **generation) -> Iterator[str]:
        """Another reply to the last message, in pieces. Left unfinished, it leaves the old reply where it was.

        ValueError, when the first piece is asked for, if there is no turn that `undo` could take back.
        """
        return self._started(self._turn(None, generation))

    def undo(self) -> str:
        """Take back the last turn, and return what the user had said. ValueError if there is none, or it is done."""
        if self._last is None:
            raise ValueError("no turn to take back: only the last one can be, and once")
        count, self._fed, before = self._last
        restore(self._cache, before)
        self._last = None
        self.ids = self.ids[:count]
        *self.messages, user, _ = self.messages
        return user["content"]

    def regenerate(self, **generation) -> str:
        """Another reply to the last message. If it is interrupted the old reply stays."""
        return "".join(self.stream_again(**generation))

    def _started(self, turn: Iterator[str]) -> Iterator[str]:
        if (unfinished := self._running()) is not None:
            unfinished.close()
        self._running = weakref.ref(turn)  # weak: leaving a loop over the stream must end it
        return turn

    def _turn(self, text: str | None, generation: dict) -> Iterator[str]:
        """The turn that `text` asks for, or without a text the last one once more."""
        kept = self.messages, self.ids, self._last
        text = self.undo() if text is None else text
        count, fed, before = len(self.ids), self._fed, snapshot(self._cache)
        try:
            prompt, tokens, pieces = self.ids + self._new_ids(text), [], []
            for piece in self._pieces(_recorded(self._sample(prompt, generation), tokens)):
                pieces.append(piece)
                yield piece
        except BaseException:  # GeneratorExit and KeyboardInterrupt too
            restore(self._cache, before)
            self.messages, self.ids, self._last = kept  # the cache may lack some of them: the next turn feeds those
            raise
        self.ids = prompt + tokens
        self._fed, self._last = len(self.ids) - 1, (count, fed, before)
        reply = {"role": "assistant", "content": "".join(pieces)}
        self.messages = [*self.messages, {"role": "user", "content": text}, reply]

    def _new_ids(self, text: str) -> list[int]:
        """Ids of what the template writes from the end of the last reply to the start of the next."""
        messages = [*self.messages, {"role": "user", "content": text}]
        if not self.ids:
            return self._tokenised(self._rendered(messages))
        messages[-2] = {"role": "assistant", "content": MARK}
        parts = self._rendered(messages).split(MARK)
        if len(parts) != 2:
            raise ValueError("the chat template must write each reply once")
        new = self._tokenised(parts[1])
        return new[1:] if new[:1] == self.ids[-1:] else new  # the model has said <end_of_sentence> itself, or was cut

    def _rendered(self, messages: list[dict]) -> str:
        # MiniMax's template reads content[0]["text"]
        lists = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in messages]
        return self.tokenizer.apply_chat_template(lists, add_generation_prompt=True, tokenize=False)

    def _tokenised(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _sample(self, prompt: list[int], generation: dict) -> Iterator[int]:
        """New token ids, one by one. `generate` prepares sampling and stopping, `_decode` is its loop."""
        settings, end = generation.get("generation_config") or self.model.generation_config, self.tokenizer.eos_token_id
        own = {name: generation.pop(name, None) for name in ("generator", "watch")}
        defaults = {"pad_token_id": end}
        if settings.eos_token_id is None:
            defaults["eos_token_id"] = end
        if settings.max_new_tokens is None and settings.max_length is None and "max_length" not in generation:
            defaults["max_new_tokens"] = 512
        ids = torch.tensor([prompt], device=self.model.device)
        return self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            custom_generate=functools.partial(_decode, fed=self._fed, **own),
            **{CACHE_ARGUMENT: self._cache} | defaults | generation,
        )

    def _pieces(self, tokens: Iterable[int]) -> Iterator[str]:
        held = []  # a character of several bytes may be several tokens, and reads U+FFFD until it is complete
        for token in tokens:
            held.append(token)
            text = self._text(held)
            if not text.endswith("\ufffd"):
                held = []
                if text:
                    yield text
        if rest := self._text(held).rstrip("\ufffd"):
            yield rest

    def _text(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _require_text(what: str, text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{what} is a {type(text).__name__}: give a string, one message at a time")
    if not text.strip():
        raise ValueError(f"{what} is empty: say something")


def _decode(
    model,
    input_ids,
    logits_processor,
    stopping_criteria,
    generation_config,
    *,
    fed,
    generator,
    watch,
    **given,
) -> Iterator[int]:
    """The loop that `generate` runs on what it has prepared: one row, ids from `fed` on are new to the cache."""
    if len(input_ids) > 1:
        raise ValueError("Chat decodes one sequence: leave num_beams and num_return_sequences at 1")
    kept, done = {CACHE_ARGUMENT: given[CACHE_ARGUMENT]}, False
    while not done:
        with torch.no_grad():  # each step by itself: whoever reads the stream keeps their own setting
            new, fed = input_ids[:, fed:], input_ids.shape[1]
            logits = model(new, **kept, use_cache=True, logits_to_keep=1).logits[:, -1]
            logits = logits.to(input_ids.device, torch.float32)
            scores = logits_processor(input_ids, logits)
            if generation_config.do_sample:
                token = scores.softmax(-1).multinomial(1, generator=generator)
            else:
                token = scores.argmax(-1, True)
            if watch:
                watch(token, scores, logits)
            input_ids = torch.cat([input_ids, token], dim=-1)
            done = bool(stopping_criteria(input_ids, None).all())
        yield token.item()


def _recorded(tokens: Iterable[int], record: list[int]) -> Iterator[int]:
    for token in tokens:
        record.append(token)
        yield token
