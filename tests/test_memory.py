"""What a head remembers: figures against the formula and the layer's own output, and any text a reader types."""

import re
import threading
from math import exp, log

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from minimax_nb.lightning import use_lightning
from minimax_nb.widgets import head_memory
from minimax_nb.widgets.explorers.memory import DECAY, MOST, QK, TEXT, HeadMemory, scores
from minimax_nb.widgets.hooks import watched
from minimax_nb.widgets.tokens import noted, pieces, tint

torch.set_num_threads(1)

REAL = [(layer, head) for layer in range(80) if layer % 8 != 7 for head in range(64)]


def slope(layer: int, head: int, layers: int = 80, heads: int = 64) -> float:
    """The formula as notebook 05 gives it."""
    return 2 ** (-8 * (head + 1) / heads) * (1 - layer / (layers - 1) + 1e-5)


@pytest.fixture
def memory(loaded):
    return HeadMemory(loaded[1])


@pytest.fixture
def own(loaded):
    model, tokenizer = loaded
    return HeadMemory(tokenizer, model)


def choose(memory, layer: int, head: int, **more):
    for name, value in {"layer": layer, "head": head, **more}.items():
        memory.set(name, value)
    assert memory.status in memory.text and not memory.status.startswith("error")
    return memory


def hooks(model) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def notes(picture: str) -> list[str]:
    """What stands under the tokens."""
    return re.findall("<sub[^>]*>([^<]*)</sub>", picture)


# Decay


@pytest.mark.parametrize("layer, head", [(0, 0), (20, 25), (78, 63)])
def test_shares_follow_the_formula(memory, layer, head):
    ids = choose(memory, layer, head).ids()
    expected = [exp(-slope(layer, head) * (len(ids) - 1 - at)) for at in range(len(ids))]
    assert memory.shares(ids) == pytest.approx(expected, rel=1e-5)


def test_a_model_has_the_slopes_of_its_own_sizes(own):
    assert choose(own, 2, 1).slope == pytest.approx(slope(2, 1, layers=5, heads=4), rel=1e-6)
    assert "Of 16 heads, " in own.text


def test_the_place_among_all_heads(memory):
    further = sum(slope(*other) < slope(40, 47) for other in REAL)
    assert f"Of 4,480 heads, {further:,} see further." in choose(memory, 40, 47).text
    assert "Of 4,480 heads, 0 see further." in choose(memory, 78, 63).text
    assert "Of 4,480 heads, 4,479 see further." in choose(memory, 0, 0).text


def test_the_answer_of_the_notebook(memory):
    far = [at for at in REAL if log(2) / slope(*at) >= 1000]
    assert min(far) == (65, 63)
    assert f"after {log(2) / slope(65, 63):,.0f} more tokens" in choose(memory, 65, 63).text


def test_what_is_forgotten_is_said_in_words(memory):
    memory.set("text", "the one two three a recipe for the sauce" * 3)
    ids = choose(memory, 0, 7).ids()
    kept = [exp(-slope(0, 7) * distance) for distance in range(len(ids))]
    gone = sum(share < 0.01 for share in kept)
    assert 0 < gone < len(ids)
    assert f'Below 1 %, marked "gone": {gone} of {len(ids)} tokens.' in memory.text
    assert memory.status == f'Below 1 %, marked "gone": {gone} of {len(ids)} tokens'
    assert notes(memory.picture).count("gone") == gone and notes(memory.picture).count("100 %") == 1


def test_a_slow_head_has_its_half_beyond_the_text(memory):
    words = choose(memory, 78, 63).text
    beyond = log(2) / slope(78, 63) - (len(memory.ids()) - 1)
    assert f"stood {beyond:,.0f} tokens before the first one of this text. No token is below 1 %." in words
    assert "before the first one" not in choose(memory, 20, 25).text


def test_softmax_layers_have_no_decay(memory):
    without = [layer for layer in range(80) if choose(memory, layer, 3).slope is None]
    assert without == list(range(7, 80, 8))
    choose(memory, 7, 3)
    assert "Layer 7, head 3: softmax attention, which has no decay." in memory.text
    assert notes(memory.picture) == ["kept"] * len(memory.ids())


