"""The figures of the notebooks: numbers in, a matplotlib Figure out.

A function here knows nothing of models, folders or files; the notebook computes what is drawn. Every series differs by
marker, dash or hatch as well as by colour, and is named beside its data. Figures are closed before they are returned,
so that a notebook shows each once.

    parity({"converted": errors, "only renamed": others}, bound=1e-5)
"""

from collections.abc import Mapping, Sequence
from math import log10

import matplotlib.pyplot as plt
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"  # told apart without red and green
STYLES = ((BLUE, "o", "-"), (VERMILLION, "X", "--"), (GREEN, "s", ":"))
FONT = {"font.size": 12, "axes.titlesize": 13, "axes.spines.top": False, "axes.spines.right": False}
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # names for the pairs of a head


def memory(tokens: Sequence[int], lines: Mapping[str, Sequence[float]], levels: Mapping[str, float]) -> Figure:
    """Gigabytes against context length, both logarithmic: `lines` grow with `tokens`, `levels` do not."""
    with plt.rc_context(FONT):
        figure, axes = _figure(9, 4.6)
        for (name, values), (colour, marker, dash) in zip(lines.items(), STYLES, strict=False):
            axes.loglog(tokens, values, color=colour, marker=marker, linestyle=dash, linewidth=2, label=name)
        for name, value in levels.items():
            axes.axhline(value, color=GREY, linewidth=1.5, linestyle=(0, (6, 3)))
            axes.text(tokens[0], value * 1.12, name, color=GREY, va="bottom")
        axes.set(xlabel="tokens in context", ylabel="GB")
        axes.set_xticks(tokens, [_short(count) for count in tokens])
        axes.minorticks_off()
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, loc="lower right")
    return figure


def rotation(heads: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Which dims of a head turn together, and how fast.

    `heads` maps a name to (pair, radians a token) of each dim, in order; 0 radians means that the dim does not turn.
    Above, a row of boxes for each head: two boxes with one letter are a pair, a hatched box stands still. Below, the
    speed of each pair.
    """
    speeds = [speed for head in heads.values() for _, speed in head if speed]
    low, high = log10(min(speeds)), log10(max(speeds))
    colours = plt.get_cmap("cividis")
    with plt.rc_context(FONT):
        figure, (above, below) = _figure(11, 6.4, rows=2)
        for row, (name, head) in enumerate(heads.items()):
            for dim, (pair, speed) in enumerate(head):
                share = (log10(speed) - low) / ((high - low) or 1) if speed else None
                _box(above, dim, -row, LETTERS[pair % len(LETTERS)], share, colours)
            above.text(-0.6, 0.4 - row, name, ha="right", va="center")
        width = max(map(len, heads.values()))
        above.set(xlim=(-0.2, width), ylim=(0.9 - len(heads), 1.1), xlabel="dim of the head", yticks=[])
        above.set_xticks([dim + 0.45 for dim in range(0, width, 4)], range(0, width, 4))
        above.spines["left"].set_visible(False)

        for (name, head), (colour, marker, dash), size in zip(heads.items(), STYLES, (12, 8, 6), strict=False):
            pairs = dict(sorted((pair, speed) for pair, speed in head if speed))
            style = {"color": colour, "linestyle": dash, "marker": marker, "markersize": size}
            below.semilogy(list(pairs), list(pairs.values()), label=name, **style)
        shown = range(1 + max(pair for head in heads.values() for pair, speed in head if speed))
        below.set_xticks(shown, [LETTERS[pair] for pair in shown])
        below.set(xlabel="pair", ylabel="radians a token")
        below.grid(axis="y", alpha=0.3)
        below.legend(frameon=False)
    return figure


def parity(errors: Mapping[str, Sequence[float]], bound: float) -> Figure:
    """Relative error of each token's logits, on a logarithmic axis, and the bound that a right model stays under."""
    with plt.rc_context(FONT):
        figure, axes = _figure(9, 4.6)
        for (name, values), (colour, marker, dash) in zip(errors.items(), STYLES, strict=False):
            axes.semilogy(values, color=colour, marker=marker, linestyle=dash, linewidth=1, label=name)
        axes.axhline(bound, color=GREY, linewidth=1.5, linestyle=(0, (6, 3)))
        axes.text(0, bound * 1.3, f"bound {bound:.0e}", color=GREY, va="bottom")
        axes.set(xlabel="token", ylabel="relative error of the logits")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, loc="center right")
    return figure


def recall(shares: Mapping[str, Mapping[int, float]]) -> Figure:
    """Share of stated values repeated to the letter, in per cent, against their distance in tokens; a line a model."""
    with plt.rc_context(FONT):
        figure, axes = _figure(8, 3.6)
        for (name, points), (colour, marker, dash) in zip(shares.items(), STYLES, strict=False):
            style = {"color": colour, "marker": marker, "linestyle": dash, "linewidth": 2, "markersize": 8}
            axes.plot(list(points), list(points.values()), label=name, **style)
        axes.set(xlabel="tokens between the statement and the question", ylabel="recalled, %", ylim=(-4, 104))
        axes.set_xticks(list(points))
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, loc="center right")
    return figure


def next_token(tokens: Sequence[str], shares: Mapping[str, Sequence[float]]) -> Figure:
    """The probability of each candidate for the next token, one panel for each entry of `shares`."""
    with plt.rc_context(FONT):
        figure, panels = _figure(11, 4.2, columns=len(shares))
        for axes, (name, values), (colour, _, _), hatch in zip(
            panels, shares.items(), STYLES, ("", "//", ".."), strict=False
        ):
            axes.barh(range(len(tokens)), values, color=colour, alpha=0.75, hatch=hatch, edgecolor="white")
            for at, value in enumerate(values):
                axes.text(value + 0.01, at, f"{value:.3f}", va="center", fontsize=10)
            axes.set(title=name, xlim=(0, 1), xticks=(0, 0.5, 1), xlabel="probability")
            axes.set_yticks(range(len(tokens)), tokens if axes is panels[0] else [""] * len(tokens))
            axes.invert_yaxis()
    return figure


def _figure(width: float, height: float, rows: int = 1, columns: int = 1):
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained")
    plt.close(figure)
    return figure, axes


def _box(axes, x: float, y: float, letter: str, share: float | None, colours: Colormap) -> None:
    """One dim: dark and slow to light and fast with `share`, hatched if that is None."""
    face = "white" if share is None else colours(share)
    hatch = "////" if share is None else None
    axes.add_patch(Rectangle((x, y), 0.9, 0.8, facecolor=face, edgecolor=GREY, hatch=hatch))
    if share is not None:
        ink = "black" if share > 0.55 else "white"
        axes.text(x + 0.45, y + 0.4, letter, ha="center", va="center", color=ink, fontsize=11)


def _short(count: int) -> str:
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:g}{unit}"
    return str(count)
