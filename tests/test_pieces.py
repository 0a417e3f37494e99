"""Prompts in pieces: the memory that a piece needs, and what it computes.

Measured: notebooks/results/flash_attention_h200.json (the model with Transformers' grouped_mm for the experts) and
experts_h200.json (the experts by our kernels).
"""

import copy
import io
import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from live_bytes import LiveBytes
from originals import original_config as small_config
from originals import original_weights, relative_error, write_original, yardstick
from torch import distributed
from transformers import MiniMaxForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from minimax_nb import attention, generation, terminal
from minimax_nb import prefill as prefill_module
from minimax_nb.cache import CACHE_ARGUMENT, RoomyLayer, repair_cache, reserve, restore, snapshot
from minimax_nb.chat import Chat
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.decode import use_decoding
from minimax_nb.generation import explain_generate
from minimax_nb.lightning.layer import use_lightning
from minimax_nb.original import original_config
from minimax_nb.pieces import CUBLAS, LIMIT, STEP, Sizes, experts_bytes, piece_tokens, workspace_bytes
from minimax_nb.prefill import prefill

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "notebooks" / "results"
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
            said = experts_bytes(Sizes(REAL), tokens, 2, kernels=True)
            routing_and_attended = tokens * (32 * 2 + 2 * 12 + 6144 * 2)
            assert said - routing_and_attended == pytest.approx(row["minimax_nb"]["temporary_gb"] * GB, rel=0.01)


@pytest.mark.parametrize("context", [131072, 1_000_000, 10_240_000])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_piece_keeps_experts_busy_and_stays_in_its_memory(context, batch):
    tokens = piece_tokens(REAL, batch, context, 2, 20 * GB)
    assert tokens % STEP == 0
    assert batch * tokens > 16384 or context > 2_000_000
    assert workspace_bytes(REAL, batch, tokens, context, 2) <= LIMIT or tokens == STEP


def test_the_figures_that_pages_and_docstrings_say():
    assert piece_tokens(REAL, 1, 131072, 2, 20 * GB) == 27648  # README, pieces.py
    assert f"{workspace_bytes(REAL, 1, 27648, 131072, 2) / GB:.1f}" == "3.8"
    assert f"{workspace_bytes(REAL, 1, 131072, 131072, 2) / GB:.0f}" == "18"  # pieces.py, generation.py
    experts = json.loads((RESULTS / "experts_h200.json").read_text())
    rows, rates = experts["rows"], experts["rates"]
    assert f"{rates['read_bytes_s'] / 1e12:.2f} {rates['matrix_ops_s'] / 1e12:.0f}" == "4.49 805"
    each = {row["tokens"]: f"{1000 * row['minimax_nb']['ms'] / row['tokens']:.2f}" for row in rows}
    assert [each[tokens] for tokens in (4096, 16384, 131072)] == ["1.25", "1.06", "1.07"]
    against = json.loads((RESULTS / "long_prompts_h200.json").read_text())["against"]
    longer = {row["piece"]: row["times_one_shot"] for row in against if row["tokens"] == 131072}
    said = {27648: "1.006", 16384: "1.03", 8192: "1.2"}
    assert {piece: f"{longer[piece]:.{len(text) - 2}f}" for piece, text in said.items()} == said


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


# Memory


def bytes_of_keys(cache) -> int:
    return sum(2 * layer.keys.untyped_storage().nbytes() for layer in cache.layers if layer.get_seq_length())


def workspace(model, length: int, piece: int, mask=None) -> int:
    """Bytes beside weights and keys at the busiest moment of a prefill of one row, or two under a mask."""
    ids = rows(2, length)[: 1 if mask is None else 2]
    with LiveBytes() as seen:
        cache = prefill(model, ids, piece=piece, attention_mask=mask).cache
    return seen.peak - bytes_of_keys(cache)


@pytest.mark.parametrize("padded", [False, True])
def test_a_longer_prompt_takes_no_more_memory(hybrid, monkeypatch, padded):
    """Eight times the tokens in pieces of 64: nothing grows but the keys, the mask, and with pads a row's keys once."""
    monkeypatch.setattr(attention, "PAIRS", 64)
    found = {}
    for length in (128, 1024):
        mask = torch.ones(2, length, dtype=torch.long).tril(length - 5) if padded else None  # 4 pads on the right
        found[length] = workspace(hybrid[0], length, 64, mask)
    of_mask = (1024 - 128) * 2 * 8 * 6 if padded else 0  # int64, its cumulative sums and what Transformers makes of it
    assert found[1024] - found[128] <= of_mask
    assert workspace(hybrid[0], 1024, 1024) > 4 * found[128]


