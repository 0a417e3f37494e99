"""The planner's terms for a conversation, against the bytes of the tensors that a small model holds on a CPU."""

from types import SimpleNamespace

import pytest
import torch
from live_bytes import LiveBytes
from originals import original_config, original_weights, write_original
from tiny_tokenizer import VOCABULARY, write_tokenizer
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from minimax_nb import load
from minimax_nb.cache import CACHE_ARGUMENT
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.checkpoint.folder import read_config
from minimax_nb.decode import buffers, decoder, use_decoding
from minimax_nb.decode.dispatch import _state
from minimax_nb.planner.capacity import GB, Capacity
from minimax_nb.prefill import prefill

BATCH = 3
A_PASS = 60_000  # bytes that a pass of a few tokens of this model takes
SOFTMAX = [0, 1, 0, 1, 0, 1]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    place = tmp_path_factory.mktemp("plan")
    kinds = {"num_hidden_layers": len(SOFTMAX), "attn_type_list": SOFTMAX}
    config = original_config(vocab_size=VOCABULARY, **kinds)
    source = write_original(place / "original", config, original_weights(config))
    write_tokenizer(source)
    return patch_checkpoint(source, place / "converted")


@pytest.fixture
def talk(converted):
    """A conversation with the model in bf16: `peak_of` feeds tokens and gives the most bytes beside the weights."""
    model, _ = load(converted, dtype="bfloat16", device_map="cpu", quiet=True)
    machine = Capacity(read_config(converted), 1, 8 * GB, "bf16")
    (gpu,) = machine.layout.gpus
    seen, cache = LiveBytes(), MiniMaxCache()

    def peak_of(tokens: int, piece: int | None = None) -> int:
        with torch.no_grad(), seen:
            seen.peak = seen.live
            prefill(model, torch.full((BATCH, tokens), 5), cache=cache, piece=piece)
        return seen.peak

    def kept(tokens: int) -> int:
        return machine.keys(gpu, tokens, BATCH) + machine.states(gpu, BATCH)

    def term(name: str, tokens: int) -> int:
        return getattr(machine, name)(gpu, tokens, BATCH)

    return SimpleNamespace(
        model=model, cache=cache, states=machine.states(gpu, BATCH), peak_of=peak_of, kept=kept, term=term
    )


def test_buffers_take_over_a_cache_layer_by_layer(talk):
    """All keys with room for 2,048, and one layer's cache; not both of every layer."""
    talk.peak_of(1100, piece=275)
    want = talk.kept(1100) + talk.term("taking", 1100)
    assert want <= talk.peak_of(1) < want + A_PASS < talk.kept(1100) + talk.kept(2048)
    assert _state(talk.model).decoder.buffers.room == 2048


def test_buffers_grow_layer_by_layer(talk):
    talk.peak_of(1022)
    for _ in range(2):
        talk.peak_of(1)
    assert talk.cache.get_seq_length() == _state(talk.model).decoder.buffers.room == 1024
    peak = talk.peak_of(1)
    assert _state(talk.model).decoder.buffers.room == 2048
    assert talk.kept(2048) < peak < talk.kept(1024) + talk.kept(2048) - A_PASS
    assert peak < talk.kept(1025) + talk.term("taking", 1025) + A_PASS


@pytest.mark.parametrize("large", [64, 10**6])
def test_a_conversation_goes_on(talk, monkeypatch, large):
    """Large buffers are left to the cache, which frees them layer by layer; small ones are kept for the next token."""
    for module in (buffers, decoder):
        monkeypatch.setattr(module, "LARGE", large)
    talk.peak_of(1100, piece=275)
    talk.peak_of(1)
    peak = talk.peak_of(4)
    want = talk.kept(1105) + talk.term("returning", 1105)
    assert want - A_PASS < peak < want + talk.term("growing", 1105) + talk.states + A_PASS
    both = talk.kept(1105) + talk.kept(2048)
    assert (peak < both - A_PASS) == (large == 64)
    one = torch.full((BATCH, 1), 5)
    with torch.no_grad():
        got = talk.model(one, **{CACHE_ARGUMENT: talk.cache}, use_cache=True).logits
        whole = talk.model(torch.full((BATCH, 1106), 5)).logits[:, -1:]
    assert _state(talk.model).decoder.owner() is talk.cache  # it steps again
    assert (got - whole).float().norm() < 0.05 * whole.float().norm()


def test_plain_decoding_copies_half_a_layer(talk):
    use_decoding(talk.model, "plain")
    talk.peak_of(1100, piece=275)
    want = talk.kept(1100) + talk.term("growing", 1100)
    assert want <= talk.peak_of(1) < want + A_PASS
