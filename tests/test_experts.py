"""Which experts wrote it: what is recorded against plain forward passes, and that nothing is left on the model."""

import threading
from collections import Counter
from random import Random

import pytest
import tiny_tokenizer
import torch
from originals import original_config, original_weights, write_original
from test_memory import hooks, notes

from minimax_nb.chat import Chat
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.demo import corpus
from minimax_nb.loading import load
from minimax_nb.widgets import expert_view
from minimax_nb.widgets.explorers import experts as experts_state
from minimax_nb.widgets.explorers.experts import Experts, Record, recorded, routers
from minimax_nb.widgets.hooks import watched

torch.set_num_threads(1)

MESSAGE = "the sauce"
LONG = 60  # s, for waits that end at once unless something is broken


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(experts_state, "LONGEST", 12)


@pytest.fixture
def experts(loaded):
    return Experts(*loaded, MESSAGE)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """(model, tokenizer) with 32 experts, as Text-01 has."""
    folder = tmp_path_factory.mktemp("many")
    sizes = {"num_hidden_layers": 2, "attn_type_list": [0, 1], "num_local_experts": 32}
    config = original_config(vocab_size=tiny_tokenizer.VOCABULARY, **sizes)
    source = write_original(folder / "original", config, original_weights(config))
    tiny_tokenizer.write_tokenizer(source)
    return load(patch_checkpoint(source, folder / "converted"))


def run(experts) -> str:
    experts.start()
    experts.wait(LONG)
    assert not experts.busy
    return experts.status


def at_step(experts, number: int, call) -> None:
    """`call` in the thread that writes, once it has said `number` times how far it is."""
    said = []

    def changed():
        if experts.status.startswith("writing"):
            said.append(experts.status)
            if len(said) == number:
                call()

    experts.changed = changed


