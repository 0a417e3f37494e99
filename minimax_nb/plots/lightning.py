"""The figures of notebook 5: what lightning heads remember, cost, and lose. plots.py says how figures are made here.

    remembered({"layer 0, head 63": 0.0039})

Where one curve may lie on another, the legend stands outside and the marks are shifted.
"""

from collections.abc import Collection, Mapping, Sequence
from math import ceil, exp, floor, log, log10

from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ..language import tr
from .basics import BLUE, GREY, STYLES, VERMILLION, figure_style, line_style, new_figure, new_panels, short_count


def half_lives(tokens: Sequence[Sequence[float]], softmax: Collection[int] = ()) -> Figure:
    """A map of all heads: tokens until half is forgotten, (layers, heads), in colour and as lines of equal reach.

    Layers in `softmax` have no decay: their columns are white and hatched, and their values are not looked
    at.
    """
    layers, heads = len(tokens), len(tokens[0])
    shown = [log10(value) for layer, row in enumerate(tokens) if layer not in softmax for value in row]
    columns = [[log10(row[head]) for row in tokens] for head in range(heads)]
    with figure_style():
        figure, axes = new_figure(10, 5.2)
        picture = axes.imshow(columns, cmap="cividis", aspect="auto", vmin=min(shown), vmax=max(shown))
        levels = range(ceil(min(shown)), floor(max(shown)) + 1)
        edge = [withStroke(linewidth=3.5, foreground="black")]  # readable on the bright and on the hatched parts too
        lines = axes.contour(columns, levels=list(levels), colors="white", linewidths=1.5)
        lines.set_path_effects(edge)
        for text in axes.clabel(lines, fmt=lambda level: short_count(10 ** round(level)), fontsize=12):
            text.set_path_effects(edge)
        for layer in softmax:
            hatched = {"facecolor": "white", "edgecolor": GREY, "hatch": "////", "linewidth": 0}
            axes.axvspan(layer - 0.5, layer + 0.5, **hatched)
        ticks = range(0, layers, 8 if layers > 16 else 1)
        axes.set(
            xlabel=tr("layer (hatched: softmax)"), ylabel=tr("head"), xticks=list(ticks), xlim=(-0.5, layers - 0.5)
        )
        bar = figure.colorbar(picture, ticks=list(levels))
        bar.ax.set_yticklabels([short_count(10**level) for level in levels])
        bar.set_label(tr("tokens until half is forgotten"))
    return figure


def remembered(slopes: Mapping[str, float], longest: int = 100_000) -> Figure:
    """What is left of a token, exp(-slope distance), against the distance in tokens; a line a head, its half marked.

    `slopes` are decay rates per token; with 0 nothing is ever forgotten.
    """
    steps = range(int(20 * log10(longest)) + 1)
    distances = sorted({round(10 ** (step / 20)) for step in steps})
    with figure_style():
        figure, axes = new_figure(9, 4)
        for (name, slope), (colour, marker, dash) in zip(slopes.items(), STYLES, strict=False):
            left = [exp(-slope * distance) for distance in distances]
            style = {"color": colour, "linestyle": dash, "linewidth": 2.5}
            axes.semilogx(distances, left, label=f"{name}: {_half(slope)}", **style)
            if slope and 1 <= log(2) / slope <= longest:
                axes.plot(log(2) / slope, 0.5, color=colour, marker=marker, markersize=10)
        axes.axhline(0.5, color=GREY, linewidth=1, linestyle=(0, (6, 3)))
        axes.set(
            xlabel=tr("distance in tokens"), ylabel=tr("share that is left"), ylim=(-0.03, 1.06), xlim=(1, longest)
        )
        axes.set_xticks(
            ticks := [10**power for power in range(int(log10(longest)) + 1)], [short_count(x) for x in ticks]
        )
        figure.legend(frameon=False, loc="outside upper left")
    return figure


