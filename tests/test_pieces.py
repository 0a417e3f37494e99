"""Prompts in pieces: the memory that a piece needs, and what it computes.

Measured: notebooks/results/flash_attention_h200.json (the model with Transformers' grouped_mm for the experts) and
experts_h200.json (the experts by our kernels).
"""

import copy
import gc
import io
import json
import sys
import weakref
from pathlib import Path

import pytest
import torch
from originals import original_config as small_config
from originals import original_weights, relative_error, write_original, yardstick
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import MiniMaxForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from minimax_nb import attention, terminal
from minimax_nb import prefill as prefill_module
from minimax_nb.cache import CACHE_ARGUMENT, RoomyLayer, repair_cache, reserve, restore, snapshot
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.generation import explain_generate
from minimax_nb.lightning.layer import use_lightning
from minimax_nb.original import original_config
from minimax_nb.pieces import CUBLAS, LIMIT, STEP, piece_tokens, stages, workspace_bytes
from minimax_nb.prefill import prefill

RESULTS = Path(__file__).resolve().parents[1] / "notebooks" / "results"
REAL = original_config()
OF_LAYERS = 8  # measured: one hybrid period, seven states and one layer of keys
GB = 10**9


def measured(attention: str, lightning: str) -> list[tuple[int, int, float]]:
    """(batch, tokens, bytes beside weights and cache) of each prefill in bf16 from 4,096 tokens."""
    rows = json.loads((RESULTS / "flash_attention_h200.json").read_text())["rows"]
    found = []
    for row in rows:
        chosen = row["attention"], row["lightning"], row["dtype"], row.get("what")
        if chosen == (attention, lightning, "bfloat16", "prefill") and "extra_gb" in row:
            batch, tokens = row["batch"], row["length"]
            keys = 2 * batch * tokens * REAL["num_key_value_heads"] * REAL["head_dim"] * 2
            of_state = 2 if lightning == "stock" else 4
            states = (OF_LAYERS - 1) * batch * REAL["num_attention_heads"] * REAL["head_dim"] ** 2 * of_state
            if batch * tokens >= 4096:
                found.append((batch, tokens, row["extra_gb"] * GB - keys - states))
    return found


@pytest.mark.parametrize("lightning", ["fused", "stock"])
@pytest.mark.parametrize("attention", ["sdpa_by_length", "sdpa", "eager", "flash_attention_2"])
def test_workspace_is_what_was_measured(attention, lightning):
    rows = measured(attention, lightning)
    assert len(rows) >= (2 if attention == "eager" else 5) or lightning == "stock"
    for batch, tokens, extra in rows:
        how = {"attention": attention, "lightning": lightning, "expert_kernels": False}
        said = workspace_bytes(REAL, batch, tokens, tokens, 2, **how) - CUBLAS  # which was there before the pass
        assert said == pytest.approx(extra, rel=0.03)


def test_experts_by_our_kernels_take_what_was_measured():
    rows = json.loads((RESULTS / "experts_h200.json").read_text())["rows"]
    for row in rows:
        tokens = row["tokens"]
        if tokens >= 1024:
            said = stages(REAL, 1, tokens, tokens, 2, "sdpa_by_length", "fused", True, False)["experts"]
            routing_and_attended = tokens * (32 * 2 + 2 * 12 + 6144 * 2)
            assert said - routing_and_attended == pytest.approx(row["minimax_nb"]["temporary_gb"] * GB, rel=0.01)


@pytest.mark.parametrize("context", [131072, 1_000_000, 10_240_000])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_piece_keeps_experts_busy_and_stays_in_its_memory(context, batch):
    tokens = piece_tokens(REAL, batch, context, 2, 20 * GB)
    assert tokens % STEP == 0
    assert batch * tokens > 16384 or context > 2_000_000
    assert workspace_bytes(REAL, batch, tokens, context, 2) <= LIMIT or tokens == STEP


# What pieces compute


LENGTH = 90
PADS = {
    "left": [list(range(17)), []],
    "right": [[], list(range(71, LENGTH))],
    "middle": [list(range(20, 55)), list(range(70, 80))],
    "none": [[], []],
}


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    """(model, config, weights): 8 layers, the fourth and the last softmax, 4 heads and 2 KV heads."""
    folder = tmp_path_factory.mktemp("pieces")
    config = small_config(attn_type_list=[0, 0, 0, 1, 0, 0, 0, 1])
    weights = original_weights(config)
    source = write_original(folder / "original", config, weights)
    model = MiniMaxForCausalLM.from_pretrained(patch_checkpoint(source, folder / "converted"))
    repair_cache()
    explain_generate()
    use_lightning(model, "torch")
    model.set_attn_implementation(attention.register())
    return model.eval(), config, weights


@pytest.fixture(params=["sdpa_by_length", "sdpa", "eager"])
def implementation(hybrid, request, monkeypatch):
    """Each attention; ours without any mask of pairs, as for long prompts."""
    hybrid[0].set_attn_implementation(request.param)
    monkeypatch.setattr(attention, "PAIRS", 64)
    yield request.param
    hybrid[0].set_attn_implementation(attention.NAME)