@pytest.mark.parametrize("name", ["sdpa_by_length", "sdpa", "eager"])
@pytest.mark.parametrize("length, piece", [(1024, 1024), (1024, 256)])
def test_workspace_is_what_tensors_hold(hybrid, name, length, piece):
    """The arithmetic against torch's operators, on a CPU: at most a fifth too much and 5 % too little."""
    model = hybrid[0]
    model.set_attn_implementation(name)
    try:
        held = workspace(model, length, piece)
    finally:
        model.set_attn_implementation(attention.NAME)
    how = {"attention": name, "lightning": "torch", "expert_kernels": False, "segment": 512}
    said = workspace_bytes(model.config, 1, piece, length, 4, **how) - CUBLAS
    assert 0.95 < said / held < 1.2


# Room for keys


def update(layer, new: torch.Tensor) -> torch.Tensor:
    keys, values = layer.update(new, -new)
    assert values.equal(-keys) and layer.keys is keys
    return keys


def test_a_prefill_writes_keys_where_they_stay(hybrid):
    """Growing by copying would take a layer's keys once more, and more time with every piece."""
    model, cache, places = hybrid[0], MiniMaxCache(), set()
    note = lambda *_: places.update(layer.keys.data_ptr() for layer in cache.layers if layer.get_seq_length())  # noqa: E731
    hook = model.model.register_forward_hook(note)
    prefill(model, rows(), cache=cache, piece=16)
    hook.remove()
    assert len(places) == 2  # softmax layers


def test_keys_are_written_once():
    layer, parts = RoomyLayer(90), rows()[:, None, :, None].float().split([32, 32, 26], 2)
    found = [update(layer, part) for part in parts]
    assert len({keys.data_ptr() for keys in found}) == 1 and found[0].untyped_storage().nbytes() == 2 * 90 * 4
    assert found[-1].equal(torch.cat(parts, 2)) and found[0].equal(parts[0])
    beyond = update(layer, parts[0])
    assert beyond.shape[2] == 122 and beyond.data_ptr() != found[0].data_ptr()


@pytest.mark.parametrize("change", ["beams", "deepcopy", "restored", "in another layer"])
def test_what_others_put_in_place_of_keys_is_not_written_over(change):
    """Two layers with one room would spoil each other's keys."""
    first, other = torch.ones(2, 1, 3, 4), 5 * torch.ones(2, 1, 2, 4)
    cache = MiniMaxCache()
    reserve(cache, 8)
    cache.update(first, -first, 0)
    kept, layer = cache.layers[0].keys, cache.layers[0]
    if change == "beams":
        layer.reorder_cache(torch.tensor([1, 0]))
    elif change == "deepcopy":
        layer = copy.deepcopy(cache).layers[0]
    elif change == "restored":
        snap = snapshot(cache)
        update(layer, 7 * other)
        restore(cache, snap)
    else:
        layer = RoomyLayer(8)
        update(layer, first)
        layer.keys = kept
        layer.values = -kept
    assert update(layer, other).equal(torch.cat([first, other], 2))
    assert update(cache.layers[0], 9 * other)[:, :, -2:].equal(9 * other) and kept.equal(first)
    if layer is cache.layers[0]:
        return
    assert update(layer, other)[:, :, -2:].equal(other) and layer.keys[:, :, :5].equal(torch.cat([first, other], 2))


def test_decoding_takes_over_and_gives_back(loaded):
    """The step's buffers hold the keys after a prefill; a second prefill and another cache leave all as they were."""
    model, ids = loaded[0], rows()[:1] % 100
    first, second = (prefill(model, ids, piece=32) for _ in range(2))
    for got in (first, second):
        got_by_step = one_shot(model, ids[:, :1], got.cache)[0]  # of 1024 places
        assert got.cache.layers[3].keys.stride(1) > 90 * 16
    more = [prefill(model, ids[:, :40], cache=got.cache, piece=16).logits for got in (second, first)]
    want = one_shot(model, torch.cat([ids, ids[:, :1], ids[:, :40]], 1))[0]
    assert_same(more, [want, want], 1e-5)
    assert got_by_step.shape == want.shape