def cost(tokens: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> Figure:
    """Milliseconds against length, both logarithmic, a line for each kind of layer."""
    with figure_style():
        figure, axes = new_figure(9, 4.2)
        for (name, values), style in zip(seconds.items(), STYLES, strict=False):
            axes.loglog(tokens, [1000 * value for value in values], label=name, **line_style(style))
        axes.set(xlabel=tr("tokens"), ylabel=tr("milliseconds"))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xticks(tokens, [str(count) for count in tokens])
        axes.minorticks_off()
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, loc="upper left")
    return figure


def drift(errors: Mapping[str, Sequence[float]]) -> Figure:
    """Relative error of each decode step's output, both axes logarithmic; a line a way of computing."""
    with figure_style():
        figure, axes = new_figure(9, 4.2)
        for (name, values), style in zip(errors.items(), STYLES, strict=False):
            steps = range(1, len(values) + 1)
            marks = [2**power - 1 for power in range(len(values).bit_length())]
            line = line_style(style, linewidth=1.5, markevery=marks)
            axes.loglog(steps, [100 * value for value in values], label=name, **line)
        axes.set(xlabel=tr("decode step"), ylabel=tr("relative error, %"))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, loc="upper left")
    return figure


def recorded_errors(panels: Mapping[str, Mapping[str, Mapping[str, float | str]]]) -> Figure:
    """Errors in percent, a panel a layer, a line a form, a point a stage; what is no number stands above, in words."""
    with figure_style():
        figure, all_axes = new_panels(11, 4.2, len(panels))
        for axes, (title, forms) in zip(all_axes, panels.items(), strict=True):
            stages = list(next(iter(forms.values())))
            for at, ((name, found), style) in enumerate(zip(forms.items(), STYLES, strict=False)):
                values = [value if isinstance(value, float) else float("nan") for value in found.values()]
                label = name if all(value == value for value in values) else tr("{name}: not finite", name=name)
                places = [stage + 0.12 * (at - 1) for stage in range(len(stages))]
                axes.semilogy(places, values, label=label, **line_style(style, markersize=9))
            axes.set(title=title, ylim=(0.01, 1000), xlim=(-0.4, len(stages) - 0.6))
            axes.set_xticks(range(len(stages)), stages, fontsize=10)
            axes.yaxis.set_major_formatter("{x:g}")
            axes.grid(axis="y", alpha=0.3)
            axes.legend(frameon=False, loc="upper left", fontsize=10)
        all_axes[0].set_ylabel(tr("relative error, %"))
    return figure


def split_times(panels: Mapping[str, Mapping[str, tuple[float, float]]]) -> Figure:
    """Milliseconds of a call, a panel a call and a bar a form: (whole, lightning layers within it)."""
    with figure_style():
        figure, all_axes = new_panels(11, 3.3, len(panels))
        for axes, (title, forms) in zip(all_axes, panels.items(), strict=True):
            whole, inner = (list(column) for column in zip(*forms.values(), strict=True))
            rest = [both - part for both, part in zip(whole, inner, strict=True)]
            hatched = {"color": VERMILLION, "hatch": "//", "edgecolor": "white"}
            axes.barh(range(len(forms)), inner, label=tr("lightning"), **hatched)
            axes.barh(range(len(forms)), rest, left=inner, color=BLUE, alpha=0.75, label=tr("the rest"))
            for at, (both, part) in enumerate(zip(whole, inner, strict=True)):
                axes.text(
                    both * 1.02,
                    at,
                    tr(" {both}, of it {part}", both=f"{both:.0f}", part=f"{part:.0f}"),
                    va="center",
                    fontsize=10,
                )
            axes.set(title=title, xlabel=tr("milliseconds"), xlim=(0, 1.55 * max(whole)))
            axes.set_yticks(range(len(forms)), list(forms) if axes is all_axes[0] else [""] * len(forms))
            axes.invert_yaxis()
        entries = all_axes[0].get_legend_handles_labels()
        figure.legend(*entries, frameon=False, loc="outside upper right", ncols=2)
    return figure


def _half(slope: float) -> str:
    if slope == 0:
        return tr("forgets nothing")
    tokens = log(2) / slope
    return tr("half after {tokens} tokens", tokens=f"{tokens:.1f}" if tokens < 10 else f"{tokens:,.0f}")
