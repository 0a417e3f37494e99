"""The figures draw what they are given, name it, and leave no open figure behind."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest

from minimax_nb import plots

HEADS = {"original": [(0, 1.0), (1, 0.1), (0, 1.0), (1, 0.1), (0, 0.0), (1, 0.0)], "still": [(0, 0.5), (0, 0.5)]}
FIGURES = {
    "memory": (plots.memory, [1000, 10**6], {"KV cache": [0.1, 40.0]}, {"weights": 912.0}),
    "rotation": (plots.rotation, HEADS),
    "parity": (plots.parity, {"converted": [1e-7, 2e-7], "only renamed": [0.1, 0.3]}, 1e-5),
    "recall": (plots.recall, {"converted": {125: 95.0, 500: 95.0}, "only renamed": {125: 5.0, 500: 0.0}}),
    "next_token": (plots.next_token, [" lemon", " mustard"], {"temperature 0.5": [0.6, 0.4], "1": [0.5, 0.5]}),
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
