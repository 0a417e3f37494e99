"""`generate` of MiniMax's class: it says what it cannot do, and feeds a long prompt in pieces.

    explain_generate()          # once a process; load(), Chat and minimax_nb.run do it

Two things go wrong in Transformers' own because MiniMax makes its cache inside the first forward pass, so
`generate` has none before it. Assisted decoding and prompt lookup raise "requires a cache", and no cache
would help: rejected drafts have to be taken out again, and a lightning state cannot be un-decayed.
`prefill_chunk_size` raises "without a cache", and there an empty cache is all that is missing.

Without a `prefill_chunk_size` Transformers feeds a prompt at once, which for 131,072 tokens takes 18 GB beside
weights and cache. So it is set here where the prompt is longer than a piece (prefill.py), unless the caller set it.
A streamer that has a method `piece_done` is told after each piece, and may raise to end it there.
And the ranks of a split model must agree before they draw tokens.
And a config that asks for the routers' logits, as TRL's trainers leave it, makes Transformers compute a balance loss
at every step, under a mask that is longer than the step: a RuntimeError about sizes. Nobody wants that loss here.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor
from transformers import GenerationMixin
from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxForCausalLM

from .cache import CACHE_ARGUMENT, reserve
from .errors import UsageMistake
from .parallel.layers import agree_before_generate
from .prefill import piece_for
from .terminal import token_progress

DRAFTS = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")
READ = ("use_cache", "prefill_chunk_size", "num_beams", "num_return_sequences")
CACHES = (CACHE_ARGUMENT, "past_key_values")
PACKED = ("position_ids", "cu_seq_lens_q", "seq_idx")  # documents in one row: one shot sees them, and refuses a cache


def explain_generate() -> None:
    """From now on MiniMax's `generate` is the one below. Calling it twice is fine."""
    MiniMaxForCausalLM.generate = generate


@functools.wraps(GenerationMixin.generate)
def generate(self, inputs=None, generation_config=None, *others, **kwargs):
    config = generation_config or self.generation_config
    asked = {name: kwargs.get(name, getattr(config, name, None)) for name in (*DRAFTS, *READ)}
    if draft := next((name for name in DRAFTS if asked[name]), None):
        raise UsageMistake(
            f"{draft}: assisted decoding and prompt lookup are not possible with MiniMax, because its lightning "
            f"layers cannot take back a rejected draft: leave {draft} out"
        )
    agree_before_generate(self, inputs, kwargs)
    if self.config.output_router_logits:
        kwargs.setdefault("output_router_logits", False)
    if asked["use_cache"] is False or "custom_generate" in kwargs:  # the latter brings a loop of its own
        return GenerationMixin.generate(self, inputs, generation_config, *others, **kwargs)
    with _in_pieces(self, inputs, asked, kwargs) as more:
        return GenerationMixin.generate(self, inputs, generation_config, *others, **kwargs | more)


@contextmanager
def _in_pieces(model, inputs, asked: dict, kwargs: dict) -> Iterator[dict]:
    """What `generate` must be given besides to feed a long prompt in pieces. Meanwhile progress is shown."""
    cache = next((kwargs[name] for name in CACHES if kwargs.get(name) is not None), None)
    ids, size = kwargs.get("input_ids") if inputs is None else inputs, asked["prefill_chunk_size"]
    new = context = 0
    plain = all(kwargs.get(name) is None for name in PACKED)
    if plain and isinstance(ids, Tensor) and ids.ndim == 2 and isinstance(cache, MiniMaxCache | None):
        rows = len(ids) * max(asked["num_beams"] or 1, asked["num_return_sequences"] or 1)
        new, context = _lengths(ids, kwargs.get("attention_mask"), cache)
        size = size or piece_for(model, rows, context, new)
    if not size or (new <= size and not asked["prefill_chunk_size"]):
        yield {}
        return
    more = {"prefill_chunk_size": size}
    if cache is None:
        cache = more[CACHE_ARGUMENT] = MiniMaxCache()
    reserve(cache, context)
    with _watched(model, size, new, getattr(kwargs.get("streamer"), "piece_done", None)):
        yield more


def _lengths(ids: Tensor, mask: Tensor | None, cache: MiniMaxCache | None) -> tuple[int, int]:
    """Tokens that are new, and all: ids may hold those of the cache too, which `generate` sees by the mask's width."""
    past = 0 if cache is None else cache.get_seq_length()
    width = ids.shape[1]
    if mask is not None and mask.shape[1] != width:
        return width, past + width
    return (width - past, width) if width > past else (width, past + width)


@contextmanager
def _watched(model, size: int, new: int, piece_done: Callable[[], None] | None) -> Iterator[None]:
    """Within it, progress is shown. The hook goes with the last piece, for it would keep the model from fast steps.

    piece_done: called after each piece. What it raises ends `generate`, and the cache holds whole pieces then.
    """
    done = 0

    def count(_, __, output) -> None:
        nonlocal done
        done += (length := output.last_hidden_state.shape[1])
        show(done)
        if length < size or done >= new:
            stop.close()
        if piece_done is not None:
            piece_done()

    with ExitStack() as stop:
        show = stop.enter_context(token_progress(new if new > size else 0))
        stop.callback(model.model.register_forward_hook(count).remove)
        yield
