"""The figures of notebook 5 draw what they are given, name it in words, and leave no open figure behind."""

from math import log

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest

from minimax_nb.plots import lightning as plots

TOKENS = [[10 ** (layer + head / 2) for head in range(6)] for layer in range(3)]  # half-lives of 3 layers, 6 heads
SLOPES = {"slow": log(2) / 1000, "never": 0.0}
STAGES = {"stock": {"prefill": 0.3, "decode": "not finite"}, "torch": {"prefill": 0.2, "decode": 0.2}}
TIMES = {"stock": (300.0, 200.0), "torch": (120.0, 20.0)}
FIGURES = {
    "half_lives": (plots.half_lives, TOKENS, [2]),
    "remembered": (plots.remembered, SLOPES),
    "cost": (plots.cost, [64, 128], {"softmax": [0.001, 0.004], "lightning": [0.002, 0.004]}),
    "drift": (plots.drift, {"bf16": [0.01, 0.1, 0.2], "fp32": [0.002, 0.002, 0.002]}),
    "recorded_errors": (plots.recorded_errors, {"layer 0": STAGES, "layer 40": STAGES}),
    "split_times": (plots.split_times, {"second turn": TIMES, "prefill": TIMES}),
}


def drawn(name):
    function, *arguments = FIGURES[name]
    return function(*arguments)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_once(name, tmp_path):
    figure = drawn(name)
    assert plt.get_fignums() == []  # an open one would be shown a second time
    figure.savefig(tmp_path / "figure.png")


def legend(figure) -> list[str]:
    legends = [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]
    return [text.get_text() for found in legends for text in found.get_texts()]


def test_the_map_has_a_hatched_column_for_each_softmax_layer_and_ignores_its_values():
    wild = [*TOKENS[:2], [1e30] * 6]
    (axes, *_), (other, *_) = drawn("half_lives").axes, plots.half_lives(wild, [2]).axes
    (column,) = axes.patches
    assert column.get_hatch() and column.get_x() <= 2 <= column.get_x() + column.get_width()
    assert axes.images[0].get_clim() == other.images[0].get_clim() == (0, 3.5)
    assert axes.images[0].get_array().shape == (6, 3)  # heads run down, layers to the right


def test_a_head_is_drawn_with_its_half_life():
    figure = drawn("remembered")
    assert legend(figure) == ["slow: half after 1,000 tokens", "never: forgets nothing"]
    slow, mark, never, _ = figure.axes[0].lines
    assert mark.get_xydata().tolist() == [[pytest.approx(1000), 0.5]]
    assert dict(zip(slow.get_xdata(), slow.get_ydata(), strict=True))[1000] == pytest.approx(0.5)
    assert set(never.get_ydata()) == {1.0}
    assert legend(plots.remembered({"fast": log(2) / 2.5})) == ["fast: half after 2.5 tokens"]


@pytest.mark.parametrize("name", ["cost", "drift", "recorded_errors"])
def test_series_are_named_and_differ_by_more_than_colour(name):
    figure = drawn(name)
    lines = figure.axes[0].lines[:2]
    assert len({line.get_marker() for line in lines}) == len({line.get_linestyle() for line in lines}) == 2
    series = FIGURES[name][-1]
    assert all(key in " ".join(legend(figure)) for key in (STAGES if name == "recorded_errors" else series))


def test_errors_that_are_no_number_are_said():
    figure = drawn("recorded_errors")
    assert [axes.get_title() for axes in figure.axes] == ["layer 0", "layer 40"]
    assert legend(figure)[:2] == ["stock: not finite", "torch"]


def test_times_are_split_and_written():
    axes = drawn("split_times").axes[0]
    inner, rest = axes.containers
    assert [bar.get_width() for bar in inner] == [200, 20] and [bar.get_width() for bar in rest] == [100, 100]
    assert all(bar.get_hatch() for bar in inner) and not any(bar.get_hatch() for bar in rest)
    assert [text.get_text().strip() for text in axes.texts] == ["300, of it 200", "120, of it 20"]
