"""The figures of notebook 6: roofline, timeline of a step, ladder of levers, kernels of a step. See basics.py."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ..language import mark, tr
from .basics import BLUE, GREEN, GREY, STYLES, VERMILLION, figure_style, line_style, new_figure, new_panels

KINDS = {
    mark("matrix products"): (BLUE, ""),
    mark("moving and copying"): (VERMILLION, "//"),
    mark("other"): (GREEN, ".."),
}
MOVING = "to copy_ contiguous cat index select item reshape slice transpose unsqueeze expand view chunk split".split()


def roofline(read_bytes_s: float, matrix_ops_s: float, lines: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Operations a second against operations for each byte read, both logarithmic, under the two limits of a device.

    `lines` maps a name to (operations a byte, operations a second) of each measurement.
    """
    corner = matrix_ops_s / read_bytes_s
    found = [x for points in lines.values() for x, _ in points]
    ends = min(found) / 1.6, max([*found, corner]) * 3
    with figure_style():
        figure, axes = new_figure(9, 4.6)
        limit = [x * read_bytes_s if x < corner else matrix_ops_s for x in (ends[0], corner, ends[1])]
        axes.loglog([ends[0], corner, ends[1]], [y / 1e12 for y in limit], color="black", label=tr("the roofline"))
        for (name, points), style in zip(lines.items(), STYLES, strict=False):
            x, y = zip(*points, strict=True)
            axes.loglog(x, [value / 1e12 for value in y], label=name, **line_style(style))
        axes.axvline(corner, color=GREY, linewidth=1.5, linestyle=(0, (6, 3)))
        axes.text(corner / 1.15, 1.3 * limit[0] / 1e12, tr("reading decides"), ha="right", color=GREY)
        axes.text(corner * 1.15, 1.3 * limit[0] / 1e12, tr("computing decides"), ha="left", color=GREY)
        axes.set(xlabel=tr("operations for each byte read"), ylabel=tr("10¹² operations a second"), xlim=ends)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,g}")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="upper left")
    return figure


def timeline(steps: Mapping[str, tuple[Sequence[tuple[str, float, float]], float]]) -> Figure:
    """The operations of a step along its milliseconds, a row of boxes a step; what is white between them is Python.

    `steps` maps a name to (operations, ms), as `bench.operations` gives them: an operation is (name, start, end).
    """
    longest = max(ms for _, ms in steps.values())
    with figure_style():
        figure, axes = new_figure(11, 1.5 + 0.85 * len(steps))
        for row, (operations, ms) in enumerate(steps.values()):
            for kind, (colour, hatch) in KINDS.items():
                spans = [(start, end - start) for name, start, end in operations if kind_of(name) == kind]
                label = tr(kind) if row == 0 else None
                style = {"facecolor": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
                axes.broken_barh(spans, (row - 0.3, 0.6), label=label, **style)
            axes.plot([0, ms, ms, 0, 0], [row + y for y in (-0.3, -0.3, 0.3, 0.3, -0.3)], color=GREY, linewidth=1)
            axes.text(ms + 0.01 * longest, row, f"{ms:.1f} ms", va="center")
        axes.set(xlim=(0, 1.1 * longest), ylim=(len(steps) - 0.5, -0.5), xlabel=tr("milliseconds, under the profiler"))
        axes.set_yticks(range(len(steps)), list(steps))
        figure.legend(frameon=False, loc="outside upper right", ncols=len(KINDS))
    return figure


def kind_of(operation: str) -> str:
    """The kind of an operation of PyTorch, by its name without `aten::`."""
    if operation in ("linear", "matmul", "addmm", "mm", "bmm") or "grouped_mm" in operation:
        return "matrix products"
    return "moving and copying" if operation in MOVING else "other"


def ladder(rungs: Sequence[Mapping]) -> Figure:
    """A bar a rung, in milliseconds with its spread and the floor; beside it how often the host asks for something.

    A rung has `lever`, `ms`, `least_ms`, `most_ms`, `launches` and `floor_ms`, as benchmarks/decode.py writes it.
    """
    names, at = [rung["lever"] for rung in rungs], range(len(rungs))
    with figure_style():
        figure, (left, right) = new_panels(12, 1.2 + 0.55 * len(rungs), 2)
        times = [rung["ms"] for rung in rungs]
        spread = [[abs(rung["ms"] - rung[end]) for rung in rungs] for end in ("least_ms", "most_ms")]
        left.barh(at, times, xerr=spread, color=BLUE, capsize=4, error_kw={"elinewidth": 1.5})
        floor = rungs[-1]["floor_ms"]
        left.axvline(floor, color=VERMILLION, linestyle=(0, (6, 3)))
        left.text(floor, -0.62, tr(" floor {ms}", ms=f"{floor:.1f}"), color=VERMILLION, va="bottom")
        right.barh(at, [rung["launches"] for rung in rungs], color=GREEN, hatch="..", edgecolor="white")
        for row, rung in enumerate(rungs):
            left.text(rung["most_ms"] * 1.02 + 0.15, row, f"{rung['ms']:.1f}", va="center")
            right.text(rung["launches"], row, f" {rung['launches']}", va="center")
        left.set(xlabel=tr("milliseconds a step"), xlim=(0, 1.12 * max(rung["most_ms"] for rung in rungs)))
        right.set(xlabel=tr("launches a step"), xlim=(0, 1.12 * max(rung["launches"] for rung in rungs)))
        left.set_yticks(at, names)
        right.set_yticks(at, [""] * len(names))
        for axes in (left, right):
            axes.set_ylim(len(rungs) - 0.4, -0.9)
    return figure


def kernels(parts: Mapping[str, tuple[float, float]]) -> Figure:
    """A bar for each kernel of a step: its microseconds, and hatched those that its bytes take at the measured rate.

    `parts` maps a name to (microseconds, microseconds of reading alone), the longest first.
    """
    at = range(len(parts))
    with figure_style():
        figure, axes = new_figure(10, 1.1 + 0.5 * len(parts))
        times, read = (list(column) for column in zip(*parts.values(), strict=True))
        axes.barh(at, times, 0.7, color=BLUE, label=tr("measured"))
        axes.barh(at, read, 0.3, color="white", hatch="//", edgecolor=VERMILLION, label=tr("to read its bytes"))
        for row, value in enumerate(times):
            axes.text(max(value, read[row]) + 0.01 * max(times), row, f"{value:,.0f}", va="center")
        axes.set(xlabel=tr("microseconds a step"), xlim=(0, 1.12 * max(times)), ylim=(len(parts) - 0.4, -0.6))
        axes.set_yticks(at, list(parts))
        axes.legend(frameon=False, loc="lower right")
    return figure
