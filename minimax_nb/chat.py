"""A conversation: messages in, streamed replies out, every token computed once.

    chat = Chat(model, tokenizer, system="You are a helpful assistant.")
    chat.send("What is your favourite condiment?", max_new_tokens=100)
    for piece in chat.stream("Do you have a recipe for it?", do_sample=True):
        print(piece, end="")
    chat.finish_reason      # "stop", or "length" where a limit of tokens or of time cut the reply

The cache is kept from turn to turn. A turn appends the ids of what the template puts after the last reply.
The reply itself stays the ids that the model sampled, because decoding them and tokenising the text again may
give other ids. A long message is fed in pieces (prefill.py). Stopping a stream (`close`, leaving the loop, Ctrl-C,
before the first piece of a reply too) takes the cache back, and the chat is as if that turn had never been asked.

It knows one conversation at a time: no batches, no beams, no drafts of another model. `generation` is
whatever `model.generate` takes, and two things more: `generator`, a torch.Generator to draw from instead of
the one that all share, and `watch`, a function that is called after each draw with the token (1, 1), the
scores it was drawn from and the model's own logits (1, vocabulary).

A special token such as `<end_of_sentence>` that somebody writes into a message stays text, so a message
cannot end itself and begin another. With `split_special_tokens=False` it is read as the token, as elsewhere
in Transformers.
"""

import functools
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from transformers import MaxLengthCriteria, MaxTimeCriteria, StoppingCriteriaList, StopStringCriteria
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from .cache import CACHE_ARGUMENT, Snapshot, get_mask_sizes, get_seq_length, repair_cache, restore, snapshot
from .errors import UsageMistake
from .generation import explain_generate
from .prefill import prefill
from .prompts import Prompts, require_text

LIMITS = (MaxLengthCriteria, MaxTimeCriteria)  # of these two, Transformers' names
LOWEST_TEMPERATURE = 1e-6  # below it, logits divided by the temperature no longer fit into fp32


class _OwnCache(MiniMaxCache):
    """Right even while another thread is inside `stock_cache()`, which puts back the methods of the class above."""

    get_seq_length = get_seq_length
    get_mask_sizes = get_mask_sizes


class _State(NamedTuple):
    """A conversation between two turns. It is replaced as a whole: an interrupt leaves the old one or the new one."""

    messages: list[dict]
    ids: list[int]
    fed: int = 0  # how many of the ids the cache has seen; the last one sampled waits for the next turn
    finish_reason: str | None = None
    back_to: Snapshot | None = None  # set while the cache may have run ahead: it must go back there first
    before: "_State | None" = None  # what `undo` returns to


@dataclass
class _Drawn:
    """What the decoding loop has to say besides its tokens."""

    ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None


