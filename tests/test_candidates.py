"""What else a token could have been, against probabilities worked out anew from the whole conversation."""

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from minimax_nb.widgets.playground.candidates import COUNT, Candidate, Draw, describe, draw, name
from minimax_nb.widgets.playground.state import Playground

torch.set_num_threads(1)

LONG = 60  # s
LOW = float("-inf")
HOT = {"temperature": 1.5, "top_k": 6, "top_p": 0.9, "repetition_penalty": 1.2}


@pytest.fixture
def state(loaded):
    state = Playground(*loaded)
    state.set("max_new_tokens", 12)
    return state


@pytest.fixture
def script(loaded):
    """Makes the model's next tokens those of a text and the end, by its logits."""
    hooks = []

    def set_text(text: str) -> list[int]:
        model, tokenizer = loaded
        ids = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        left = iter(ids)

        def say(module, inputs, output):
            output.logits[:, -1, next(left)] += 50
            return output

        hooks.append(model.register_forward_hook(say))
        return ids

    yield set_text
    for hook in hooks:
        hook.remove()


def say(state, *texts: str) -> None:
    for text in texts:
        state.send(text)
        state.wait(LONG)
        assert not state.status.startswith("error"), state.status


def draws(state) -> list[Draw]:
    return [draw for reply in state._written for draw in reply._draws]


def looked_at(state, place: int) -> dict:
    state.look(place)
    return state.candidates