# generate, Chat, progress


@pytest.fixture
def small_pieces(monkeypatch):
    """As if no more memory were free than for 32 tokens; returns the sizes asked for."""
    asked = []

    def piece_for(model, batch, context, new):
        asked.append((batch, context, new))
        return min(new, 32)

    monkeypatch.setattr(prefill_module, "piece_for", piece_for)
    monkeypatch.setattr(generation, "piece_for", piece_for)
    return asked


def widths_of(model, call) -> list[int]:
    found = []
    hook = model.model.embed_tokens.register_forward_hook(lambda _, ids, __: found.append(ids[0].shape[1]))
    try:
        call()
    finally:
        hook.remove()
    return found


GREEDY = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("more", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}])
def test_generate_feeds_a_long_prompt_in_pieces(hybrid, small_pieces, pads, more):
    model, mask = hybrid[0], mask_of(pads)
    found = []
    given = {"attention_mask": mask} | GREEDY | more
    widths = widths_of(model, lambda: found.append(model.generate(rows(), **given)))
    assert widths[:3] == [32, 32, 26] and small_pieces[0] == (2 * more.get("num_beams", 1), LENGTH, LENGTH)
    small_pieces.clear()
    generation.piece_for = lambda *_: 10**6  # the fixture puts it back
    widths = widths_of(model, lambda: found.append(model.generate(rows(), **given)))
    assert widths[0] == LENGTH and found[0].equal(found[1])


def test_generate_on_a_cache_of_its_own(hybrid, small_pieces):
    """All ids again, of which the cache has some; and only the new ones."""
    model, ids = hybrid[0], torch.cat([rows(), rows(1)], 1)
    want = model.generate(ids, use_cache=False, **GREEDY)
    cache = prefill(model, rows()).cache
    small_pieces.clear()
    got = []
    widths = widths_of(model, lambda: got.append(model.generate(ids, **{CACHE_ARGUMENT: cache}, **GREEDY)))
    assert got[0].equal(want) and widths[:4] == [32, 32, 26, 1] and small_pieces == [(2, 180, 90)]


def test_the_caller_decides_and_one_shot_stays(hybrid, small_pieces):
    model = hybrid[0]
    widths = widths_of(model, lambda: model.generate(rows(), prefill_chunk_size=50, **GREEDY))
    assert widths[:2] == [50, 40] and small_pieces == []
    widths = widths_of(model, lambda: model.generate(rows()[:, :30], **GREEDY))
    assert widths[0] == 30
    model.generate(rows(), use_cache=False, **GREEDY | {"max_new_tokens": 1})


def test_packed_rows_are_refused_as_without_pieces(hybrid, small_pieces):
    """In pieces, on a cache, nobody would look whether positions begin anew."""
    twice = torch.arange(45).repeat(2, 2)
    with pytest.raises(ValueError, match="packed documents and a cache do not go together"):
        hybrid[0].generate(rows(), position_ids=twice, **GREEDY)


def test_a_piece_fits_what_is_free(hybrid, monkeypatch):
    """On a CPU 4,096 tokens over all rows at most; a multiple of 256, and less where less is free."""
    model = hybrid[0]
    assert prefill_module.piece_for(model, 1, 10**5, 10**5) == 4096
    assert prefill_module.piece_for(model, 3, 10**5, 10**5) == 1280
    assert prefill_module.piece_for(model, 1, 3000, 3000) == 3000
    monkeypatch.setattr(prefill_module, "available_memory", lambda: 46e6)
    few = prefill_module.piece_for(model, 1, 10**5, 1000)
    assert 256 <= few < 1000 and few % 256 == 0
    assert prefill_module.piece_for(model, 1, 10**5, 256) == 256  # which nothing smaller would help
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    assert prefill_module.piece_for(model, 1, 10**5, 1000) == 1000  # for each process finds something else free


