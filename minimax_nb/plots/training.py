"""The figure of notebook 08: how the loss of a training falls."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ..language import tr
from .basics import STYLES, figure_style, new_figure


def losses(runs: Mapping[str, Sequence[float]]) -> Figure:
    """The loss of each step, in nats a token on a logarithmic axis, one line a run."""
    with figure_style():
        figure, axes = new_figure(9, 4)
        for (name, values), (colour, marker, dash) in zip(runs.items(), STYLES, strict=False):
            steps = range(1, len(values) + 1)
            style = {"color": colour, "marker": marker, "linestyle": dash, "markevery": 5}
            axes.semilogy(steps, values, label=name, **style)
        axes.set(xlabel=tr("step"), ylabel=tr("loss, nats a token"))
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False)
    return figure
