"""The demo model's text, tokenizer, forward pass, training and export."""

import itertools
import json
import random
import re
from dataclasses import replace
from itertools import islice

import pytest
import torch
from originals import relative_error
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from minimax_nb import reference
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.checkpoint.layout import original_weights
from minimax_nb.checkpoint.tokenizer_check import verify_tokenizer
from minimax_nb.demo import corpus, demo_checkpoint, evaluate, train
from minimax_nb.demo.corpus import kitchen, pantry, recall
from minimax_nb.demo.corpus.phrases import phrases, split
from minimax_nb.demo.model import demo_config, forward, greedy, new_model
from minimax_nb.demo.tokenizer import train_tokenizer
from minimax_nb.errors import CheckpointError


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(1536)


@pytest.fixture(scope="module")
def model():
    """A small random model, its weights enlarged so that attention and routing matter."""
    made = new_model(demo_config(300, hidden_size=64, num_attention_heads=4, head_dim=16, rotary_dim=8))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    return made.eval()


SMALL = demo_config(300, hidden_size=64, num_attention_heads=4, head_dim=16, rotary_dim=8)


# ---- text ----------------------------------------------------------------------------------------------------------


def all_phrasings() -> dict[str, tuple[list[str], list[str]]]:
    found = {}
    for language in ("en", "zh"):
        table = phrases(language)
        found |= {f"{language} {kind} {form}": split(t[form]) for kind, t in table["dish"].items() for form in t}
        found |= {f"{language} {kind}": split(text) for kind, text in table.get("other", {}).items()}
        for kind, form in itertools.product(table["recall"], ("stated", "asked")):
            found[f"{language} {kind} {form}"] = recall.phrasings(language, kind, form)
    for table in (pantry.TALK, pantry.TALK_ZH):
        found |= {reply: split(asked) for _, reply, asked in kitchen.rows(table)}
    return found


def expand(phrasing: str) -> list[str]:
    parts = re.split(r"(\[[^]]*\])", phrasing)
    options = [part[1:-1].split("|") if part.startswith("[") else [part] for part in parts]
    return ["".join(choice) for choice in itertools.product(*options)]


def plain(text: str) -> str:
    return re.sub(r"[^\w{}]+", " ", text.lower()).strip()


def test_held_out_phrasings_are_not_in_training_but_their_words_are():
    words = set()
    for name, (seen, held_out) in all_phrasings().items():
        variants = {plain(variant) for phrasing in seen for variant in expand(phrasing)}
        words |= {word for variant in variants for word in variant.split()}
        assert len(variants) >= 8, name
        assert not variants & {plain(text) for text in held_out}, name
    for name, (_, held_out) in all_phrasings().items():
        english = [word for text in held_out for word in plain(text).split() if word.isascii()]
        assert set(english) <= words, name


def test_values_to_recall_are_shared_by_no_split():
    rng = random.Random(0)
    for language, makers in recall.MAKERS.items():
        for kind in makers:
            assert not recall.is_held_out(recall.make_value(rng, kind, False, language))
            assert recall.is_held_out(recall.make_value(rng, kind, True, language))


def test_there_are_at_least_100_topics():
    groups, _ = kitchen.knowledge("en", False)
    assert len(groups["dish"]) + sum(len(entries) for name in ("talk", "facts") for entries in groups[name]) >= 100


def test_a_seed_is_a_conversation_and_replies_hold_their_facts():
    for seed in range(30):
        turns = list(islice(corpus.conversation(random.Random(seed)), 12))
        assert turns == list(islice(corpus.conversation(random.Random(seed)), 12))
        for turn in turns:
            assert all(fact.lower() in turn.reply.lower() for fact in turn.facts)


def test_the_scorer_accepts_references_and_refuses_changed_ones():
    for turn in corpus.held_out_questions():
        assert evaluate.is_right(turn.reply, turn)
        wrong = re.sub(r"\d+", lambda number: str(int(number[0]) + 1), turn.reply)
        assert wrong == turn.reply or not evaluate.is_right(wrong, turn)
        assert not evaluate.is_right(turn.reply + " Add 77 g of tahini paste.", turn)


def test_recall_cases_lie_just_below_their_distance(tokenizer):
    for distance, case in evaluate.recall_cases(tokenizer, each=3):
        assert distance * 0.6 < evaluate.tokens_since(tokenizer, case) <= max(distance, 140)
        assert case.facts[0] in " ".join(turn.user for turn in case.prior)
        assert case.facts[0] not in case.user


def test_training_rows_are_what_the_chat_template_writes(tokenizer):
    encoder = train.Encoder(tokenizer)
    for seed in range(20):
        ids, learned = encoder.row(random.Random(seed), 700, True)
        text = tokenizer.decode(ids)
        again = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert again[:690] == ids[:690]  # the row is cut at 700, perhaps within a character
        replies = re.findall(r"ai name=assistant\n(.*?<end_of_sentence>)", text, re.S)
        kept = tokenizer.decode([token for token, learn in zip(ids, learned, strict=True) if learn])
        assert "".join(replies) in kept  # plain text may come before

    turn = next(corpus.conversation(random.Random(3)))
    asked = evaluate.prompt(tokenizer, replace(turn, prior=(turn,)))
    parts = [f"<beginning_of_sentence>user name=user\n{turn.user}<end_of_sentence>\n<beginning_of_sentence>ai name="]
    assert tokenizer.decode(asked).startswith(parts[0] + f"assistant\n{turn.reply}<end_of_sentence>\n")


