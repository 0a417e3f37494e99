"""The figures of the notebooks: numbers in, a matplotlib Figure out.

A function here knows nothing of models, folders or files; the notebook computes what is drawn. Every series
differs by marker, dash or hatch as well as by colour, and is named beside its data. Figures are closed before
they are returned, so that a notebook shows each once.

    parity({"converted": errors, "only renamed": others}, bound=1e-5)
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from math import log10

import matplotlib.pyplot as plt
from matplotlib import font_manager
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tokenizers import decoders

from ..language import columns, tr
from . import fonts

BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"  # told apart without red and green
STYLES = ((BLUE, "o", "-"), (VERMILLION, "X", "--"), (GREEN, "s", ":"))
FONT = {"font.size": 12, "axes.titlesize": 13, "axes.spines.top": False, "axes.spines.right": False}
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # names for the pairs of a head


def memory(tokens: Sequence[int], lines: Mapping[str, Sequence[float]], levels: Mapping[str, float]) -> Figure:
    """Gigabytes against context length, both logarithmic: `lines` grow with `tokens`, `levels` do not."""
    with figure_style():
        figure, axes = new_figure(9, 4.6)
        for (name, values), (colour, marker, dash) in zip(lines.items(), STYLES, strict=False):
            axes.loglog(tokens, values, color=colour, marker=marker, linestyle=dash, linewidth=2, label=name)
        for name, value in levels.items():
            axes.axhline(value, color=GREY, linewidth=1.5, linestyle=(0, (6, 3)))
            axes.text(tokens[0], value * 1.12, name, color=GREY, va="bottom")
        axes.set(xlabel=tr("tokens in context"), ylabel="GB")
        axes.set_xticks(tokens, [short_count(count) for count in tokens])
        axes.minorticks_off()
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, loc="lower right")
    return figure


def rotation(heads: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Which dims of a head turn together, and how fast.

    `heads` maps a name to (pair, radians a token) of each dim, in order; 0 radians means that the dim does
    not turn. Above, a row of boxes for each head: two boxes with one letter are a pair, a hatched box stands
    still. Below, the speed of each pair.
    """
    speeds = [speed for head in heads.values() for _, speed in head if speed]
    low, high = log10(min(speeds)), log10(max(speeds))
    colours = plt.get_cmap("cividis")
    with figure_style():
        figure, (above, below) = new_figure(11, 6.4, rows=2)
        for row, (name, head) in enumerate(heads.items()):
            for dim, (pair, speed) in enumerate(head):
                share = (log10(speed) - low) / ((high - low) or 1) if speed else None
                _box(above, dim, -row, LETTERS[pair % len(LETTERS)], share, colours)
            above.text(-0.6, 0.4 - row, name, ha="right", va="center")
        width = max(map(len, heads.values()))
        above.set(xlim=(-0.2, width), ylim=(0.9 - len(heads), 1.1), xlabel=tr("dim of the head"), yticks=[])
        above.set_xticks([dim + 0.45 for dim in range(0, width, 4)], range(0, width, 4))
        above.spines["left"].set_visible(False)

        for (name, head), (colour, marker, dash), size in zip(heads.items(), STYLES, (12, 8, 6), strict=False):
            pairs = dict(sorted((pair, speed) for pair, speed in head if speed))
            style = {"color": colour, "linestyle": dash, "marker": marker, "markersize": size}
            below.semilogy(list(pairs), list(pairs.values()), label=name, **style)
        shown = range(1 + max(pair for head in heads.values() for pair, speed in head if speed))
        below.set_xticks(shown, [LETTERS[pair] for pair in shown])
        below.set(xlabel=tr("pair"), ylabel=tr("radians a token"))
        below.grid(axis="y", alpha=0.3)
        below.legend(frameon=False)
    return figure