# With q and k


def test_weights_times_values_are_what_the_head_gives(loaded):
    """The layer's own sum over tokens, caught before its norm; Transformers as published computes it."""
    model, tokenizer = loaded
    ids = tokenizer(TEXT).input_ids
    attention, caught = model.model.layers[2].self_attn, {}
    use_lightning(model, "stock")
    spy = {
        attention.norm: lambda inputs, _: caught.update(out=inputs[0][0, -1]),
        attention.qkv_proj: lambda _, qkv: caught.update(v=attention.act_fn(qkv[0]).unflatten(-1, (4, 3, 16))[:, :, 2]),
    }
    with watched(spy), torch.no_grad():
        model(torch.tensor([ids]))
    use_lightning(model, "torch")
    left = torch.tensor([[exp(-slope(2, h, 5, 4) * d) for d in reversed(range(len(ids)))] for h in range(4)]).double()
    summed = torch.einsum("hn,nhd->hd", scores(model, ids)[2] * left, caught["v"].double())
    assert torch.allclose(summed.flatten(), caught["out"].double(), rtol=1e-4, atol=1e-4)


def test_weights_are_shares_of_the_largest_with_their_sign(loaded, own):
    ids = choose(own, 2, 1, weight=QK).ids()
    shares, raw = torch.tensor(own.shares(ids)), scores(loaded[0], ids)[2][1]
    decayed = raw * torch.tensor([exp(-slope(2, 1, 5, 4) * d) for d in reversed(range(len(ids)))]).double()
    assert torch.allclose(shares.double(), decayed / decayed.abs().max(), atol=1e-5)
    assert shares.abs().max() == 1 and (shares < 0).any()
    back = len(ids) - 1 - int(shares.abs().argmax())
    assert f", {back} back from the last token; the figures are shares of it." in own.text
    assert "gone" not in own.text


def test_one_forward_pass_serves_all_heads_until_the_text_changes(loaded, own):
    model, passes = loaded[0], []
    with watched({model: lambda *_: passes.append(1)}):
        for layer, head in [(0, 0), (2, 1), (4, 3)]:
            choose(own, layer, head, weight=QK)
        assert len(passes) == 1
        choose(own, 2, 1, text="the sauce")
        choose(own, 2, 1, weight=DECAY)
        assert len(passes) == 2


def test_a_pass_that_fails_is_said_and_leaves_no_hooks(loaded, own):
    model, before = loaded[0], hooks(loaded[0])
    brake = model.model.layers[3].register_forward_pre_hook(lambda *_: 1 / 0)
    own.set("weight", QK)
    brake.remove()
    assert own.status == "error: ZeroDivisionError: division by zero" and hooks(model) == before
    choose(own, 2, 1, weight=QK)
    assert hooks(model) == before


def test_hooks_see_calls_of_their_own_thread_alone():
    layer, seen = torch.nn.Linear(2, 2), []
    with watched({layer: lambda inputs, output: seen.append((inputs[0], output))}):
        other = threading.Thread(target=layer, args=(torch.zeros(2),))
        other.start()
        other.join()
        output = layer(given := torch.ones(2))
    layer(given)
    assert [(a is given, b is output) for a, b in seen] == [(True, True)]


# Any text


def test_text_is_escaped(memory):
    memory.set("text", "<script>alert('x')</script> & more")
    assert "<script" not in memory.picture and "&lt;" in memory.picture and "&amp;" in memory.picture


def test_the_sentence_about_the_largest_weight_is_escaped(own):
    choose(own, 2, 1, weight=QK, text="<")
    assert 'The largest weight is on "<", 0 back' in own.text
    assert own.picture.endswith("</p>") and "The largest weight is on &quot;&lt;&quot;, 0 back" in own.picture


def test_notes_under_tokens_are_escaped():
    assert "&lt;1 %" in noted(["a"], ["<1 %"], ["transparent"])


@pytest.mark.parametrize("weight", [DECAY, QK])
def test_no_text_and_little_text(own, weight):
    choose(own, 1, 0, weight=weight, text="")
    assert "There is no text: type a sentence." in own.text and "There is no text" in own.picture
    choose(own, 1, 0, text=" ")
    assert "␣ (" in own.text


