"""Each trap of the cache is shown failing with stock's MiniMaxCache, then right after `repair_cache`."""

import pytest
import torch
import traps
from originals import original_config, original_weights, relative_error, write_original, yardstick
from transformers import MiniMaxConfig
from transformers.models.minimax.modeling_minimax import MiniMaxCache
from traps import kept

from minimax_nb.cache import repair_cache, restore, snapshot, stock_cache
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.lightning import use_lightning

torch.set_num_threads(1)  # matrices this small are slower on two, much slower beside other work

ALL = ["length", "mask sizes", "beams", "repeat", "select", "reset"]
RIGHT = 1e-5

SHAPES = {
    "hybrid": {},
    "softmax first": {"num_hidden_layers": 4, "attn_type_list": [1, 0, 0, 1], "num_key_value_heads": 1},
    "two softmax": {"num_hidden_layers": 5, "attn_type_list": [0, 1, 0, 1, 0], "num_key_value_heads": 4},
}


@pytest.fixture(autouse=True)
def repaired():
    repair_cache()


@pytest.fixture(scope="module", params=["stock", "torch"])
def make(tmp_path_factory, request):
    """make(shape, attention) -> model, config, weights; each made once, with either form of lightning attention."""
    made = {}

    def make(shape="hybrid", attention="sdpa"):
        if (shape, attention) not in made:
            folder = tmp_path_factory.mktemp("random")
            config = original_config(**SHAPES[shape])
            weights = original_weights(config)
            converted = patch_checkpoint(write_original(folder / "original", config, weights), folder / "converted")
            model = traps.stock_model(converted, attention=attention)
            use_lightning(model, request.param)
            made[shape, attention] = model, config, weights
        return made[shape, attention]

    return make


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("trap", [traps.padded_batch, traps.second_turn, traps.token_by_token, traps.beams])
def test_trap_is_real_and_repaired(make, trap, attention):
    with stock_cache():
        before = traps.measured(trap, *make(attention=attention))
    after = traps.measured(trap, *make(attention=attention))
    print(f"{trap.__name__}, {attention}: {before} before, {after:.1e} after")
    assert isinstance(before, str) or before > 0.1
    assert after < RIGHT


def test_second_turn_raises_in_stock_eager(make):
    with stock_cache():
        assert traps.measured(traps.second_turn, *make(attention="eager")) == "RuntimeError"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_beyond_the_block_size_of_256(make, attention):
    assert max(traps.padded_batch(*make("two softmax", attention), lengths=(261, 9, 40))) < RIGHT
    assert traps.second_turn(*make("two softmax", attention), lengths=(250, 12)) < RIGHT


def test_prefill_of_a_padded_batch_needs_no_repair(make):
    with stock_cache():
        assert traps.padded_batch(*make())[0] < RIGHT


@pytest.mark.parametrize("shape", ["softmax first", "two softmax"])
@pytest.mark.parametrize("trap", [traps.padded_batch, traps.second_turn, traps.token_by_token, traps.beams])
def test_other_layouts(make, shape, trap):
    assert traps.measured(trap, *make(shape)) < RIGHT