def parity(errors: Mapping[str, Sequence[float]], bound: float) -> Figure:
    """Relative error of each token's logits, on a logarithmic axis, and the bound that a right model stays under."""
    with figure_style():
        figure, axes = new_figure(9, 4.6)
        for (name, values), (colour, marker, dash) in zip(errors.items(), STYLES, strict=False):
            axes.semilogy(values, color=colour, marker=marker, linestyle=dash, linewidth=1, label=name)
        axes.axhline(bound, color=GREY, linewidth=1.5, linestyle=(0, (6, 3)))
        axes.text(0, bound * 1.3, tr("bound {bound}", bound=f"{bound:.0e}"), color=GREY, va="bottom")
        axes.set(xlabel=tr("token"), ylabel=tr("relative error of the logits"))
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, loc="center right")
    return figure


def traps(rows: Mapping[str, Mapping[str, float]]) -> Figure:
    """A dot for each row and measure, a panel a measure, logarithmic; the first row is the right one, a round dot.

    `rows` maps a name to {measure: value}, the same measures in each; values above zero, smaller is better.
    """
    measures = list(next(iter(rows.values())))
    with figure_style():
        figure, panels = new_panels(11, 1.1 + 0.45 * len(rows), len(measures))
        for axes, measure in zip(panels, measures, strict=True):
            values = [row[measure] for row in rows.values()]
            for at, value in enumerate(values):
                colour, marker, _ = STYLES[bool(at)]
                axes.semilogx(value, at, color=colour, marker=marker, markersize=11)
                label = f"{value:.2g}" if value < 1 else f"{value:.3g}"
                axes.annotate(label, (value, at), (11, 0), textcoords="offset points", va="center")
            axes.set(title=measure, xlim=(min(values) / 2, max(values) * 8), ylim=(len(rows) - 0.5, -0.5))
            axes.set_yticks(range(len(rows)), list(rows) if axes is panels[0] else [""] * len(rows))
            axes.grid(axis="y", alpha=0.3)
    return figure


def recall(shares: Mapping[str, Mapping[int, float]]) -> Figure:
    """Share of stated values repeated to the letter, in per cent, against their distance in tokens; a line a model."""
    with figure_style():
        figure, axes = new_figure(8, 3.6)
        for (name, points), style in zip(shares.items(), STYLES, strict=False):
            axes.plot(list(points), list(points.values()), label=name, **line_style(style))
        axes.set(xlabel=tr("tokens between the statement and the question"), ylabel=tr("recalled, %"), ylim=(-4, 104))
        axes.set_xticks(list(points))
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, loc="center right")
    return figure


def next_token(
    tokens: Sequence[str], shares: Mapping[str, Sequence[float]], before: Sequence[float] | None = None
) -> Figure:
    """The probability of each candidate for the next token, one panel for each entry of `shares`.

    `before`, if given, is drawn in every panel as an outline, for comparison. A probability of 0 is written
    "cut".
    """
    with figure_style():
        figure, panels = new_panels(11, 1.3 + 0.38 * len(tokens), len(shares))
        for axes, (name, values) in zip(panels, shares.items(), strict=True):
            axes.barh(range(len(tokens)), values, color=BLUE, alpha=0.75)
            if before is not None:
                axes.barh(range(len(tokens)), before, color="none", edgecolor="black", linewidth=1.2)
            for at, value in enumerate(values):
                right = max(value, before[at] if before else 0)
                axes.text(right + 0.03, at, f"{value:.3f}" if value else tr("cut"), va="center", fontsize=10)
            axes.set(title=name, xlim=(0, 1.25), xticks=(0, 0.5, 1), xlabel=tr("probability"))
            axes.set_yticks(range(len(tokens)), tokens if axes is figure.axes[0] else [""] * len(tokens))
            axes.invert_yaxis()
    return figure