@torch.no_grad()
def anew(model, ids: list[int], settings: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores for what follows `ids` under these settings, and the model's own logits."""
    ids = torch.tensor([ids])
    logits = scores = model(ids, use_cache=False).logits[:, -1]
    classes = (RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)
    for each, setting in zip(classes, ("repetition_penalty", "temperature", "top_k", "top_p"), strict=True):
        scores = each(settings[setting])(ids, scores)
    return scores[0], logits[0]


def test_probabilities_are_those_drawn_from(loaded, state):
    for setting, value in HOT.items():
        state.set(setting, value)
    say(state, "the sauce", "and a recipe")
    ids, all_draws = state._chat.ids, draws(state)
    starts = [len(ids) - 12 + at for at in range(12)]  # of the second reply, which a kept cache has computed
    for start, got in zip(starts, all_draws[12:], strict=True):
        scores, logits = anew(loaded[0], ids[:start], HOT)
        assert (got.id, got.kept, got.vocabulary) == (ids[start], scores.isfinite().sum(), len(scores))
        (chosen,) = [each for each in got.candidates if each.id == got.id]
        assert chosen.rank == 1 + (scores > scores[got.id]).sum() <= got.kept <= 6
        by_rank = sorted(got.candidates, key=lambda each: (scores[each.id], logits[each.id]), reverse=True)
        assert by_rank == got.candidates and len(got.candidates) == COUNT
        for each in got.candidates:
            drawn = scores.softmax(-1)[each.id].item()
            assert (each.rank is None) == (drawn == 0)
            assert each.drawn == pytest.approx(drawn, abs=1e-4)
            assert each.own == pytest.approx(logits.softmax(-1)[each.id].item(), abs=1e-4)


def test_a_rare_token_is_shown_beyond_the_likeliest(loaded):
    scores = torch.arange(20.0, 0, -1)[None]
    got = draw(torch.tensor([[14]]), scores, scores)
    assert (got.id, got.kept, len(got.candidates)) == (14, 20, COUNT + 1)
    assert [each.id for each in got.candidates] == [*range(COUNT), 14]
    rows = describe(got, loaded[1], [], sampled=True)["rows"]
    assert [row["rank"] for row in rows] == [*map(str, range(1, COUNT + 1)), "15"]
    assert [row["chosen"] for row in rows] == [False] * COUNT + [True]
    assert rows[-1]["figures"] == ["<0.001", "<0.001"] and rows[0]["figures"] == ["0.632", "0.632"]


@pytest.mark.parametrize("cut", [False, True])
def test_the_models_own_first_is_shown_wherever_the_settings_have_put_it(loaded, cut):
    logits = torch.arange(20.0, 0, -1)[None]
    scores = logits.clone()
    scores[0, 0] = LOW if cut else 2.5  # as a penalty does, with or without a cut
    got = draw(torch.tensor([[14]]), scores, logits)
    assert [(each.id, each.rank) for each in got.candidates[COUNT:]] == [(14, 14), (0, None if cut else 18)]
    rows = describe(got, loaded[1], [], sampled=True)["rows"]
    assert rows[-1]["figures"] == ["cut" if cut else "<0.001", "0.632"]
    again = draw(torch.tensor([[0]]), scores.index_fill(1, torch.tensor([0]), 2.5), logits)
    assert [each.id for each in again.candidates[COUNT:]] == [0]


def test_what_was_cut_is_said_and_follows_by_the_models_own_probability(loaded):
    logits = torch.arange(20.0, 0, -1)[None]
    scores = logits.clone().index_fill(1, torch.tensor([i for i in range(20) if i not in (2, 9)]), LOW)
    got = draw(torch.tensor([[9]]), scores, logits)
    assert [each.id for each in got.candidates] == [2, 9, 0, 1, 3, 4, 5, 6]
    found = describe(got, loaded[1], [], sampled=True)
    assert [row["figures"][0] for row in found["rows"]] == ["0.999", "0.001"] + ["cut"] * 6
    assert [row["rank"] for row in found["rows"]] == ["1", "2"] + ["-"] * 6
    assert found["title"].endswith(": drawn, number 2 of the 2 that were kept")


@pytest.mark.parametrize(
    "kept, sampled, words",
    [
        (300, True, "drawn, number 1 of all 300 tokens"),
        (50, True, "drawn, number 1 of the 50 that were kept"),
        (1, True, "drawn, the only one that was kept"),
        (300, False, "the likeliest, taken without a draw"),
    ],
)
def test_the_draw_in_words(loaded, kept, sampled, words):
    tokenizer = loaded[1]
    token = tokenizer("the").input_ids[0]
    got = Draw(token, kept, 300, [Candidate(token, 1, 0.5, 0.25)])
    assert describe(got, tokenizer, [], sampled)["title"] == f"{tokenizer.decode([token])!r}: {words}"


def test_half_a_character_is_bytes_and_the_half_that_completes_it_says_so(loaded):
    tokenizer = loaded[1]
    first, *others = tokenizer("🥚").input_ids
    assert name(first, tokenizer, []) == "byte F0, part of a character"
    assert name(others[-1], tokenizer, [first, *others[:-1]]) == "byte 9A, makes '🥚'"
    assert name(others[-1], tokenizer, []) == "byte 9A, part of a character"
    assert name(tokenizer.eos_token_id, tokenizer, []) == "<end_of_sentence>"
    assert [name(token, tokenizer, []) for token in tokenizer(" \n").input_ids] == ["' '", r"'\n'"]


def test_the_tokens_of_a_reply_are_its_text(state, script):
    ids = script("ab🥚\nc")
    say(state, "the sauce")
    assert draws(state)[0].id == ids[0] and len(ids) == 9
    parts = [["a", ""], ["b", ""], ["", "·"], ["", "·"], ["", "·"], ["🥚", ""], ["\n", "↵"], ["c", ""], ["", "end"]]
    assert [[*token] for token in state.tokens[0]] == parts
    assert "".join(text for text, _ in state.tokens[0]) == state.messages[-1]["content"]
    assert looked_at(state, 2)["title"].startswith("byte F0, part of a character: ")
    assert looked_at(state, 5)["title"].startswith("byte 9A, makes '🥚': ")
    assert looked_at(state, 6)["title"].startswith(r"'\n': ")


def test_one_looks_at_the_last_token_until_one_looks_at_another(state):
    assert state.candidates is None
    followed = []
    state.changed = lambda: followed.append(state.candidates and state.candidates["place"])
    say(state, "the sauce", "and a recipe")
    assert followed[0] is None and followed[-1] == 23 and len(set(followed)) > 3
    assert state.candidates["count"] == 24 and not state.place
    for place in (0, 11, 12):
        looked = looked_at(state, place)
        assert (looked["place"], len(looked["rows"])) == (place, COUNT)
        assert looked["title"].startswith(name(draws(state)[place].id, state._chat.tokenizer, []).split(",")[0])
    say(state, "mustard")
    assert state.candidates["place"] == 35
    state.look(99)  # of a reply that has just gone
    assert state.candidates["place"] == 35
    state.new_chat()
    assert state.candidates is None and state.tokens == []


def test_another_reply_has_its_own_candidates(state):
    state.set("temperature", 1.5)
    say(state, "the sauce", "and a recipe")
    kept, old = draws(state)[:12], draws(state)[12:]
    state.regenerate()
    state.wait(LONG)
    assert draws(state)[:12] == kept and draws(state)[12:] != old and len(draws(state)) == 24
    assert [draw.id for draw in draws(state)[12:]] == state._chat.ids[-12:]