def interrupt_at_piece(model, number: int):
    """A hook that is Ctrl-C in the layers of this piece."""
    left = [number]

    def hook(*_):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    return model.model.layers[5 if len(model.model.layers) > 5 else 4].register_forward_hook(hook)


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("piece", [1, 2, 3])
def test_ctrl_c_in_a_prefill_leaves_the_chat_as_it_was(loaded, small_pieces, turn, piece):
    long, settings = "one two three and the sauce " * 8, {"max_new_tokens": 4}
    chat, never = Chat(*loaded), Chat(*loaded)
    for each in (chat, never):
        for _ in range(turn):
            each.send("a recipe", **settings)
    before = list(chat.ids), chat.messages
    hook = interrupt_at_piece(loaded[0], piece)
    with pytest.raises(KeyboardInterrupt):
        chat.send(long, **settings)
    hook.remove()
    assert (list(chat.ids), chat.messages) == before
    for each in (chat, never):
        each.send(long, **settings)
    assert chat.ids == never.ids


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, seconds: float, call) -> str:
    """What `call` writes to stderr where each look at the clock finds it `seconds` later."""
    clock = iter(range(10**6))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: seconds * next(clock))
    monkeypatch.setattr(terminal.sys, "stderr", stream)
    with suppress(KeyboardInterrupt):
        call()
    return stream.getvalue()


@pytest.mark.parametrize("how", ["prefill", "generate", "interrupted"])
def test_progress_from_the_third_second_and_gone_at_the_end(hybrid, small_pieces, monkeypatch, how):
    model = hybrid[0]
    hook = interrupt_at_piece(model, 3 if how == "interrupted" else 10**6)
    call = {"generate": lambda: model.generate(rows(), **GREEDY)}.get(how, lambda: prefill(model, rows()))
    text = shown(monkeypatch, Terminal(), 1.1, call)
    hook.remove()
    lines = text.split("\r")
    assert not any("32 of 90" in line for line in lines) and sum("64 of 90" in line for line in lines) == 1
    assert lines[-1] == "" and lines[-2].isspace() and len(lines[-2]) == max(map(len, lines[:-2]))
    assert not model.model._forward_hooks


def test_progress_is_silent_elsewhere(hybrid, small_pieces, monkeypatch):
    model = hybrid[0]
    assert shown(monkeypatch, io.StringIO(), 1.1, lambda: prefill(model, rows())) == ""  # a pipe
    assert shown(monkeypatch, Terminal(), 0.1, lambda: prefill(model, rows())) == ""  # soon done
    assert shown(monkeypatch, Terminal(), 1.1, lambda: prefill(model, rows(), progress=False)) == ""
    monkeypatch.setattr(terminal.sys, "stderr", None)  # as under pythonw
    prefill(model, rows())


# What a GPU must show


def test_the_script_for_a_gpu_runs_small(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import long_prompts

    small = {"piece": 16, "past": 40, "against": [300], "pieces": [256], "million": [64]}
    monkeypatch.setattr(long_prompts, "TOY", small)
    monkeypatch.setattr(long_prompts, "REPEATS", 1)
    monkeypatch.setattr(long_prompts, "DECODED", 3)
    long_prompts.main(["--toy", "--json", str(tmp_path / "long.json")])
    found = json.loads((tmp_path / "long.json").read_text())
    assert found["complete"] and len(found["exact"]) == 9 and all(row["ok"] for row in found["exact"])
    assert [row["piece"] for row in found["against"]] == [300, 300, 256]
    assert all(row["error_against_one_shot"] < 1e-5 for row in found["against"])
    assert found["million"][0]["decoding"]["tokens"] == 3 and len(found["kernels"]) == 2


def test_decoding_takes_the_keys_a_layer_at_a_time(hybrid):
    """Of two softmax layers one has its keys twice for a while, the prompt's and the step's buffers of 1,024 places."""
    model = copy.deepcopy(hybrid[0])
    use_decoding(model, "static")
    with torch.no_grad(), LiveBytes() as seen:
        cache = prefill(model, rows(2, 1000), piece=250).cache
        seen.peak = seen.live
        model(rows(3, 1), **{CACHE_ARGUMENT: cache}, use_cache=True)
    a_place = 2 * 2 * 2 * 16 * 4  # bytes in a layer: rows, KV heads, keys and values, 16 of fp32
    states, others = 2 * 6 * 2 * 4 * 16 * 16 * 4, 100_000
    assert seen.peak < (1000 + 2 * 1024) * a_place + states + others