def tokens(pieces: Sequence[str], ids: Sequence[int], special: Collection[int], width: int = 96) -> Figure:
    """Tokens as boxes in reading order, each with its id below; those in `special` are grey with a thick frame.

    `pieces` are as the vocabulary has them, so Ġ is a space and Ċ a line break. Its letters for bytes become text where
    they are whole characters. A character that no installed font has becomes its number, U+86CB.
    A row holds `width` columns, and ends early after a piece with a line break in it.
    """
    pieces = [_readable(piece) for piece in pieces]
    families, missing = _families(set("".join(pieces)))
    numbers = str.maketrans({each: f"U+{ord(each):04X} " for each in missing})
    pieces = [piece.translate(numbers).rstrip(" ") for piece in pieces]
    spots = _spots(pieces, ids, width)
    rows = spots[-1][0] + 1
    with figure_style({"font.family": families}):
        figure, axes = new_figure(11, 0.55 * rows)
        for piece, number, (row, left, wide) in zip(pieces, ids, spots, strict=True):
            marked = number in special
            style = {"facecolor": "#e0e0e0" if marked else "white", "linewidth": 2.5 if marked else 0.8}
            axes.add_patch(Rectangle((left, row), wide + 0.4, 0.9, edgecolor=GREY, **style))
            middle = {"x": left + wide / 2 + 0.2, "ha": "center", "va": "center"}
            axes.text(y=row + 0.33, s=piece, fontsize=11, **middle)
            axes.text(y=row + 0.72, s=str(number), fontsize=8, color=GREY, **middle)
        axes.set(xlim=(-0.5, width + 1), ylim=(rows, -0.1))
        axes.axis("off")
    return figure


def figure_style(more: Mapping | None = None) -> AbstractContextManager:
    """What every figure is drawn in: FONT, the font of the current language, and more of matplotlib's settings."""
    return plt.rc_context(FONT | fonts.settings() | dict(more or {}))


def new_figure(width: float, height: float, rows: int = 1):
    figure, axes = plt.subplots(rows, figsize=(width, height), layout="constrained")
    plt.close(figure)
    return figure, axes


def new_panels(width: float, height: float, columns: int) -> tuple[Figure, list]:
    """A figure and its axes side by side, a list of one too."""
    figure, axes = plt.subplots(1, columns, figsize=(width, height), layout="constrained", squeeze=False)
    plt.close(figure)
    return figure, list(axes[0])


def line_style(style: tuple, **more) -> dict:
    """An entry of STYLES as what matplotlib's plot takes."""
    return dict(zip(("color", "marker", "linestyle"), style, strict=True)) | {"linewidth": 2, "markersize": 8} | more


def _box(axes, x: float, y: float, letter: str, share: float | None, colours: Colormap) -> None:
    """One dim: dark and slow to light and fast with `share`, hatched if that is None."""
    face = "white" if share is None else colours(share)
    hatch = "////" if share is None else None
    axes.add_patch(Rectangle((x, y), 0.9, 0.8, facecolor=face, edgecolor=GREY, hatch=hatch))
    if share is not None:
        ink = "black" if share > 0.47 else "white"
        axes.text(x + 0.45, y + 0.4, letter, ha="center", va="center", color=ink, fontsize=11)


def short_count(count: int) -> str:
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:g}{unit}"
    return str(count)


def _readable(piece: str) -> str:
    """A piece of a byte-level vocabulary as text; Ġ and Ċ stay, and so does what is no whole character."""
    text = decoders.ByteLevel().decode([piece])
    return piece if "\ufffd" in text else text.replace(" ", "Ġ").replace("\n", "Ċ")


def _families(characters: set[str]) -> tuple[list[str], set[str]]:
    """Font families that draw these, monospace first, and the characters for which there is none."""
    families, missing = ["monospace"], {each for each in characters if not each.isspace()}
    if any(each > "\u2e80" for each in missing):
        fonts.packaged()
    first = font_manager.findfont("monospace")
    others = {font.fname: font.name for font in font_manager.fontManager.ttflist if "Last Resort" not in font.name}
    for path, name in {first: "monospace", **others}.items():
        if not missing:
            break
        drawn = {each for each in missing if font_manager.get_font(path).get_char_index(ord(each))}
        families += [name] if drawn and path != first else []
        missing -= drawn
    return families, missing


def _spots(pieces: Sequence[str], ids: Sequence[int], limit: int) -> list[tuple[int, int, int]]:
    """(row, left edge, width) of each piece, in columns."""
    spots, row, left = [], 0, 0
    for piece, number in zip(pieces, ids, strict=True):
        wide = max(columns(piece), len(str(number)))
        if left and left + wide > limit:
            row, left = row + 1, 0
        spots.append((row, left, wide))
        row, left = (row + 1, 0) if "Ċ" in piece else (row, left + wide + 1)
    return spots
