"""The figures of notebook 6 draw what they are given, and leave no open figure behind."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest

from minimax_nb.plots import decode as plots

RUNGS = [
    {"lever": "none", "ms": 16.0, "least_ms": 14.0, "most_ms": 18.0, "launches": 587, "floor_ms": 2.8},
    {"lever": "graph", "ms": 3.0, "least_ms": 2.9, "most_ms": 3.1, "launches": 3, "floor_ms": 2.7},
]
OPERATIONS = [("linear", 0.0, 1.0), ("to", 1.5, 1.75), ("silu", 2.0, 2.25), ("mul", 3.0, 3.5)]
LINES = {"theirs": [(1.0, 2e12), (300.0, 4e14)], "ours": [(1.0, 4e12), (300.0, 6e14)]}
FIGURES = {
    "roofline": (plots.roofline, 4e12, 8e14, LINES),
    "timeline": (plots.timeline, {"plain": (OPERATIONS, 4.0), "static": (OPERATIONS[:2], 2.0)}),
    "ladder": (plots.ladder, RUNGS),
    "kernels": (plots.kernels, {"products": (1454.0, 1466.0), "norms": (40.0, 0.0)}),
}


def drawn(name):
    function, *arguments = FIGURES[name]
    return function(*arguments)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_once(name, tmp_path):
    figure = drawn(name)
    assert plt.get_fignums() == []  # an open one would be shown a second time
    figure.savefig(tmp_path / "figure.png")


def test_the_roof_bends_where_a_byte_takes_as_long_as_its_operations():
    (axes,) = drawn("roofline").axes
    roof = axes.lines[0]
    assert roof.get_xdata()[1] == 200  # 8e14 / 4e12
    assert list(roof.get_ydata())[1:] == [800, 800] and roof.get_ydata()[0] == pytest.approx(4 * roof.get_xdata()[0])


def test_a_timeline_has_a_box_for_each_operation_by_its_kind():
    (axes,) = drawn("timeline").axes
    boxes = [len(kind.get_paths()) for kind in axes.collections]
    assert boxes == [1, 1, 2, 1, 1, 0]
    kinds = [plots.kind_of(name) for name in ("linear", "_grouped_mm", "copy_", "silu")]
    assert kinds == ["matrix products", "matrix products", "moving and copying", "other"]


def test_a_ladder_shows_times_with_their_spread_the_floor_and_launches():
    left, right = drawn("ladder").axes
    texts = [text.get_text().strip() for text in (*left.texts, *right.texts)]
    assert texts == ["floor 2.7", "16.0", "3.0", "587", "3"]
    (line,) = [line for line in left.lines if list(line.get_xdata()) == [2.7, 2.7]]
    assert line.get_linestyle() != "-"


def test_kernels_stand_beside_what_their_bytes_take():
    (axes,) = drawn("kernels").axes
    assert [bar.get_width() for bar in axes.patches] == [1454, 40, 1466, 0]
