"""The figures of notebook 7 draw what they are given, and leave no open figure behind."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest

from minimax_nb.plan import PARTS
from minimax_nb.plots import scaling as plots

ONE = {"weights": 50.0, "KV cache": 4.0, "lightning state": 0.1, "workspace": 6.0}
MACHINES = {"fits": (80, [ONE, ONE]), "does not": (40, [ONE])}
WAYS = {"in turn": [[(0, 2)], [(2, 3)]], "together": [[(0, 2.5)], [(0, 2.5)]]}
FIGURES = {"placement": (plots.placement, MACHINES), "turns": (plots.turns, WAYS, "ms")}


def drawn(name):
    function, *arguments = FIGURES[name]
    return function(*arguments)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_once(name, tmp_path):
    figure = drawn(name)
    assert plt.get_fignums() == []  # an open one would be shown a second time
    figure.savefig(tmp_path / "figure.png")


def test_parts_lie_one_behind_the_other_up_to_what_a_gpu_holds():
    fits, does_not = drawn("placement").axes
    assert tuple(plots.KINDS) == PARTS
    assert len(fits.patches) == 2 * len(PARTS) and len(does_not.patches) == len(PARTS)
    ends = [box.get_x() + box.get_width() for box in does_not.patches]
    assert ends == pytest.approx([50, 54, 54.1, 60.1])
    looks = {(box.get_facecolor(), box.get_hatch()) for box in fits.patches}
    assert len(looks) == len(PARTS) and len({hatch for _, hatch in looks}) == 3


def test_a_line_stands_where_the_memory_ends():
    for axes, memory in zip(drawn("placement").axes, (80, 40), strict=True):
        (line,) = axes.lines
        assert list(line.get_xdata()) == [memory, memory] and line.get_linestyle() != "-"


def test_each_gpu_has_a_box_while_it_computes():
    spans = []
    for axes in drawn("turns").axes:
        boxes = [path.get_extents() for kind in axes.collections for path in kind.get_paths()]
        spans.append([(box.x0, box.x1) for box in boxes])
    assert spans == [[(0, 2), (2, 5)], [(0, 2.5), (0, 2.5)]]