def test_a_long_text_is_cut_and_that_is_said(memory):
    memory.set("text", "one two " * MOST)
    assert len(memory.ids()) == MOST == len(notes(memory.picture))
    assert f"Longer texts are cut to their last {MOST} tokens." in memory.text
    memory.reset()
    assert "cut" not in memory.text and memory.values["text"] == TEXT


def test_the_picture_and_the_words_say_the_same(own):
    for weight in (DECAY, QK):
        choose(own, 2, 1, weight=weight)
        assert notes(own.picture) == re.findall(r" \(([^)]*)\)", own.text.split("\n")[1])


def test_a_model_without_lightning_layers_is_refused(loaded):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=8, **sizes))
    with pytest.raises(ValueError, match="LlamaForCausalLM has no lightning layers: load a converted MiniMax folder"):
        HeadMemory(loaded[1], model)


def test_the_widget(loaded):
    view = head_memory(loaded[1])
    assert [control["name"] for control in view.controls] == ["layer", "head", "text"]
    assert "Layer 20, head 25: its memory of a token has halved" in view.as_text() and len(notes(view.as_html())) > 50
    own = head_memory(loaded[1], loaded[0])
    assert own.controls[2]["options"] == (DECAY, QK) and own.controls[0]["high"] == 4


# Tokens as text


def test_tokens_read_on_as_the_text_does(loaded):
    tokenizer = loaded[1]
    tokens = pieces(tokenizer, tokenizer("the one\n蛋").input_ids)
    assert "".join(tokens).startswith("the one\n")
    page = noted(["My", " na", "me", "\n", " "], list("12345"), [tint(1)] * 5)
    assert "</span> <span" in page and "</span><span" in page and "</span><br> <span" in page
    assert ">↵<" in page and ">␣<" in page


def test_a_tint_stays_pale():
    assert [tint(share) for share in (0, 0.5, 1, -1, 3)] == [
        *[f"rgba(0,114,178,{a:.2f})" for a in (0, 0.3, 0.6)],
        "rgba(213,94,0,0.60)",
        "rgba(0,114,178,0.60)",
    ]


def test_what_is_subtracted_has_another_colour_and_a_minus(own):
    shares = choose(own, 2, 1, weight=QK).shares(own.ids())
    colours, signs = re.findall(r"background:rgba\((\d+)", own.picture), [note[0] == "-" for note in notes(own.picture)]
    assert len(colours) == len(shares) and {"0", "213"} == set(colours)
    assert [colour == "213" for colour in colours] == [share < 0 for share in shares]
    assert all(sign == (share < 0) for sign, share in zip(signs, shares, strict=True) if abs(share) >= 0.01)


# What notebook 05 says of the demo and its tokenizer


def note(memory, word: str) -> str:
    return memory.text.partition(f" {word} (")[2].partition(")")[0]


def test_which_head_keeps_the_mustard(demo_model):
    memory = HeadMemory(demo_model[1])
    notes = [note(choose(memory, 20, head), "mustard") for head in (25, 26, 27)]
    assert notes == ["gone", "1 %", "2 %"] and note(choose(memory, 7, 25), "mustard") == "kept"
    assert "stood 13,935 tokens before the first one" in choose(memory, 78, 63).text


def test_what_two_heads_look_for(demo_model):
    memory = HeadMemory(demo_model[1], demo_model[0])
    tokens = [token.strip() for token in pieces(demo_model[1], memory.ids())]
    found = {}
    for head in ((1, 6), (4, 5)):
        shares = choose(memory, *head, weight=QK).shares(memory.ids())
        largest = sorted(range(len(shares)), key=lambda at, shares=shares: -abs(shares[at]))
        found[head] = [(tokens[at], round(100 * shares[at])) for at in largest[:3]]
    assert found[1, 6] == [("condiment", 100), ("condiment", 93), ("condiment", 81)]
    assert found[4, 5][:2] == [("mayonnaise", -100), ("mustard", -28)]
