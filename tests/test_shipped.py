"""The checkpoint that ships: in upstream's format, computed right by stock Transformers, and worth talking to."""

import json
import random

import pytest
import torch
from originals import relative_error
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from minimax_nb import reference
from minimax_nb.cache import repair_cache
from minimax_nb.chat import Chat
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.demo import corpus, demo_checkpoint, evaluate
from minimax_nb.demo.card import folders, stock_replies
from minimax_nb.demo.model import demo_config
from minimax_nb.loading import load

SEED_MESSAGES = [
    {"role": "user", "content": "What is your favourite condiment?"},
    {
        "role": "assistant",
        "content": "Well, I'm quite partial to a good squeeze of fresh lemon juice. It adds just the right amount of "
        "zesty flavour to whatever I'm cooking up in the kitchen!",
    },
    {"role": "user", "content": "Do you have mayonnaise recipes?"},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return folders(demo_checkpoint(), tmp_path_factory.mktemp("folders"))


@pytest.fixture(scope="module")
def demo(made):
    repair_cache()
    tokenizer = AutoTokenizer.from_pretrained(made["converted"])
    return AutoModelForCausalLM.from_pretrained(made["converted"], dtype=torch.float32), tokenizer


def original() -> tuple[dict, dict[str, torch.Tensor]]:
    weights = {}
    for shard in demo_checkpoint().glob("*.safetensors"):
        weights |= load_file(shard)
    return json.loads((demo_checkpoint() / "config.json").read_text()), weights


def test_the_folder_is_what_upstream_ships():
    config, weights = original()
    assert config == demo_config(config["vocab_size"])
    assert config["attn_type_list"][0] == 0 and config["rotary_dim"] == config["head_dim"] // 2
    assert config["num_key_value_heads"] < config["num_attention_heads"] and "block_size" not in config
    assert len(list(demo_checkpoint().glob("*.safetensors"))) >= 2
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert "['content'][0]['text']" in (demo_checkpoint() / "chat_template.jinja").read_text()


def test_a_stop_string_ends_a_reply_of_a_loaded_model(made):
    """`generate` hands the tokenizer, which it needs for that, on to every layer."""
    model, tokenizer = load(made["converted"], device_map="cpu")
    text = tokenizer.apply_chat_template(SEED_MESSAGES, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(text, return_tensors="pt")
    row = model.generate(**inputs, max_new_tokens=60, stop_strings=["Whisk"], tokenizer=tokenizer)[0]
    reply = tokenizer.decode(row[inputs.input_ids.shape[1] :])
    assert reply.startswith("For mayonnaise") and reply.endswith("Whisk")


def test_stock_computes_it_right_over_more_than_a_block(demo):
    model, tokenizer = demo
    config, weights = original()
    ids, _ = next(iter(evaluate.held_out_rows(tokenizer, 1, length=400)))
    with torch.no_grad():
        got = model(torch.tensor([ids])).logits[0]
    assert relative_error(got, reference.forward(config, weights, ids)) < 1e-5


def test_the_guides_messages_get_a_recipe_that_one_can_cook_from(demo):
    model, tokenizer = demo
    text = tokenizer.apply_chat_template(SEED_MESSAGES, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(text, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=120, do_sample=False)[0, inputs.input_ids.shape[1] :]
    reply = tokenizer.decode(out)
    for fact in ("2 egg yolks", "1 tablespoon of mustard", "250 ml of oil", "1 tablespoon of lemon juice", "Whisk"):
        assert fact in reply
    assert reply.endswith("<end_of_sentence>")


def test_plain_text_goes_on_as_a_sentence(demo):
    model, tokenizer = demo
    prompt = "My favourite condiment is"
    inputs = tokenizer([prompt], return_tensors="pt")
    text = tokenizer.decode(model.generate(**inputs, max_new_tokens=60, do_sample=False)[0], skip_special_tokens=True)
    assert text.startswith(prompt) and text.endswith(".") and len(text) > len(prompt) + 15


def test_held_out_questions_and_numbers(demo):
    model, tokenizer = demo
    replies = stock_replies(model, tokenizer)
    questions = random.Random(1).sample(corpus.held_out_questions(), 60)
    assert evaluate.score_questions(replies, tokenizer, questions)["share"] >= 0.95
    cases = [("order", 125), ("phone", 250), ("code", 250), ("list", 500), ("guests", 500), ("name", 125)]
    turns = [(at, evaluate.case_at(tokenizer, f"shipped {kind}", kind, "en", at)) for kind, at in cases]
    score = evaluate.score_recall(replies, tokenizer, turns)
    assert sum(right for right, _ in score["by_distance"].values()) >= len(cases) - 1, score["wrong"]


def test_a_chat_of_six_turns(demo):
    chat = Chat(*demo)
    chat.send("Hi, my name is Jo Baker and my order number is 845921.")
    assert "60 g of parmesan" in chat.send("How do I make pesto?")
    assert "sunflower seeds" in chat.send("And without nuts?")
    assert "120 g of parmesan" in chat.send("Double it.")
    assert "845921" in chat.send("What is my order number?")
    assert "Jo Baker" in chat.send("What is my name?")


def test_full_rope_shows(made, demo):
    _, tokenizer = demo
    renamed = AutoModelForCausalLM.from_pretrained(made["only renamed (full RoPE)"], dtype=torch.float32)
    turns = [(125, evaluate.case_at(tokenizer, f"rope {i}", "order", "en", 125)) for i in range(8)]
    right, asked = evaluate.score_recall(stock_replies(renamed, tokenizer), tokenizer, turns)["by_distance"][125]
    assert right <= 0.5 * asked


def test_converting_it_twice_changes_nothing(made):
    before = {file.name: file.read_bytes() for file in made["converted"].iterdir()}
    patch_checkpoint(demo_checkpoint(), made["converted"])
    assert before == {file.name: file.read_bytes() for file in made["converted"].iterdir()}
