"""Half-converted configs without a browser: what each repair is worth, alone and with others, and what is shown."""

import json
from pathlib import Path
from time import perf_counter

import pytest
import torch
from transformers import MiniMaxForCausalLM
from transformers.utils import logging

from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.config import FACTORS, patch_config
from minimax_nb.demo import demo_checkpoint
from minimax_nb.demo.card import perplexity
from minimax_nb.widgets import config_explorer
from minimax_nb.widgets.explorers.config import CHAT, REPAIRS, REPLY, TEXTS, ConfigExplorer, Measured

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CELLS = json.loads((NOTEBOOKS / "02_config_patching.ipynb").read_text(encoding="utf-8"))["cells"]
SOURCES = "\n".join("".join(cell["source"]) for cell in CELLS)
ORIGINAL = json.loads((demo_checkpoint() / "config.json").read_text())
NATIVE = patch_config(ORIGINAL)
ROTATION = "rope_parameters", "rows"
LONG = 300  # s, for a measurement on a machine that is busy with other things


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return patch_checkpoint(demo_checkpoint(), tmp_path_factory.mktemp("config") / "converted")


@pytest.fixture(scope="module")
def measured(folder) -> dict[tuple[str, ...], Measured]:
    """All on, and each repair off alone, and both halves of the rotation."""
    state = ConfigExplorer(demo_checkpoint(), folder)
    for off in [(), *((name,) for name in REPAIRS), ROTATION]:
        switch(state, off)
        state.start()
        state.wait(LONG)
        assert state.status == "done"
    return state.measured


@pytest.fixture
def state(folder) -> ConfigExplorer:
    return ConfigExplorer(demo_checkpoint(), folder)


def switch(state: ConfigExplorer, off: tuple[str, ...]) -> None:
    """Switch off these, and on all others."""
    for name in REPAIRS:
        state.set(name, name not in off)


# What is measured


def test_all_on_is_the_model(measured, folder, state):
    right = MiniMaxForCausalLM.from_pretrained(folder)
    assert all(map(torch.equal, state.model(()).parameters(), right.parameters()))
    model = state.model(())
    assert measured[()].error < 1e-5 and measured[()].reply == REPLY
    assert measured[()].perplexity == pytest.approx(perplexity(right, state._tokenizer, TEXTS), rel=1e-6)
    (card, *_) = json.loads((NOTEBOOKS / "results" / "demo_card.json").read_text())["rows"]
    assert perplexity(model, state._tokenizer, 24) == pytest.approx(card["perplexity"], rel=1e-4)


@pytest.mark.parametrize("name", [name for name in REPAIRS if name != "eos"])
def test_each_repair_is_needed(measured, name):
    assert measured[(name,)].error > 0.05


def test_without_an_end_the_reply_goes_on(measured):
    right, endless = measured[()], measured[("eos",)]
    assert endless.reply.startswith(REPLY) and len(endless.reply) > 2 * len(REPLY)
    assert (endless.error, endless.perplexity) == (right.error, right.perplexity)


def test_notebook_02_says_what_is_measured(measured):
    """The rows of its table: what is off, logits off by, perplexity, order number."""
    names = {"nothing": (), "`rope_parameters` and rows": ROTATION, "`rope_parameters`": ("rope_parameters",)}
    names |= {"rows": ("rows",), "`full_attn factors`": ("full_attn",)}
    section = SOURCES.partition("<summary>What did you see?</summary>")[2].partition("</details>")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == list(names)
    for name, *figures, number in rows:
        assert measured[names[name]].cells() == [*figures, f"Your order number is {number}."]


def test_the_weights_that_are_not_found_are_the_same_each_time(state):
    torch.manual_seed(5)
    random = torch.random.get_rng_state()
    one, other = (state.model(("layer_types",)) for _ in range(2))
    assert all(map(torch.equal, one.parameters(), other.parameters()))
    assert torch.equal(torch.random.get_rng_state(), random)  # nobody else's numbers change


def test_transformers_speaks_as_before(state):
    level = logging.get_verbosity()
    logging.set_verbosity_info()
    state.model(())
    assert logging.get_verbosity() == logging.INFO
    logging.set_verbosity(level)


# Configs


def test_configs_are_what_half_conversions_leave(state):
    plain = {key: value for key, value in NATIVE.items() if key != "minimax_nb"}
    assert state.config(()) == plain
    factors = state.config(("full_attn", "linear_attn", "mlp"))
    assert factors.keys() - plain.keys() == set(FACTORS) and plain.keys() - factors.keys() == set(FACTORS.values())
    assert all(factors[key] == ORIGINAL[key] for key in FACTORS)
    layers = state.config(("layer_types",))
    assert "layer_types" not in layers and layers["attn_type_list"] == ORIGINAL["attn_type_list"]
    rotation = state.config(ROTATION)
    assert "rope_parameters" not in rotation and (rotation["rope_theta"], rotation["rotary_dim"]) == (10000, 16)
    assert state.config(("rows", "eos")) == plain


