"""`generate` of MiniMax's class, saying what it cannot do, and feeding a prompt in pieces where it is asked to.

    explain_generate()          # once a process; load(), Chat and minimax_nb.run do it

Two things go wrong in Transformers' own because MiniMax makes its cache inside the first forward pass, so
`generate` has none before it. Assisted decoding and prompt lookup raise "requires a cache", and no cache
would help: rejected drafts have to be taken out again, and a lightning state cannot be un-decayed.
`prefill_chunk_size` raises "without a cache", and there an empty cache is all that is missing.

And a config that asks for the routers' logits, as TRL's trainers leave it, makes Transformers compute a balance loss
at every step, under a mask that is longer than the step: a RuntimeError about sizes. Nobody wants that loss here.
"""

import functools

from transformers import GenerationMixin
from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxForCausalLM

from .cache import CACHE_ARGUMENT
from .errors import UsageMistake

DRAFTS = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")


def explain_generate() -> None:
    """From now on MiniMax's `generate` is the one below. Calling it twice is fine."""
    MiniMaxForCausalLM.generate = generate


@functools.wraps(GenerationMixin.generate)
def generate(self, inputs=None, generation_config=None, *others, **kwargs):
    config = generation_config or self.generation_config
    given = {name: kwargs.get(name, getattr(config, name, None)) for name in (*DRAFTS, "prefill_chunk_size")}
    if asked := next((name for name in DRAFTS if given[name]), None):
        raise UsageMistake(
            f"{asked}: assisted decoding and prompt lookup are not possible with MiniMax, because its lightning "
            f"layers cannot take back a rejected draft: leave {asked} out"
        )
    uses_cache = kwargs.get("use_cache", config.use_cache) is not False
    brings_cache = any(kwargs.get(name) is not None for name in (CACHE_ARGUMENT, "past_key_values"))
    if given["prefill_chunk_size"] and uses_cache and not brings_cache:
        kwargs[CACHE_ARGUMENT] = MiniMaxCache()
    if self.config.output_router_logits:
        kwargs.setdefault("output_router_logits", False)
    return GenerationMixin.generate(self, inputs, generation_config, *others, **kwargs)
