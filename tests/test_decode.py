"""The static step against the model's own forward pass, token by token, and against the definition."""

import copy
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import slow_head
import torch
from accelerate import dispatch_model
from originals import original_config, original_weights, relative_error, write_original, yardstick
from torch import nn
from transformers import DynamicCache, MiniMaxForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from minimax_nb.cache import CACHE_ARGUMENT, repair_cache, restore, snapshot, stock_cache
from minimax_nb.chat import Chat
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.decode import buffers, decoder, plainly, torch_ops, use_decoding
from minimax_nb.decode.decoder import Decoder
from minimax_nb.lightning import use_lightning
from minimax_nb.loading import load

torch.set_num_threads(1)

ROWS = [[5, 9, 2, 77, 31, 8, 64, 12, 3, 90, 41, 7], [11, 6, 55], [23, 42, 99, 1, 17, 60, 8]]
GREEDY = {"do_sample": False, "pad_token_id": 0}


@pytest.fixture
def steps(monkeypatch):
    """Lengths at which a step was taken, in order."""
    taken, original = [], Decoder.step

    def step(self, cache, length, *args):
        logits = original(self, cache, length, *args)
        taken.append(length)
        return logits

    monkeypatch.setattr(Decoder, "step", step)
    return taken


@pytest.fixture
def little_room(monkeypatch):
    monkeypatch.setattr(buffers, "LEAST", 4)


@pytest.fixture
def small(tmp_path):
    """(model, config, weights) of a random checkpoint: lightning, softmax, lightning."""
    config = original_config(num_hidden_layers=3, attn_type_list=[0, 1, 0], tie_word_embeddings=False)
    weights = original_weights(config)
    folder = patch_checkpoint(write_original(tmp_path / "original", config, weights), tmp_path / "converted")
    model = MiniMaxForCausalLM.from_pretrained(folder).eval()
    repair_cache()
    use_lightning(model, "torch")
    assert use_decoding(model) == "static"
    return model, config, weights


