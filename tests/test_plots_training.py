"""The figure of notebook 08."""

import minimax_nb.plots.training as plots

RUNS = {"one": [10.0, 3.0, 0.5], "two": [6.0, 1.0, 0.2, 0.1]}


def test_a_line_for_each_run_with_every_step():
    (axes,) = plots.losses(RUNS).axes
    assert axes.get_yscale() == "log"
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == RUNS
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2, 3], [1, 2, 3, 4]]
    assert len({(line.get_marker(), line.get_linestyle()) for line in axes.lines}) == 2