@torch.no_grad()
def plain(model, ids: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Experts and weights, (tokens, top_k) each, that the routers give in one forward pass; a pair a layer."""
    found = []
    with watched({router: lambda _, output: found.append((output[2], output[1])) for router in routers(model)}):
        model(torch.tensor([ids]))
    return found


def assert_as_plain(experts, model) -> None:
    record = experts.record
    for layer, (chosen, weights) in zip(record.layers, plain(model, record.ids), strict=True):
        assert [[expert for expert, _ in choice] for choice in layer] == chosen.tolist()
        assert torch.allclose(torch.tensor([[w for _, w in choice] for choice in layer]), weights, atol=1e-4)


@pytest.mark.parametrize("which", ["loaded", "many"])
def test_what_is_recorded_is_what_the_routers_give(which, request):
    model, tokenizer = request.getfixturevalue(which)
    experts, chat = Experts(model, tokenizer, MESSAGE), Chat(model, tokenizer)
    assert run(experts) == "done"
    chat.send(MESSAGE, do_sample=False, max_new_tokens=12)
    assert experts.record.ids == chat.ids[:-1]  # the last token was written and never read
    assert_as_plain(experts, model)


@pytest.mark.parametrize("which, number", [("loaded", 4), ("many", 32)])
def test_the_balance_adds_up(which, number, request):
    model, tokenizer = request.getfixturevalue(which)
    experts = Experts(model, tokenizer, MESSAGE)
    run(experts)
    tokens, layers = len(experts.record.ids), len(experts.record.layers)
    counts = [experts.chosen(layer) for layer in range(layers)]
    assert [len(count) for count in counts] == [number] * layers
    assert [sum(count) for count in counts] == [tokens * 2] * layers
    assert experts.chosen() == [sum(column) for column in zip(*counts, strict=True)]
    assert experts.picture.count('<th scope="row">expert ') == number


def test_the_most_and_the_least_used_are_said(loaded, experts):
    run(experts)
    experts.set("layer", 1)
    chosen, _ = plain(loaded[0], experts.record.ids)[1]
    count, tokens = Counter(chosen.flatten().tolist()), len(experts.record.ids)
    (most, often), (least, seldom) = count.most_common()[0], count.most_common()[-1]
    words = f"Layer 1: expert {most} most, {often} of {tokens} times ({100 * often / tokens:.0f} %), "
    words += f"expert {least} least, {seldom} ({100 * seldom / tokens:.0f} %)."
    assert len(count) == 4 and words in experts.text and words in experts.picture
    assert "Each token takes 2 of 4 experts, so 50 % each would be even." in experts.text


def test_a_draw_is_said_to_be_one():
    assert experts_state._extremes("Layer 0", [6, 6, 6, 6], 12) == "Layer 0: all experts alike, 6 of 12 times."


def test_each_token_has_both_its_experts_and_their_weights(experts):
    run(experts)
    for layer in (0, 4):
        experts.set("layer", layer)
        told = [f"{a}: {100 * v:.0f} %, {b}: {100 * w:.0f} %" for (a, v), (b, w) in experts.record.layers[layer]]
        assert notes(experts.picture) == told
        assert all(f"({note})" in experts.text for note in told)


def test_another_layer_is_drawn_without_the_model(loaded, experts):
    run(experts)
    first, passes = experts.picture, []
    with watched({loaded[0]: lambda *_: passes.append(1)}):
        experts.set("layer", 4)
    assert experts.picture != first and passes == []
    assert experts.status.startswith("Layer 4: expert ") and experts.status in experts.text


def test_before_the_first_reply_it_says_what_there_will_be(experts):
    assert "In each layer a token goes through 2 of 4 experts." in experts.text
    assert "has read nothing yet" in experts.picture


# Stop, errors, other threads


def test_stop_keeps_what_was_read_and_leaves_no_hooks(loaded, experts):
    before = hooks(loaded[0])
    run(experts)
    whole = experts.record.ids
    at_step(experts, 3, experts.stop)
    assert run(experts) == "stopped" and hooks(loaded[0]) == before
    read = experts.record.ids
    assert 0 < len(read) < len(whole) and read == whole[: len(read)]
    assert_as_plain(experts, loaded[0])


def test_an_error_is_said_and_leaves_no_hooks(loaded, experts):
    model, before = loaded[0], hooks(loaded[0])
    brakes = []  # the next token breaks between two layers
    brake = lambda: brakes.append(model.model.layers[3].register_forward_pre_hook(lambda *_: 1 / 0))  # noqa: E731
    at_step(experts, 3, brake)
    status = run(experts)
    brakes.pop().remove()
    assert status == "error: ZeroDivisionError: division by zero" and hooks(model) == before
    lengths = [len(layer) for layer in experts.record.layers]
    assert lengths[3] < lengths[0] and experts.record.whole() == lengths[4]
    assert len(notes(experts.picture)) == lengths[4] and sum(experts.chosen(0)) == 2 * lengths[4]
    assert run(experts) == "done"


def test_a_reset_while_it_writes_is_not_undone_by_what_comes_later(loaded, experts):
    before = hooks(loaded[0])
    at_step(experts, 3, experts.reset)
    experts.start()
    thread = experts._job.thread
    thread.join(LONG)
    assert not thread.is_alive() and not experts.busy and hooks(loaded[0]) == before
    assert experts.record.ids == [] and experts.status == "ready" and "has read nothing yet" in experts.picture


def test_what_other_cells_do_with_the_model_is_not_recorded(loaded, experts):
    def another_cell():
        cell = threading.Thread(target=plain, args=(loaded[0], [5, 6, 7]))
        cell.start()
        cell.join()

    at_step(experts, 3, another_cell)
    assert run(experts) == "done"
    assert_as_plain(experts, loaded[0])


# Any message


def test_text_is_escaped(experts):
    experts.set("message", "<script>alert('x')</script> & more")
    run(experts)
    assert "<script" not in experts.picture and "&lt;" in experts.picture


def test_an_empty_message_is_refused_and_the_picture_stays(experts):
    run(experts)
    before = experts.picture
    experts.set("message", " ")
    assert run(experts) == "error: the message is empty: say something" and experts.picture == before


def test_of_a_long_conversation_the_end_is_drawn(experts, monkeypatch):
    monkeypatch.setattr(experts_state, "MOST", 5)
    run(experts)
    assert len(notes(experts.picture)) == 5
    assert f"Of {len(experts.record.ids)} tokens the last 5 are shown." in experts.text


def test_reset(experts):
    run(experts)
    experts.set("layer", 4)
    experts.reset()
    assert experts.values == {"message": MESSAGE, "layer": 2} and experts.record.whole() == 0


def test_a_model_without_routers_is_refused(loaded):
    with pytest.raises(ValueError, match="Linear has no routers: load a converted MiniMax folder"):
        Experts(torch.nn.Linear(2, 2), loaded[1])


def test_a_record_counts_what_went_through_all_layers():
    record = Record(2)
    record.ids, record.layers = [1, 2], [[[(0, 1.0)]] * 2, [[(0, 1.0)]]]
    assert record.whole() == 1


def test_the_widget(loaded):
    view = expert_view(*loaded)
    assert view.action == "Reply" and [control["name"] for control in view.controls] == ["message", "layer"]
    assert run(view.explorer) == "done" and view.picture == view.explorer.picture and view.status == "done"
    assert "Layer 2: expert " in view.as_text() and len(notes(view.as_html())) > 12


# What notebook 03 says of the demo


def test_in_one_conversation_each_layer_has_a_favourite(demo_model, monkeypatch):
    monkeypatch.setattr(experts_state, "LONGEST", 200)
    experts = Experts(*demo_model)
    run(experts)
    layers = [experts.chosen(layer) for layer in range(8)]
    assert len(experts.record.ids) == 84 and layers[4][2] == 61 == max(layers[4])
    assert [0.6 < max(count) / 84 < 0.74 for count in layers] == [True] * 8
    assert all(0.43 <= round(count / 84 / 8, 2) <= 0.54 for count in experts.chosen())
    experts.set("message", "My name is Zelda.")
    run(experts)
    assert experts.chosen(4)[2] == 10 == min(experts.chosen(4)) and len(experts.record.ids) == 36


@torch.no_grad()
def test_over_many_conversations_all_experts_are_used_alike(demo_model):
    model, tokenizer = demo_model
    record = Record(8)
    for seed in range(20):
        turns, messages = corpus.conversation(Random(seed), language="en", test=True), []
        for turn in (next(turns) for _ in range(20)):
            messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.reply}]
        ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False)).input_ids[:512]
        with recorded(model, record):
            model(torch.tensor([ids]))
    for layer in record.layers:
        count = Counter(expert for choice in layer for expert, _ in choice)
        assert [0.45 < count[expert] / record.whole() < 0.55 for expert in range(4)] == [True] * 4