def rows(seed: int = 0, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(1, 128, (2, length), generator=torch.Generator().manual_seed(seed))


def mask_of(pads: str) -> torch.Tensor:
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    for row, places in enumerate(PADS[pads]):
        mask[row, places] = 0
    return mask


def held(cache) -> list[torch.Tensor]:
    """States, keys and values."""
    tensors = [state for state in cache.linear_cache if isinstance(state, torch.Tensor)]
    for layer in cache.layers:
        if layer.get_seq_length():
            tensors += [layer.keys, layer.values]
    return tensors


@torch.no_grad()
def one_shot(model, ids, cache=None, mask=None, **given):
    cache = MiniMaxCache() if cache is None else cache
    out = model(ids, attention_mask=mask, **{CACHE_ARGUMENT: cache}, use_cache=True, logits_to_keep=1, **given)
    return out.logits[:, -1], cache


def decoded(model, logits, cache, mask, steps: int = 4) -> torch.Tensor:
    found = [logits]
    for _ in range(steps):
        mask = None if mask is None else torch.nn.functional.pad(mask, (0, 1), value=1)
        found.append(one_shot(model, found[-1].argmax(-1, True), cache, mask)[0])
    return torch.stack(found)


def assert_same(got: list[torch.Tensor], want: list[torch.Tensor], within: float, real=None) -> None:
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        if real is not None and one.ndim == 4 and one.shape[2] == real.shape[1]:  # keys of pads are nobody's
            one, other = (x.transpose(1, 2)[real] for x in (one, other))
        assert relative_error(one, other.double()) < within


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("piece", [32, 89])
def test_pieces_are_one_shot(hybrid, implementation, pads, piece):
    """Logits, states, keys and what is decoded from them; neither piece divides the length, one leaves a token."""
    model, mask = hybrid[0], mask_of(pads)
    want, cache = one_shot(model, rows(), mask=mask)
    got = prefill(model, rows(), attention_mask=mask, piece=piece)
    assert_same([got.logits, *held(got.cache)], [want, *held(cache)], 1e-5, mask.bool())
    after = decoded(model, got.logits, got.cache, mask)
    assert_same([after], [decoded(model, want, cache, mask)], 1e-5)


@pytest.mark.parametrize("piece", [32, 50])
def test_pieces_are_the_definition(hybrid, piece):
    """Against float64, token by token, of each row without its pads; and a second turn of 20 tokens on that."""
    model, config, weights = hybrid
    mask, ids, more = mask_of("left"), rows(), rows(1, 20)
    first = prefill(model, ids, attention_mask=mask, piece=piece)
    whole = torch.nn.functional.pad(mask, (0, 20), value=1)
    second = prefill(model, more, cache=first.cache, attention_mask=whole, piece=7)
    texts = [torch.cat([row[real.bool()], new]).tolist() for row, real, new in zip(ids, mask, more, strict=True)]
    for row, want in enumerate(yardstick(config, weights, texts)):
        assert relative_error(first.logits[row], want[-21]) < 1e-5
        assert relative_error(second.logits[row], want[-1]) < 1e-5


def test_a_second_turn_goes_on_from_any_cache(hybrid, implementation):
    model, more = hybrid[0], rows(1, 41)
    caches = [one_shot(model, rows())[1], prefill(model, rows(), piece=32).cache, one_shot(model, rows())[1]]
    decoded(model, torch.zeros(2, 128), caches[0], None)  # the decoder's buffers hold it now
    restore(caches[0], snapshot(caches[2])._replace(states=caches[2].linear_cache))
    found = [prefill(model, more, cache=cache, piece=16) for cache in caches[:2]]
    want, cache = one_shot(model, more, caches[2])
    for got in found:
        assert_same([got.logits, *held(got.cache)], [want, *held(cache)], 1e-5)


def test_with_stock_lightning_layers(hybrid):
    model = hybrid[0]
    use_lightning(model, "stock")
    try:
        mask = mask_of("left")
        want, cache = one_shot(model, rows(), mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
        got = prefill(model, rows(), attention_mask=mask, piece=32)
        assert_same([got.logits, *held(got.cache)], [want, *held(cache)], 1e-5, mask.bool())
        assert prefill_module.piece_for(model, 2, 10**6, 10**6) == 10**6  # a token at a time would take hours
    finally:
        use_lightning(model, "torch")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_close_as_one_shot(hybrid, monkeypatch, dtype):
    """Pieces round elsewhere: against fp32 they must not be further off than one shot, by more than a quarter."""
    monkeypatch.setattr(attention, "PAIRS", 64)
    exact, mask = hybrid[0], mask_of("middle")
    model = copy.deepcopy(exact).to(dtype)
    model.model.rotary_emb.load_state_dict(exact.model.rotary_emb.state_dict())
    want = one_shot(exact, rows(), mask=mask)[0].double()
    whole = relative_error(one_shot(model, rows(), mask=mask)[0], want)
    parts = relative_error(prefill(model, rows(), attention_mask=mask, piece=32).logits, want)
    assert parts < 1.25 * whole < 0.3


def test_what_is_wrong_is_said(hybrid):
    model = hybrid[0]
    with pytest.raises(ValueError, match="no tokens"):
        prefill(model, rows()[:, :0])
    with pytest.raises(ValueError, match="2x50.*90 new tokens"):
        prefill(model, rows(), attention_mask=mask_of("none")[:, :50])
