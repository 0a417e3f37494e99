"""The figures draw what they are given, name it, and leave no open figure behind."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest

from minimax_nb.language import columns
from minimax_nb.plots import basics as plots

HEADS = {"original": [(0, 1.0), (1, 0.1), (0, 1.0), (1, 0.1), (0, 0.0), (1, 0.0)], "still": [(0, 0.5), (0, 0.5)]}
TRAPS = {"converted": {"error": 6e-7, "perplexity": 1.06}, "alphas of 1": {"error": 0.52, "perplexity": 20.3}}
TOKENS = (["<end>", "Ċ", "Do", "Ġyou"], [2, 202, 852, 31], [2])
FIGURES = {
    "memory": (plots.memory, [1000, 10**6], {"KV cache": [0.1, 40.0]}, {"weights": 912.0}),
    "rotation": (plots.rotation, HEADS),
    "parity": (plots.parity, {"converted": [1e-7, 2e-7], "only renamed": [0.1, 0.3]}, 1e-5),
    "traps": (plots.traps, TRAPS),
    "recall": (plots.recall, {"converted": {125: 95.0, 500: 95.0}, "only renamed": {125: 5.0, 500: 0.0}}),
    "next_token": (plots.next_token, [" lemon", " mustard"], {"temperature 0.5": [0.6, 0.4], "1": [0.5, 0.5]}),
    "tokens": (plots.tokens, *TOKENS),
}


@pytest.fixture(params=FIGURES)
def figure(request):
    function, *arguments = FIGURES[request.param]
    return function(*arguments)


def test_figures_are_drawn_once(figure, tmp_path):
    assert plt.get_fignums() == []  # an open one would be shown a second time
    figure.savefig(tmp_path / "figure.png")


def words(figure) -> set[str]:
    found = {text.get_text() for axes in figure.axes for text in [*axes.texts, axes.title]}
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    return found | {text.get_text() for legend in legends for text in legend.get_texts()}


def test_series_are_named():
    assert {"KV cache", "weights"} <= words(plots.memory(*FIGURES["memory"][1:]))
    assert {"original", "still"} <= words(plots.rotation(HEADS))
    assert {"converted", "only renamed", "bound 1e-05"} <= words(plots.parity(*FIGURES["parity"][1:]))


def test_series_differ_by_more_than_colour():
    lines = plots.parity(*FIGURES["parity"][1:]).axes[0].lines[:2]
    assert len({line.get_marker() for line in lines}) == 2
    assert len({line.get_linestyle() for line in lines}) == 2


def test_dims_that_stand_still_are_hatched_and_unnamed():
    above = plots.rotation(HEADS).axes[0]
    assert [bool(box.get_hatch()) for box in above.patches[:6]] == [False] * 4 + [True] * 2
    assert [text.get_text() for text in above.texts[:4]] == ["a", "b", "a", "b"]


def test_probabilities_are_written_beside_their_bars():
    figure = plots.next_token(*FIGURES["next_token"][1:])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.600", "0.400"]


def test_traps_write_each_value_and_mark_the_right_row():
    panels = plots.traps(TRAPS).axes
    assert [axes.get_title() for axes in panels] == ["error", "perplexity"]
    assert [[text.get_text() for text in axes.texts] for axes in panels] == [["6e-07", "0.52"], ["1.06", "20.3"]]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == list(TRAPS)
    right, wrong = panels[1].lines
    assert right.get_marker() != wrong.get_marker() and right.get_color() != wrong.get_color()


def test_cut_candidates_say_so_and_what_was_before_is_an_outline():
    four = {str(k): [1.0, 0.0] for k in range(4)}
    panels = plots.next_token([" lemon", " mustard"], four, before=[0.5, 0.5]).axes
    assert len(panels) == 4
    assert [text.get_text() for text in panels[0].texts] == ["1.000", "cut"]
    after, before = panels[0].containers
    assert [bar.get_width() for bar in before] == [0.5, 0.5]
    assert not any(bar.get_fill() and bar.get_facecolor()[3] for bar in before) and after[0].get_facecolor()[3]


def test_tokens_are_boxes_with_their_ids_and_special_ones_have_a_thick_frame():
    axes = plots.tokens(*TOKENS).axes[0]
    assert [text.get_text() for text in axes.texts] == ["<end>", "2", "Ċ", "202", "Do", "852", "Ġyou", "31"]
    widths = [box.get_linewidth() for box in axes.patches]
    assert widths[0] > widths[1] and len(set(widths[1:])) == 1


@pytest.mark.filterwarnings("error:Glyph")
def test_pieces_in_bytes_are_text_and_no_glyph_is_missing(tmp_path):
    pieces, ids = ["èĽĭé»Ħ", "Ġ½", "èĽ", "ĠÂ½", "ǅ", "\U0001f995"], [400, 5, 6, 7, 8, 9]
    figure = plots.tokens(pieces, ids, [])
    figure.savefig(tmp_path / "figure.png")  # a character that its fonts lack would warn
    texts = [text.get_text() for text in figure.axes[0].texts[::2]]
    families, missing = plots._families(set("蛋黄\U0001f995"))
    shown = "".join(f"U+{ord(each):04X} " if each in missing else each for each in "蛋黄").strip()
    assert texts == [shown, "Ġ½", "èĽ", "Ġ½", "ǅ", "U+1F995" if "\U0001f995" in missing else "\U0001f995"]
    assert families[0] == "monospace" and "Last Resort" not in " ".join(families)


def test_a_character_that_monospace_lacks_is_drawn_by_another_font():
    assert plots._families(set("ab ǅ")) == (["monospace", "DejaVu Sans"], set())


def test_chinese_takes_two_columns():
    assert [columns(text) for text in ("ab", "蛋黄", "Ġ蛋", "½")] == [2, 4, 3, 1]


def test_tokens_begin_a_row_after_a_line_break_and_where_they_would_not_fit():
    def rows(width):
        return [box.get_y() for box in plots.tokens(*TOKENS, width=width).axes[0].patches]

    assert rows(width=96) == [0, 0, 1, 1]
    assert rows(width=7) == [0, 1, 2, 3]
