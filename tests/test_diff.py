"""What a diff of two configs says, and that it says it without colour."""

import re

import pytest
from originals import original_config
from rich.console import Console

from minimax_nb.config import FACTORS, patch_config
from minimax_nb.diff import NAMES, config_diff, differences

ORIGINAL = original_config()
NATIVE = patch_config(ORIGINAL)


def text(table, width: int = 115) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


@pytest.mark.parametrize(
    "before, after, mark, word",
    [
        ({"a": 1}, {"b": 1}, "~", "renamed"),
        ({"a": 1}, {"b": 2}, "~", "rewritten"),
        ({"b": 1}, {"b": 2}, "~", "changed"),
        ({"c": 1}, {}, "-", "gone"),
        ({}, {"c": None}, "+", "new"),
    ],
)
def test_each_row_has_a_mark_and_a_word(before, after, mark, word):
    assert differences(before, after, {"a": "b"}) == [(mark, word, before, after)]


def test_what_is_the_same_is_no_difference():
    assert differences({"c": None, "d": [0, 1]}, {"d": [0, 1], "c": None}) == []


def test_a_key_that_kept_its_name_is_compared_under_it():
    assert differences({"a": 1}, {"a": 1, "b": 2}, {"a": "b"}) == [("+", "new", {}, {"b": 2})]


def test_two_keys_that_become_one_share_a_row():
    rows = [row for row in differences(ORIGINAL, NATIVE) if "rope_parameters" in row.after]
    assert [(row.word, list(row.before)) for row in rows] == [("rewritten", ["rope_theta", "rotary_dim"])]


def test_every_key_of_both_configs_is_accounted_for():
    rows = differences(ORIGINAL, NATIVE)
    same = {key for key in ORIGINAL if key in NATIVE and ORIGINAL[key] == NATIVE[key]}
    assert {key for row in rows for key in row.before} | same == ORIGINAL.keys()
    assert {key for row in rows for key in row.after} | same == NATIVE.keys()


def test_names_are_those_that_the_conversion_writes():
    assert set(NAMES) <= ORIGINAL.keys() and set(NAMES.values()) <= NATIVE.keys()
    assert {row.word for row in differences(ORIGINAL, NATIVE) if row.before.keys() & FACTORS.keys()} == {"renamed"}


def test_the_table_reads_without_colour():
    shown = text(config_diff(ORIGINAL, NATIVE, titles=("theirs", "ours")))
    for line in ("theirs", "ours", "~ rewritten", "- gone", "+ new", "attn_type_list: 7 x 0, 1", "postnorm: true"):
        assert line in shown
    assert f"{len(ORIGINAL.keys() & NATIVE.keys()) - 2} keys" in shown  # but for model_type and architectures


def test_the_table_shows_itself_in_jupyter_with_colours_of_its_own():
    bundle = config_diff(ORIGINAL, NATIVE)._repr_mimebundle_((), ())
    assert "\x1b" not in bundle["text/plain"]
    assert "color: #000000" in bundle["text/html"] and "background-color: #fbd9c3" in bundle["text/html"]


def test_only_the_marks_have_a_background():
    html = config_diff(ORIGINAL, NATIVE)._repr_mimebundle_((), ())["text/html"]
    marked = re.findall(r'background-color: #[0-9a-f]{6}">([^<]*)<', html)
    assert len(marked) == len(differences(ORIGINAL, NATIVE))
    assert not any("_" in text for text in marked)


def test_a_narrow_terminal_loses_no_key():
    shown = text(config_diff(ORIGINAL, NATIVE), width=60)
    letters = "".join(shown.replace("│", " ").split())
    assert "postnorm:true" in letters and "minimax_nb:" in letters
    assert max(map(len, shown.splitlines())) <= 60
