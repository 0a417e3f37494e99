"""`generate` of MiniMax's class: what it cannot do is said, and a prompt can be fed in pieces."""

import pytest
import torch
from transformers import GenerationConfig, MiniMaxForCausalLM

from minimax_nb.cache import CACHE_ARGUMENT
from minimax_nb.errors import UsageMistake
from minimax_nb.generation import explain_generate

ROWS = torch.tensor([[0] * 9 + [5, 6, 7], list(range(20, 32))])
SETTINGS = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}


@pytest.mark.parametrize("asked", ["prompt_lookup_num_tokens", "assistant_model", "generation_config"])
def test_drafts_are_refused_by_name(loaded, asked):
    model, _ = loaded
    value = {"prompt_lookup_num_tokens": 3, "assistant_model": model}.get(asked)
    value = value or GenerationConfig(prompt_lookup_num_tokens=3)
    with pytest.raises(UsageMistake, match="cannot take back a rejected draft"):
        model.generate(ROWS[1:], **{asked: value}, **SETTINGS)


@pytest.mark.parametrize("size", [1, 4, 12, 50])
def test_a_prompt_in_pieces_gives_the_same_reply(loaded, size):
    model, _ = loaded
    widths = []
    hook = model.model.embed_tokens.register_forward_hook(lambda _, ids, __: widths.append(ids[0].shape[1]))
    got = model.generate(ROWS[1:], prefill_chunk_size=size, **SETTINGS)
    hook.remove()
    assert widths[0] == min(size, 12)
    assert got.equal(model.generate(ROWS[1:], use_cache=False, **SETTINGS))


def test_with_beams_too(loaded):
    model, _ = loaded
    got = model.generate(ROWS[1:], prefill_chunk_size=4, num_beams=3, **SETTINGS)
    assert got.equal(model.generate(ROWS[1:], num_beams=3, **SETTINGS))


def test_the_cache_that_was_given_is_used(loaded):
    model, _ = loaded
    first = model.generate(ROWS[1:], return_dict_in_generate=True, **SETTINGS)
    cache = first[CACHE_ARGUMENT]
    longer = torch.cat([first.sequences, ROWS[1:, :7]], 1)
    got = model.generate(longer, **{CACHE_ARGUMENT: cache}, prefill_chunk_size=3, **SETTINGS)
    assert got.equal(model.generate(longer, use_cache=False, **SETTINGS))


def test_twice_is_once(loaded):
    explain_generate()
    before = MiniMaxForCausalLM.generate
    explain_generate()
    assert MiniMaxForCausalLM.generate is before


def test_stop_strings_come_with_a_tokenizer(loaded):
    """`generate` hands the tokenizer on to every layer, as `transformers serve` makes it do."""
    model, tokenizer = loaded
    plain = model.generate(ROWS[1:], **SETTINGS)
    word = tokenizer.decode(plain[0, -3])
    got = model.generate(ROWS[1:], stop_strings=[word], tokenizer=tokenizer, **SETTINGS)
    assert got.shape[1] <= plain.shape[1] - 2 and plain[:, : got.shape[1]].equal(got)


def test_a_model_that_trl_has_trained_generates_in_a_batch(loaded, monkeypatch):
    """SFTTrainer leaves output_router_logits on, and Transformers then wants a loss that fits no step."""
    model, _ = loaded
    batch = {"attention_mask": (torch.arange(12) > torch.tensor([[8], [-1]])).long()}
    want = model.generate(ROWS, **batch, **SETTINGS)
    monkeypatch.setattr(model.config, "output_router_logits", True)
    assert want.equal(model.generate(ROWS, **batch, **SETTINGS))