def test_padded_batch_generates_what_each_row_generates_alone(make):
    model, *_ = make()
    rows = traps.random_ids(5, 30, 17)
    ids = torch.tensor([[0] * (30 - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (30 - len(row)) + [1] * len(row) for row in rows])
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    alone = [model.generate(torch.tensor([row]), **settings)[0, len(row) :].tolist() for row in rows]
    assert model.generate(ids, attention_mask=mask, **settings)[:, 30:].tolist() == alone
    with stock_cache():
        assert model.generate(ids, attention_mask=mask, **settings)[:, 30:].tolist() != alone


def test_generate_goes_on_from_a_kept_cache(make):
    model, *_ = make()
    first, second = (torch.tensor([row]) for row in traps.random_ids(20, 9))
    cache, settings = MiniMaxCache(), {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    so_far = torch.cat([model.generate(first, **kept(cache), **settings), second], -1)
    assert cache.get_seq_length() == 25  # the last token sampled is not in it
    got = model.generate(so_far, **kept(cache), **settings)
    assert got.tolist() == model.generate(so_far, use_cache=False, **settings).tolist()


def test_reset_cache_is_as_good_as_new(make):
    model, config, weights = make()
    cache = MiniMaxCache()
    for _ in range(2):
        assert traps.second_turn(model, config, weights, cache=cache) < RIGHT
        cache.reset()
        assert cache.get_seq_length() == 0 and cache.get_mask_sizes(3, 0) == (3, 0)
    with stock_cache():
        traps.second_turn(model, config, weights, cache=cache)
        cache.reset()
        assert cache.get_linear_cache(0) is not None  # stock keeps what the earlier text left there


@torch.no_grad()
def test_rows_repeated_and_selected(make):
    model, config, weights = make()
    rows, (more,) = traps.random_ids(10, 10), traps.random_ids(6, seed=2)
    cache = MiniMaxCache()
    model(torch.tensor(rows), **kept(cache))
    cache.batch_repeat_interleave(3)
    cache.batch_select_indices(torch.tensor([5, 0]))  # of rows 0 0 0 1 1 1
    got = model(torch.tensor([more] * 2), **kept(cache)).logits
    for i, want in enumerate(yardstick(config, weights, [rows[1] + more, rows[0] + more])):
        assert relative_error(got[i], want[-6:]) < RIGHT
    with stock_cache(), pytest.raises(IndexError):
        cache.batch_repeat_interleave(2)
    with stock_cache(), pytest.raises(IndexError):
        cache.batch_select_indices(torch.tensor([0]))


def test_repair_is_idempotent_and_says_what_it_did():
    assert repair_cache() == repair_cache() == ALL
    with stock_cache():
        assert "get_seq_length" not in vars(MiniMaxCache)
        assert repair_cache() == ALL
    assert repair_cache() == ALL


def test_methods_that_work_are_left_alone():
    with stock_cache():
        MiniMaxCache.get_seq_length = lambda self, layer_idx=0: max(layer.get_seq_length() for layer in self.layers)
        assert repair_cache() == [name for name in ALL if name != "length"]


def test_crop_still_raises(make):
    with pytest.raises(RuntimeError, match="crop"):
        MiniMaxCache().crop(-1)
    assert not MiniMaxCache.is_croppable


@torch.no_grad()
def test_cache_without_a_softmax_layer():
    changes = {"num_hidden_layers": 2, "attn_type_list": [0, 0]}
    config = original_config(**changes)
    model, (row,) = traps.random_model(MiniMaxConfig(**traps.renamed_config(config))), traps.random_ids(12)
    cache = MiniMaxCache()
    model(torch.tensor([row[:7]]), **kept(cache))
    assert cache.get_seq_length() == 0  # nothing in it counts tokens, and nothing in the model asks
    cache.reorder_cache(torch.tensor([0]))
    got = model(torch.tensor([row[7:]]), **kept(cache)).logits
    assert relative_error(got, model(torch.tensor([row])).logits[:, 7:].double()) < RIGHT


@torch.no_grad()
def test_snapshot_and_restore(make):
    model, *_ = make()
    turns, cache = [torch.tensor([row]) for row in traps.random_ids(9, 5, 4)], MiniMaxCache()

    def logits(turn):
        return model(turns[turn], **kept(cache)).logits

    empty = snapshot(cache)
    first = logits(0)
    after_first = snapshot(cache)
    second = logits(1)
    for _ in range(2):  # a snapshot serves more than once
        restore(cache, after_first)
        assert cache.get_seq_length() == 9
        logits(2)
        restore(cache, after_first)
        assert torch.equal(logits(1), second)
    restore(cache, empty)
    assert cache.get_seq_length() == 0
    with pytest.raises(ValueError, match="fewer tokens"):
        restore(cache, after_first)
    assert torch.equal(logits(0), first)


@torch.no_grad()
@pytest.mark.parametrize("shape", ["hybrid", "two softmax"])
def test_restore_after_a_forward_pass_that_broke_half_way(make, shape):
    model, *_ = make(shape)
    turns, cache = [torch.tensor([row]) for row in traps.random_ids(9, 5)], MiniMaxCache()

    def interrupt(*_):
        raise KeyboardInterrupt

    for turn in turns:
        before = snapshot(cache)
        hook = model.model.layers[-2].register_forward_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(turn, **kept(cache))
        hook.remove()
        restore(cache, before)
        got = model(turn, **kept(cache)).logits
    want = model(torch.cat(turns, -1)).logits[:, 9:].double()
    assert relative_error(got, want) < RIGHT


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs(make, dtype):
    model, config, weights = make("two softmax")
    try:
        error = traps.second_turn(model.to(dtype), config, weights)
    finally:
        model.float()
    assert error < 0.3  # random weights in 8 or 11 bits: near, no more