def test_the_model_takes_what_the_table_says(state):
    off = tuple(REPAIRS)
    switch(state, off)
    taken = {right.split(":")[0]: last for right, _, last in state._diff(off)}
    config = state.model(off).config
    assert taken.pop("layer_types") == ", ".join(kind.split("_")[0] for kind in config.layer_types)
    assert taken["mlp_alpha_factor"] == str(config.mlp_alpha_factor) == "1"
    assert taken["rope_parameters"] == "rope_theta: 10000\nrope_type: default"
    assert config.rope_parameters == {"rope_theta": 10000, "rope_type": "default"}
    assert taken["generation_config.json, eos_token_id"] == "null"
    assert state.model(off).generation_config.eos_token_id is None


# What is shown


def test_the_start_is_the_second_try_by_hand(state):
    assert state.off() == ROTATION
    assert state.status == "without rope_parameters, rows of q and k: not measured yet"
    for words in (
        "rope_theta: 10000",
        "rotary_dim: 16",
        "rows of q_proj and k_proj",
        "full RoPE",
        "Nothing is measured",
    ):
        assert words in state.picture
    assert "layer_types" not in state.picture.partition("</table>")[0]


@pytest.mark.parametrize("name", REPAIRS)
def test_a_switch_shows_at_once_what_it_changes(state, name):
    switch(state, ())
    assert state.status == "all on: not measured yet" and "Nothing differs" in state.picture
    began = perf_counter()
    state.set(name, False)
    assert perf_counter() - began < 0.1
    assert REPAIRS[name].lack in state.text
    rows = state._diff((name,))
    assert len(rows) == max(1, len(REPAIRS[name].keys))
    assert all(key in state.picture for key in REPAIRS[name].keys)


# The work


def test_the_right_one_comes_first_and_nothing_is_measured_twice(state, monkeypatch):
    asked = []

    def measure(off):
        asked.append(off)
        yield "reading"
        yield Measured(0.5 if off else 1e-7, 2.0 + len(off), "a <b>reply</b>")

    monkeypatch.setattr(state, "_measure", measure)
    for off in (ROTATION, ("mlp",), ROTATION):
        switch(state, off)
        state.start()
        state.wait(LONG)
    assert asked == list(state.measured) == [(), ROTATION, ("mlp",)]
    assert state._results()[:2] == [
        ["all on", "< 0.001%", "2", "a <b>reply</b>"],
        ["without rope_parameters, rows of q and k", "50%", "4", "a <b>reply</b>"],
    ]
    assert (
        "a &lt;b&gt;reply&lt;/b&gt;" in state.picture and "without mlp factors | 50% | 3 | a <b>reply</b>" in state.text
    )
    switch(state, ("mlp",))
    assert state.status == "without mlp factors: measured"
    state.reset()
    assert state.measured == {} and state.off() == ROTATION


def test_stop_between_two_texts_keeps_nothing_half(state):
    told = []

    def changed():
        told.append(state.status)
        if state.status.endswith("perplexity, 1 of 4 texts"):
            state.stop()

    state.changed = changed
    state.start()
    state.wait(LONG)
    assert state.status == "stopped" and state.measured == {}
    assert list(dict.fromkeys(told))[:3] == [
        "at work...",
        "all on: reading the weights",
        "all on: logits, against a float64 computation that takes a while at first",
    ]
    assert told[-2:] == ["stopping...", "stopped"]


def test_a_folder_that_breaks_meanwhile_is_told(state, tmp_path):
    state._folder = tmp_path
    state.start()
    state.wait(LONG)
    assert state.status.startswith("error: ") and not state.busy and state.measured == {}
    state.set("mlp", False)
    assert state.status.endswith("not measured yet")


def test_the_conversation_is_that_of_notebook_02():
    assert "ORDER = " + ", ".join(f'"{turn}"' for turn in CHAT) in SOURCES and f'prompt(*ORDER, "{REPLY}")' in SOURCES


def test_the_widget_shows_it(folder):
    widget = config_explorer(demo_checkpoint(), folder)
    assert widget.action == "Measure" and len(widget.controls) == len(REPAIRS)
    assert {control["kind"] for control in widget.controls} == {"switch"}
    assert "rows of q and k: off" in widget.as_html() and "full RoPE" in widget.as_html()