def padded(rows, side="left"):
    """ids and mask of rows, pads on a side or in the middle."""
    width = max(map(len, rows))
    cut = {"left": lambda row: 0, "right": len, "middle": lambda row: len(row) // 2}[side]
    ids = [row[: cut(row)] + [0] * (width - len(row)) + row[cut(row) :] for row in rows]
    mask = [[1] * cut(row) + [0] * (width - len(row)) + [1] * (len(row) - cut(row)) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


@torch.no_grad()
def forced(model, ids, fed, mask=None, cache=None, positions=None):
    """Logits of each of the tokens `fed` (b, count), one at a time after a prompt, and the cache."""
    cache = MiniMaxCache() if cache is None else cache
    model(ids, attention_mask=mask, **{CACHE_ARGUMENT: cache}, use_cache=True, position_ids=positions)
    found, at = [], None if positions is None else positions[:, -1:]
    for token in fed.split(1, 1):
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        at = None if at is None else at + 1
        out = model(token, attention_mask=mask, **{CACHE_ARGUMENT: cache}, use_cache=True, position_ids=at)
        assert out[CACHE_ARGUMENT] is cache
        found.append(out.logits)
    return torch.cat(found, 1), cache


def both(model, *args, **kwargs):
    """What `forced` finds with steps, and without."""
    with plainly(model):
        want, plain_cache = forced(model, *args, **kwargs)
    got, cache = forced(model, *args, **kwargs)
    return got, want, cache, plain_cache


def same_cache(cache, other):
    for state, plain in zip(cache.linear_cache, other.linear_cache, strict=True):
        assert relative_error(state, plain.double()) < 1e-5 if isinstance(plain, torch.Tensor) else state == plain
    for layer, plain in zip(cache.layers, other.layers, strict=True):
        if plain.is_initialized:
            assert layer.keys.shape == plain.keys.shape and relative_error(layer.keys, plain.keys.double()) < 1e-5
            assert relative_error(layer.values, plain.values.double()) < 1e-5


# ---- what a step computes ------------------------------------------------------------------------------------------


def test_steps_agree_with_the_definition_and_the_plain_path(small, steps, little_room):
    model, config, weights = small
    row, fed = ROWS[0], ROWS[1] + ROWS[2]
    (want,) = yardstick(config, weights, [row + fed])
    got, plain, cache, plain_cache = both(model, torch.tensor([row]), torch.tensor([fed]))
    assert steps == list(range(12, 22))  # over the room of 16 in the middle
    assert relative_error(got[0], want[len(row) :]) < 2e-6 > relative_error(plain[0], want[len(row) :])
    assert cache.get_seq_length() == 22
    same_cache(cache, plain_cache)


@pytest.mark.parametrize("side", ["left", "right", "middle"])
def test_padded_batches_agree_with_the_plain_path(small, steps, little_room, side):
    model = small[0]
    ids, mask = padded(ROWS, side)
    fed = torch.tensor([[7, 8, 9, 10, 11, 12]] * 3) + torch.arange(3)[:, None]
    positions = (mask.cumsum(1) - 1).clamp(0)
    got, want, cache, plain_cache = both(model, ids, fed, mask, positions=positions)
    assert steps == list(range(12, 18))
    assert relative_error(got, want.double()) < 1e-5
    same_cache(cache, plain_cache)


def test_a_tokenizer_for_stop_strings_keeps_no_step_from_being_taken(small, steps):
    """`generate` hands it on to every forward pass; `transformers serve` gives one with each request."""
    small[0].generate(torch.tensor(ROWS[:1]), max_new_tokens=5, tokenizer=object(), **GREEDY)
    assert len(steps) == 4


def test_left_padded_rows_are_what_each_row_gives_alone(small, steps):
    model, config, weights = small
    ids, mask = padded(ROWS)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=9, **GREEDY)
    assert len(steps) == 8
    for row, found in zip(ROWS, out.tolist(), strict=True):
        new = found[ids.shape[1] :]
        (want,) = yardstick(config, weights, [row + new])
        assert want[len(row) - 1 : -1].argmax(-1).tolist() == new


def test_a_mask_that_says_otherwise_is_refused_as_ever(small, steps):
    model, ids = small[0], torch.tensor([ROWS[0]])
    with torch.no_grad():
        cache = forced(model, ids, ids[:, :2])[1]
        mask = torch.ones(1, 15, dtype=torch.long)
        mask[0, 3:9] = 0
        for wrong in (mask, mask[:, 1:]):
            with pytest.raises(ValueError, match="attention_mask"):
                call(model, cache, attention_mask=wrong)
        ids, mask = padded(ROWS)
        cache = forced(model, ids, ids[:, :2], mask)[1]
        with pytest.raises(ValueError, match="attention_mask"):
            model(torch.tensor([[3]] * 3), **{CACHE_ARGUMENT: cache}, use_cache=True)
    assert steps == [12, 13, 12, 13]


def test_a_new_token_that_is_a_pad_is_the_plain_paths(small, steps):
    model = small[0]
    ids, mask = padded(ROWS)

    def run():
        cache = forced(model, ids, ids[:, :2] + 3, mask)[1]
        longer = torch.cat([mask, torch.ones(3, 2, dtype=torch.long), torch.tensor([[1], [0], [1]])], 1)
        token, kept = torch.tensor([[4]] * 3), {CACHE_ARGUMENT: cache, "use_cache": True}
        with torch.no_grad():
            first = model(token, attention_mask=longer, **kept).logits
            longer = torch.cat([longer, longer.new_ones(3, 1)], 1)
            return torch.cat([first, model(token, attention_mask=longer, **kept).logits], 1)

    with plainly(model):
        want = run()
    assert relative_error(run(), want.double()) < 1e-5 and steps == [12, 13, 15]


def test_many_pairs_of_rows_and_experts(small):
    """Beyond FEW the experts are Transformers' own again."""
    ids = torch.arange(48).view(12, 4)
    got, want, *_ = both(small[0], ids, ids[:, :3] + 1)
    assert ids.shape[0] * small[0].config.num_experts_per_tok > torch_ops.FEW
    assert relative_error(got, want.double()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_to_the_definition_as_the_plain_path(small, dtype):
    model, config, weights = small
    (want,) = yardstick(config, weights, [ROWS[0] + ROWS[2]])
    frequencies = model.model.rotary_emb.inv_freq.clone()
    model.to(dtype).model.rotary_emb.inv_freq = frequencies  # Transformers loads them in fp32
    got, plain, cache, _ = both(model, torch.tensor([ROWS[0]]), torch.tensor([ROWS[2]]))
    assert cache.linear_cache[0].dtype == torch.float32
    assert relative_error(got[0], want[12:]) < 1.3 * relative_error(plain[0], want[12:])


# ---- the demo ------------------------------------------------------------------------------------------------------

QUESTION = "What is your favourite condiment?"


def prompt(tokenizer, text=QUESTION):
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False, return_tensors="pt")


def test_load_decodes_statically(demo_model, capsys):
    assert type(demo_model[0]).__name__ == "MiniMaxForCausalLM" and type(demo_model[0]) is not MiniMaxForCausalLM


def test_512_greedy_tokens_of_the_demo(demo_model, steps, monkeypatch):
    model, tokenizer = demo_model
    monkeypatch.setattr(buffers, "LEAST", 64)
    settings = {"min_new_tokens": 512, "max_new_tokens": 512, "eos_token_id": tokenizer.eos_token_id} | GREEDY
    with plainly(model):
        want = model.generate(**prompt(tokenizer), **settings)
    assert not steps
    got = model.generate(**prompt(tokenizer), **settings)
    assert len(steps) == 511 and got.shape[1] >= 512
    assert got.equal(want)


def test_sampling_with_a_seed_and_processors(demo_model, steps):
    model, tokenizer = demo_model
    settings = {"do_sample": True, "temperature": 1.3, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2}
    settings |= {"max_new_tokens": 60, "pad_token_id": 0, "no_repeat_ngram_size": 4}

    def run():
        torch.manual_seed(3)
        return model.generate(**prompt(tokenizer), **settings)

    with plainly(model):
        want = run()
    assert run().equal(want) and steps


def test_beams_go_plainly_and_say_so_once(demo_model, steps, capsys):
    model, tokenizer = demo_model
    use_decoding(model)
    settings = {"num_beams": 3, "max_new_tokens": 12} | GREEDY
    with plainly(model):
        want = model.generate(**prompt(tokenizer), **settings)
    capsys.readouterr()
    for _ in range(2):
        assert model.generate(**prompt(tokenizer), **settings).equal(want)
    assert not steps and capsys.readouterr().out.count("beams") == 1


# ---- conversations -------------------------------------------------------------------------------------------------

TURNS = [QUESTION, "Do you have mayonnaise recipes?", "My order number is 45108.", "What was my order number?"]


def test_turns_undo_and_regenerate(demo_model, steps, monkeypatch):
    model, tokenizer = demo_model
    monkeypatch.setattr(buffers, "LEAST", 64)  # the room grows within replies

    def talk():
        chat, said = Chat(model, tokenizer), []
        for turn in TURNS:
            said.append(chat.send(turn, do_sample=False))
        said.append(chat.regenerate(do_sample=False))
        chat.undo()
        said.append(chat.send(TURNS[1], do_sample=False))
        return said, chat.ids

    with plainly(model):
        want = talk()
    assert not steps
    assert talk() == want and len(steps) > 100
    assert "45108" in want[0][3] == want[0][4]


def test_a_stop_in_the_middle_leaves_no_trace(demo_model, monkeypatch):
    model, tokenizer = demo_model
    chat, settings = Chat(model, tokenizer), {"do_sample": False, "max_new_tokens": 30}
    chat.send(TURNS[2], **settings)
    want = copy.deepcopy(chat).send(TURNS[3], **settings)
    stream = chat.stream(TURNS[1], **settings)
    for _ in range(5):
        next(stream)
    stream.close()
    calls, original = [], torch_ops.experts

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3 * 8 + 4:  # within the fourth step
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(torch_ops, "experts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        chat.send(TURNS[1], **settings)
    assert len(calls) == 28
    monkeypatch.setattr(torch_ops, "experts", original)
    assert chat.send(TURNS[3], **settings) == want


def test_two_chats_in_turn_token_by_token(demo_model, steps):
    model, tokenizer = demo_model
    settings = {"do_sample": False, "max_new_tokens": 25}
    want = [Chat(model, tokenizer).send(turn, **settings) for turn in TURNS[:2]]
    chats = [Chat(model, tokenizer) for _ in want]
    streams = [chat.stream(turn, **settings) for chat, turn in zip(chats, TURNS, strict=False)]
    found, open_streams = ["", ""], {0, 1}
    while open_streams:
        for index in sorted(open_streams):
            piece = next(streams[index], None)
            if piece is None:
                open_streams.discard(index)
            else:
                found[index] += piece
    assert found == want
    assert [chat.send(TURNS[0], **settings) for chat in chats] == [
        copy.deepcopy(chat).regenerate(**settings) for chat in chats
    ]


def test_snapshot_and_restore(small, steps):
    model = small[0]
    fed = torch.tensor([[1, 2, 3, 4]])
    first, cache = forced(model, torch.tensor([ROWS[0]]), fed[:, :2])
    snap = snapshot(cache)
    kept = {CACHE_ARGUMENT: cache, "use_cache": True}
    with torch.no_grad():
        want = [model(token, **kept).logits for token in fed[:, 2:].split(1, 1)]
        for _ in range(2):
            restore(cache, snap)
            assert [model(token, **kept).logits for token in fed[:, 2:].split(1, 1)] == [
                pytest.approx(logits) for logits in want
            ]
        restore(cache, snap)
        with plainly(model):
            for token, logits in zip(fed[:, 2:].split(1, 1), want, strict=True):
                assert relative_error(model(token, **kept).logits, logits.double()) < 1e-5
    assert len(steps) == 8


def test_a_cache_that_lost_the_buffers_keeps_its_own(small):
    model, fed = small[0], torch.tensor([[1, 2, 3]])
    _, cache = forced(model, torch.tensor([ROWS[0]]), fed)
    other = copy.deepcopy(cache)
    forced(model, torch.tensor([ROWS[2], ROWS[2]]), torch.tensor([[9, 8, 7, 6]] * 2))  # another batch size
    forced(model, torch.tensor([ROWS[2]]), torch.tensor([[9, 8, 7, 6]]))
    same_cache(cache, other)


# ---- what is no step -----------------------------------------------------------------------------------------------


def call(model, cache, **more):
    return model(torch.tensor([[3]]), **({CACHE_ARGUMENT: cache, "use_cache": True} | more))


def test_calls_that_are_no_step_are_the_models_own(small, steps):
    model = small[0]
    with torch.no_grad():
        cache = forced(model, torch.tensor([ROWS[0]]), torch.tensor([[1]]))[1]
        assert len(steps) == 1
        assert len(call(model, cache, output_hidden_states=True).hidden_states) == 4
        assert len(call(model, cache, output_router_logits=True).router_logits) == 3
        assert call(model, cache, labels=torch.tensor([[3]])).loss is not None
        assert isinstance(call(model, cache, return_dict=False), tuple)
        seen = []
        hook = model.model.layers[1].register_forward_hook(lambda *args: seen.append(1))
        call(model, cache)
        hook.remove()
        assert seen and len(steps) == 1
        model.train()
        call(model, cache)
        model.eval()
    assert call(model, cache).logits.requires_grad
    assert len(steps) == 1
    with torch.no_grad():
        call(model, cache)
    assert len(steps) == 2
    with pytest.raises(ValueError, match="cache of its own"), torch.no_grad():
        call(model, DynamicCache())


def test_stock_cache_shows_stocks_fault(small, steps):
    ids, mask = padded(ROWS)
    with stock_cache():
        forced(small[0], ids, ids[:, :2], mask)
    assert not steps


def test_stocks_lightning_attention_is_not_stepped(small, steps, capsys):
    model, ids = small[0], torch.tensor([ROWS[0]])
    forced(model, ids, ids[:, :2])
    use_lightning(model, "stock")
    forced(model, ids, ids[:, :2])
    assert len(steps) == 2 and "stock" in capsys.readouterr().out


def test_an_adapter_is_noticed(small, steps, capsys):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model, ids = small[0], torch.tensor([ROWS[0]])
    forced(model, ids, ids[:, :1])
    projection = model.model.layers[1].self_attn.o_proj
    changed = Doubled(projection.in_features, projection.out_features, bias=False)
    changed.weight = projection.weight
    model.model.layers[1].self_attn.o_proj = changed
    with plainly(model):
        want, _ = forced(model, ids, ids[:, :2])
    assert forced(model, ids, ids[:, :2])[0].equal(want)
    assert len(steps) == 1 and "adapter" in capsys.readouterr().out
    assert use_decoding(model) == "plain"


def test_a_cache_changed_before_every_token_goes_plainly(small, steps, capsys):
    model, ids = small[0], torch.tensor([ROWS[0][:4]] * 2)

    def run():
        cache = forced(model, ids, torch.tensor([[1], [2]]))[1]
        found = []
        for _ in range(8):
            cache.reorder_cache(torch.tensor([1, 0]))
            kept = {CACHE_ARGUMENT: cache, "use_cache": True}
            with torch.no_grad():
                found.append(model(torch.tensor([[5], [6]]), **kept).logits)
        return torch.cat(found, 1)

    with plainly(model):
        want = run()
    assert relative_error(run(), want.double()) < 1e-5
    assert len(steps) < 5 and capsys.readouterr().out.count("changed between tokens") == 1


def test_too_little_memory_goes_plainly(small, steps, capsys, monkeypatch):
    model, ids = small[0], torch.tensor([ROWS[0]])
    with plainly(model):
        want, _ = forced(model, ids, ids)
    monkeypatch.setattr(buffers, "LEAST", 4)

    def full(*args):
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setattr(decoder, "grow", full)
    assert relative_error(forced(model, ids, ids)[0], want.double()) < 1e-5
    assert steps == [12, 13, 14, 15] and capsys.readouterr().out.count("too little memory") == 1


def test_what_cannot_be_recorded_goes_plainly(small, steps, capsys, monkeypatch):
    def fails(*args):
        raise RuntimeError("no compiler\nand more")

    monkeypatch.setattr(decoder, "Eager", fails)
    model, ids = small[0], torch.tensor([ROWS[0]])
    with plainly(model):
        want, _ = forced(model, ids, ids)
    for _ in range(2):
        assert forced(model, ids, ids)[0].equal(want)
    assert not steps and capsys.readouterr().out == "decoding plainly: RuntimeError: no compiler\n"


# ---- the model as an object ----------------------------------------------------------------------------------------


def test_accelerates_hooks_stay_and_are_passed_by(small, steps):
    model, ids = small[0], torch.tensor([ROWS[0]])
    with plainly(model):
        want, _ = forced(model, ids, ids)
    places = dict.fromkeys(["model.embed_tokens", *(f"model.layers.{i}" for i in range(3))], "cpu")
    dispatch_model(model, places | {"model.norm": "cpu", "lm_head": "cpu", "model.rotary_emb": "cpu"}, force_hooks=True)
    calls, layer = [], model.model.layers[0].self_attn
    pre_forward = layer._hf_hook.pre_forward
    layer._hf_hook.pre_forward = lambda *args, **kwargs: calls.append(1) or pre_forward(*args, **kwargs)
    assert relative_error(forced(model, ids, ids)[0], want.double()) < 1e-5
    assert len(steps) == 12 and len(calls) == 1  # the prompt
    with plainly(model):
        forced(model, ids, ids)
    assert len(calls) == 14


def test_saved_copied_and_pickled(small, steps, tmp_path):
    model, ids = small[0], torch.tensor([ROWS[0]])
    want, _ = forced(model, ids, ids)
    model.save_pretrained(tmp_path / "saved")
    assert '"MiniMaxForCausalLM"' in (tmp_path / "saved" / "config.json").read_text()
    assert forced(copy.deepcopy(model), ids, ids)[0].equal(want) and len(steps) == 24
    use_lightning(model, "stock")  # ours is a bound method, which cannot be read back
    other = pickle.loads(pickle.dumps(model))
    use_lightning(other, "torch")
    assert forced(other, ids, ids)[0].equal(want) and len(steps) == 36


def test_plain_again(small, steps):
    model, ids = small[0], torch.tensor([ROWS[0]])
    forced(model, ids, ids[:, :2])
    assert use_decoding(model, "plain") == "plain" and type(model) is MiniMaxForCausalLM
    forced(model, ids, ids[:, :2])
    assert len(steps) == 2
    with pytest.raises(ValueError, match="'static' or 'plain'"):
        use_decoding(model, "fast")
    with pytest.raises(ValueError, match="'static' or 'plain'"):
        load("nowhere", decoding="fast")
    with pytest.raises(ValueError, match="Linear"):
        use_decoding(nn.Linear(1, 1))


# ---- the kernels ---------------------------------------------------------------------------------------------------


def test_a_step_takes_from_a_slow_head_what_it_must():
    torch.manual_seed(0)
    got, want = slow_head.lost(torch_ops)
    assert relative_error(got, want) < 1e-5


@pytest.mark.parametrize("where", ["interpreter", "gpu"])
def test_kernels_agree_with_pytorch(where):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed: pip install triton")
    if where == "gpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    environment = os.environ | {"TRITON_INTERPRET": "1" if where == "interpreter" else "0"}
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("decode_cases.py"))],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) > 80 and not [line for line in lines if not line["error"] < 1e-5]