def test_every_digit_is_a_token(tokenizer):
    assert tokenizer.tokenize("order 45108") [-5:] == list("45108")  # fmt: skip
    assert tokenizer.decode(tokenizer("你叫王阳, 450 ml").input_ids) == "你叫王阳, 450 ml"


def test_a_loader_that_replaces_the_pre_tokenizer_writes_other_ids(tokenizer, tmp_path):
    """Stock reads the exported folder so, for it names the class that MiniMax names; the converted folder is right."""
    shipped = (demo_checkpoint() / "tokenizer.json").read_text(encoding="utf-8")
    assert tokenizer.backend_tokenizer.to_str() == Tokenizer.from_str(shipped).to_str()
    wrong = AutoTokenizer.from_pretrained(demo_checkpoint(), trust_remote_code=False)
    assert wrong.tokenize("order 45108")[-3:] == ["45", "10", "8"]
    dst = patch_checkpoint(demo_checkpoint(), tmp_path / "converted")
    right = AutoTokenizer.from_pretrained(dst)
    assert right.tokenize("order 45108")[-5:] == list("45108")
    assert verify_tokenizer(dst, right)
    with pytest.raises(CheckpointError, match="on digits"):
        verify_tokenizer(demo_checkpoint(), wrong)


# ---- model ---------------------------------------------------------------------------------------------------------


def test_the_training_forward_pass_is_the_definition(model):
    rows = torch.randint(0, 300, (2, 300))
    with torch.no_grad():
        logits, balance = forward(model, rows)
        stock = model(rows).logits
    weights = original_weights(model, SMALL)
    for row, got, stocks in zip(rows.tolist(), logits, stock, strict=True):
        want = reference.forward(SMALL, weights, row)
        assert relative_error(got, want) < 1e-5
        assert relative_error(stocks, want) < 1e-5
    assert 0.9 < balance < 4.1  # 1 when experts are used evenly, their number when one has all


def test_greedy_needs_no_cache(model):
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12]]
    for prompt, reply in zip(prompts, greedy(model, prompts, eos=-1, max_new_tokens=6), strict=True):
        stock = model.generate(
            torch.tensor([prompt]), max_new_tokens=6, do_sample=False, use_cache=False, eos_token_id=-1
        )
        assert reply == stock[0, len(prompt) :].tolist()


def test_export_then_convert_gives_the_same_bits(model, tokenizer, tmp_path):
    original = train.export(model, SMALL, tokenizer, tmp_path / "original")
    converted = patch_checkpoint(original, tmp_path / "converted")
    back = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.float32)
    rows = torch.randint(0, 300, (2, 40))
    with torch.no_grad():
        assert torch.equal(back(rows).logits, model(rows).logits)
    names = json.loads((original / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(names.values())) > 1
    assert "model.layers.0.block_sparse_moe.experts.3.w2.weight" in names
    assert not [name for name in names if "decay" in name or "slope" in name]


# ---- training ------------------------------------------------------------------------------------------------------

BRIEF = replace(train.QUICK, stages=((40, 128),), batch_tokens=1024, warmup=10)


def weights_of(folder) -> dict[str, torch.Tensor]:
    return torch.load(folder / "state.pt", weights_only=True)["model"]


def test_a_minute_of_training_lowers_the_loss(tmp_path):
    assert train.train(tmp_path, BRIEF, workers=0)
    curve = json.loads((tmp_path / "curve.json").read_text())["step_and_loss"]
    start = torch.log(torch.tensor(1536.0))
    assert curve[-1][1] < 0.75 * start
    converted = patch_checkpoint(tmp_path / "checkpoint", tmp_path / "converted")
    assert AutoModelForCausalLM.from_pretrained(converted).config.hidden_size == BRIEF.config["hidden_size"]


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    settings = replace(BRIEF, stages=((4, 128),), batch_tokens=256)
    assert train.train(tmp_path / "whole", settings, workers=0)

    loss_of, calls = train.loss_of, itertools.count()

    def interrupted(*arguments):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return loss_of(*arguments)

    monkeypatch.setattr(train, "loss_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.train(tmp_path / "halves", settings, workers=0)
    assert not (tmp_path / "halves" / "checkpoint").exists()
    monkeypatch.setattr(train, "loss_of", loss_of)
    assert train.train(tmp_path / "halves", settings, workers=0)
    whole, halves = weights_of(tmp_path / "whole"), weights_of(tmp_path / "halves")
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_a_state_of_other_settings_is_refused(tmp_path):
    settings = replace(BRIEF, stages=((1, 128),), batch_tokens=256)
    train.train(tmp_path, settings, workers=0)
    with pytest.raises(SystemExit, match="other settings"):
        train.train(tmp_path, replace(settings, seed=1), workers=0)