class Chat:
    """One conversation with `model`. `messages` is a list of {"role", "content"}, `ids` all token ids so far.

    `finish_reason` is that of the last reply: "stop" if the model or a stopping criterion ended it, "length"
    if `max_new_tokens` or another limit did, None before the first one. Making a Chat calls `repair_cache()`
    and `explain_generate()`, which hold for the whole process. Raises CheckpointError (a ValueError) if the
    tokenizer has no chat template, TypeError or UsageMistake (a ValueError) for a system message that is no
    text, or an empty one.
    """

    def __init__(self, model, tokenizer, system: str | None = None, *, split_special_tokens: bool = True):
        prompts = Prompts(tokenizer, split_special_tokens)
        if system is not None:
            require_text("system", system)
        repair_cache()
        explain_generate()
        self.model, self.tokenizer, self._prompts = model, tokenizer, prompts
        self._cache = _OwnCache()
        self._state = _State([] if system is None else [{"role": "system", "content": system}], [])
        self._open = _no_stream, None  # the latest stream, if it still exists, and the message that it answers

    @property
    def messages(self) -> list[dict]:
        return self._state.messages

    @property
    def ids(self) -> list[int]:
        return self._state.ids

    @property
    def finish_reason(self) -> str | None:
        return self._state.finish_reason

    def send(self, text: str, **generation) -> str:
        """The reply to `text`."""
        return "".join(self.stream(text, **generation))

    def stream(self, text: str, **generation) -> Iterator[str]:
        """The reply in pieces, whole characters only. `messages` grows when it has ended.

        A stream that was left unfinished is closed, so that its turn leaves no trace. TypeError or
        UsageMistake (a ValueError) for a message that is no text, or an empty one.
        """
        require_text("the message", text)
        return self._started(text, generation)

    def stream_again(self, **generation) -> Iterator[str]:
        """Another reply to the last message, in pieces. Left unfinished, it leaves the old reply where it was.

        ValueError, when the first piece is asked for, if there is no turn that `undo` could take back.
        """
        return self._started(None, generation)

    def undo(self) -> str:
        """Take back the last turn, and return what the user had said. ValueError if there is none, or it is done.

        A turn whose stream was left unfinished is the last one.
        """
        if (unanswered := self._close_stream()) is not None:
            return unanswered
        text, self._state = self._last_message(), self._state.before
        self._settle()
        return text

    def regenerate(self, **generation) -> str:
        """Another reply to the last message. If it is interrupted the old reply stays."""
        return "".join(self.stream_again(**generation))

    # A turn. Its cache runs ahead of the state until the turn ends, and the state knows how to take it back.

    def _started(self, text: str | None, generation: dict) -> Iterator[str]:
        self._close_stream()
        turn = self._turn(text, generation)
        self._open = weakref.ref(turn), text  # weak: leaving a loop over the stream must end it
        return turn

    def _close_stream(self) -> str | None:
        """Close the latest stream, and return its message if it was an unfinished one."""
        find, text = self._open
        stream = find()
        if stream is None or inspect.getgeneratorstate(stream) == inspect.GEN_CLOSED:
            return None
        stream.close()
        return text

    def _turn(self, text: str | None, generation: dict) -> Iterator[str]:
        """The turn that `text` asks for, or without a text the last one once more."""
        if text is None:
            text, start = self._last_message(), self._state.before
        else:
            self._settle()
            start = self._state._replace(back_to=snapshot(self._cache), before=None)
        self._state = self._state._replace(fed=start.fed, back_to=start.back_to)
        try:
            if self._state.before is not None:
                restore(self._cache, start.back_to)
            asked = [*start.messages, {"role": "user", "content": text}]
            new = self._prompts.next(asked, start.ids[-1]) if start.ids else self._prompts.first(asked)
            prompt, drawn, pieces = start.ids + new, _Drawn(), []
            for piece in self._pieces(self._sample(prompt, start.fed, drawn, generation)):
                pieces.append(piece)
                yield piece
            reply = {"role": "assistant", "content": "".join(pieces)}
            ids = prompt + drawn.ids
            self._state = _State([*asked, reply], ids, len(ids) - 1, drawn.finish_reason, before=start)
        except BaseException:  # GeneratorExit and KeyboardInterrupt too
            self._settle()  # the cache may then lack some of the ids: the next turn feeds those
            raise

    def _settle(self) -> None:
        """Take the cache back if a turn has left it ahead. Interrupted, it is done again by the next turn."""
        if self._state.back_to is not None:
            restore(self._cache, self._state.back_to)
            self._state = self._state._replace(back_to=None)

    def _last_message(self) -> str:
        if self._state.before is None:
            raise ValueError("no turn to take back: only the last one can be, and once")
        return self._state.messages[-2]["content"]

    # Tokens, and their text

    def _sample(self, prompt: list[int], fed: int, drawn: _Drawn, generation: dict) -> Iterator[int]:
        """New token ids, one by one. `generate` prepares sampling and stopping, `_decode` is its loop."""
        given = self._settings(generation)
        own = {name: given.pop(name, None) for name in ("generator", "watch")}
        ids = torch.tensor([prompt], device=self.model.device)
        return self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            custom_generate=functools.partial(_decode, fed=fed, drawn=drawn, **own),
            **{CACHE_ARGUMENT: self._cache} | given,
        )

    def _settings(self, generation: dict) -> dict:
        """The caller's settings, with defaults where neither they nor the folder's generation_config has one.

        The folder's `num_beams` is not for a chat. `stop_strings` become a criterion here, because beside a
        decoding loop of one's own `generate` loses the tokenizer that it reads them with.
        """
        folder, end = self.model.generation_config, self.tokenizer.eos_token_id
        config = generation.get("generation_config") or folder
        defaults = {"pad_token_id": end}
        for name in ("num_beams", "num_return_sequences"):
            if config is folder or getattr(config, name) is None:
                defaults[name] = 1
        if config.eos_token_id is None:
            defaults["eos_token_id"] = end
        if config.max_new_tokens is None and config.max_length is None and "max_length" not in generation:
            defaults["max_new_tokens"] = 512
        given = defaults | generation
        given.pop("tokenizer", None)
        if given.get("do_sample", config.do_sample):
            require_temperature(given.get("temperature", config.temperature))
        if strings := given.get("stop_strings") or config.stop_strings or folder.stop_strings:
            criteria = [*given.get("stopping_criteria", []), StopStringCriteria(self.tokenizer, strings)]
            given |= {"stop_strings": None, "stopping_criteria": StoppingCriteriaList(criteria)}
        return given

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


def _decode(
    model,
    input_ids,
    logits_processor,
    stopping_criteria,
    generation_config,
    *,
    fed: int,
    drawn: _Drawn,
    generator: torch.Generator | None,
    watch: Callable | None,
    **given,
) -> Iterator[int]:
    """The loop that `generate` runs on what it has prepared: one row, ids from `fed` on are new to the cache."""
    if len(input_ids) > 1:
        raise UsageMistake("Chat decodes one sequence: leave num_beams and num_return_sequences at 1")
    cache, piece = given[CACHE_ARGUMENT], generation_config.prefill_chunk_size
    while drawn.finish_reason is None:
        with torch.no_grad():  # each step by itself: whoever reads the stream keeps their own setting
            logits = prefill(model, input_ids[:, fed:], cache=cache, piece=piece).logits
            fed, logits = input_ids.shape[1], logits.to(input_ids.device, torch.float32)
            scores = logits_processor(input_ids, logits)
            if generation_config.do_sample:
                token = scores.softmax(-1).multinomial(1, generator=generator)
            else:
                token = scores.argmax(-1, True)
            if watch:
                watch(token, scores, logits)
            input_ids = torch.cat([input_ids, token], dim=-1)
            drawn.ids.append(token.item())
            reached = [each for each in stopping_criteria if torch.as_tensor(each(input_ids, None)).all()]
        if reached:
            cut = all(isinstance(each, LIMITS) for each in reached)
            drawn.finish_reason = "length" if cut else "stop"
        yield drawn.ids[-1]


def require_temperature(value: float | None) -> None:
    """UsageMistake for a temperature that logits cannot be divided by."""
    if value is not None and not LOWEST_TEMPERATURE <= value < float("inf"):
        wanted = f"give at least {LOWEST_TEMPERATURE:g}, or do_sample=False for the likeliest token"
        raise UsageMistake(f"the temperature is {value}: {wanted}")


def _no_stream() -> None:
    """In the place of a weak reference, before there is a stream."""
