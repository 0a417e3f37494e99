"""The figures of a benchmark's rows: time, memory, shares of each kind of layer, speed-up; and each in words.

    rows = json.loads(Path("bench.json").read_text())["rows"]
    prefill = chosen(rows, what="prefill", batch=1, lightning="fused", dtype="bfloat16")
    time(prefill), time_text(prefill)

A line is an attention implementation, or another field named by `by`. Rows that ran out of memory are drawn
as a cross at the top of the axes, for colour is not the only sign there either. plots.py says how figures are
made here.
"""

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.figure import Figure

from ..language import mark, sentences, tr
from .basics import BLUE, GREEN, GREY, STYLES, VERMILLION, figure_style, line_style, new_figure, new_panels, short_count

LINES = (*STYLES, (GREY, "D", "-."), ("#CC79A7", "v", (0, (1, 3))))
OWN = {"SDPA": 0, "eager": 1, "FlashAttention-2": 2, "SDPA by length": 3}  # in all figures the same line
KINDS = {
    mark("lightning"): (VERMILLION, "//"),
    mark("experts"): (BLUE, ""),
    mark("softmax"): (GREEN, ".."),
    mark("rest"): ("#8A8A8A", "xx"),
}
NAMES = {"flash_attention_2": "FlashAttention-2", "sdpa": "SDPA", "sdpa_by_length": mark("SDPA by length")}
Rows = Sequence[Mapping]


def chosen(rows: Iterable[Mapping], **fields) -> list[Mapping]:
    """The rows with these values, the shortest first; rows that were not run have no length and are left out."""
    measured = [row for row in rows if "length" in row]
    found = [row for row in measured if all(row[name] == value for name, value in fields.items())]
    if not found:
        raise ValueError(f"no row has {fields}")
    return sorted(found, key=lambda row: row["length"])


def part(rows: Rows, kind: str) -> list[Mapping]:
    """The same rows with the time and the floor of one kind of layer in place of the whole; its spread is not known."""
    times = {"ms": "kinds", "least_ms": "kinds", "most_ms": "kinds", "floor_ms": "floor"}
    found = []
    for row in rows:
        inner = {name: row[source][kind] for name, source in times.items()} if row["status"] == "ok" else {}
        found.append(row | inner)
    return found


def time(rows: Rows, by: str = "attention") -> Figure:
    """Milliseconds against tokens, both logarithmic, bars from the least to the most, and the floor of the fastest."""
    with figure_style():
        figure, axes = new_figure(9, 4.8)
        for name, line, style in _styled(_lines(rows, by)):
            ok = _ok(line)
            below, above = ([abs(row["ms"] - row[end]) for row in ok] for end in ("least_ms", "most_ms"))
            lengths, values = ([row[field] for row in ok] for field in ("length", "ms"))
            axes.errorbar(lengths, values, [below, above], label=tr(name), capsize=3, **line_style(style))
        floors = _floors(rows)
        dashed = {"color": "black", "linewidth": 1, "linestyle": (0, (6, 3))}
        axes.plot(list(floors), list(floors.values()), label=tr("floor"), **dashed)
        axes.set(yscale="log", ylabel=tr("milliseconds"))
        _finish(axes, rows, by)
    return figure


def memory(rows: Rows, by: str = "attention") -> Figure:
    """Gigabytes beyond the weights at the peak, against tokens, both logarithmic. ValueError for rows of a CPU."""
    if not any("extra_gb" in row for row in rows):
        raise ValueError("these rows have no memory: it is measured on GPUs only")
    with figure_style():
        figure, axes = new_figure(9, 4.8)
        for name, line, style in _styled(_lines(rows, by)):
            ok = _ok(line)
            lengths, values = ([row[field] for row in ok] for field in ("length", "extra_gb"))
            axes.plot(lengths, values, label=tr(name), **line_style(style))
        axes.set(yscale="log", ylabel=tr("GB beyond the weights"))
        _finish(axes, rows, by)
    return figure


def shares(rows: Rows) -> Figure:
    """A stacked bar a length: which part of the time each kind of layer takes, with the milliseconds above it."""
    ok = _ok(rows)
    with figure_style():
        figure, axes = new_figure(9, 4.8)
        bottom = [0.0] * len(ok)
        for kind, (colour, hatch) in KINDS.items():
            parts = [_percent(row)[kind] for row in ok]
            bars = {"color": colour, "hatch": hatch, "edgecolor": "white"}
            axes.bar(range(len(ok)), parts, bottom=bottom, label=tr(kind), **bars)
            for at, (part, under) in enumerate(zip(parts, bottom, strict=True)):
                if part >= 6:
                    style = {"ha": "center", "va": "center", "fontsize": 10}
                    style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
                    axes.text(at, under + part / 2, f"{part:.0f}", **style)
            bottom = [under + part for under, part in zip(bottom, parts, strict=True)]
        for at, row in enumerate(ok):
            axes.text(at, 102, f"{_figures(row['ms'])} ms", ha="center")
        axes.set_xticks(range(len(ok)), [_short_binary(row["length"]) for row in ok])
        axes.set(xlabel=tr("tokens"), ylabel=tr("share of the time, %"), ylim=(0, 112), yticks=range(0, 101, 25))
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    return figure


def speed_up(rows: Rows, against: Sequence[str] = ("eager", "sdpa"), by: str = "attention") -> Figure:
    """How many times as fast each line is as each of `against`, a panel each; 1 is as fast."""
    lines = _lines(rows, by)
    with figure_style():
        figure, panels = new_panels(11, 4.2, len(against))
        for axes, base in zip(panels, against, strict=True):
            for name, line, style in _styled(lines):
                points = ratios(lines[_name(base)], line)
                if name != _name(base) and points:
                    axes.plot(list(points), list(points.values()), label=tr(name), **line_style(style))
            axes.axhline(1, color=GREY, linewidth=1.5, linestyle=(0, (6, 3)))
            axes.set(title=tr("against {line}", line=tr(_name(base))), ylabel=tr("times as fast"))
            axes.set_ylim(0, 1.15 * max([1.0, *(y for line in axes.lines for y in line.get_ydata())]))
            _finish(axes, rows, by, crosses=False)
    return figure


def ratios(base: Rows, line: Rows) -> dict[int, float]:
    """Tokens -> how many times as fast `line` is as `base`, where both ran."""
    slow = {row["length"]: row["ms"] for row in _ok(base)}
    return {row["length"]: slow[row["length"]] / row["ms"] for row in _ok(line) if row["length"] in slow}


# In words, for the alt text


def time_text(rows: Rows, by: str = "attention") -> str:
    floor = tr("Floor: {points}.", points=_points(_floors(rows), "ms"))
    return sentences(tr("Time against length."), *_said(rows, by, "ms", "ms"), floor)


def memory_text(rows: Rows, by: str = "attention") -> str:
    return sentences(tr("Memory beyond the weights against length."), *_said(rows, by, "extra_gb", "GB"))


def shares_text(rows: Rows) -> str:
    said = []
    for row in _ok(rows):
        parts = ", ".join(f"{tr(kind)} {share:.0f} %" for kind, share in _percent(row).items())
        found = {"length": f"{row['length']:,}", "ms": _figures(row["ms"]), "parts": parts}
        said.append(tr("{length} tokens, {ms} ms: {parts}.", **found))
    return sentences(tr("Shares of the time by kind of layer."), *said)


def speed_up_text(rows: Rows, against: Sequence[str] = ("eager", "sdpa"), by: str = "attention") -> str:
    lines, said = _lines(rows, by), []
    for base in map(_name, against):
        for name, line in lines.items():
            points = ratios(lines[base], line)
            if name != base and points:
                found = {"line": name, "base": base, "points": _points(points, tr("times as fast"))}
                said.append(tr("{line} against {base}: {points}.", **found))
    return sentences(tr("Speed-up against length."), *said)


# Parts


def _said(rows: Rows, by: str, field: str, unit: str) -> list[str]:
    return [f"{name}: {tr('{points}.', points=_span(line, field, unit))}" for name, line in _lines(rows, by).items()]


def _lines(rows: Rows, by: str) -> dict[str, list[Mapping]]:
    """Rows by the field that tells lines apart, in the order in which they were measured; 5 lines at most."""
    lines = {}
    for row in rows:
        lines.setdefault(_name(row[by]), []).append(row)
    if len(lines) > len(LINES):
        raise ValueError(f"{len(lines)} lines are too many for one figure: choose among {', '.join(lines)}")
    return lines


def _styled(lines: Mapping[str, Rows]) -> list[tuple[str, Rows, tuple]]:
    """Each line with its style: its own in all figures, or one that no other here has."""
    free = (style for at, style in enumerate(LINES) if at not in {OWN.get(name) for name in lines})
    return [(name, line, LINES[OWN[name]] if name in OWN else next(free)) for name, line in lines.items()]


def _name(value) -> str:
    return NAMES.get(value, str(value))


def _ok(rows: Rows) -> list[Mapping]:
    return [row for row in rows if row["status"] == "ok"]


def _floors(rows: Rows) -> dict[int, float]:
    floors = {}
    for row in _ok(rows):
        floors[row["length"]] = min(row["floor_ms"], floors.get(row["length"], row["floor_ms"]))
    return dict(sorted(floors.items()))


def _percent(row: Mapping) -> dict[str, float]:
    whole = sum(row["kinds"].values())
    return {kind: 100 * row["kinds"][kind] / whole for kind in KINDS}


def _finish(axes, rows: Rows, by: str, crosses: bool = True) -> None:
    """The axis of tokens, the legend, and a cross at the top for what ran out of memory."""
    lengths = sorted({row["length"] for row in rows})
    axes.set(xscale="log", xlabel=tr("tokens"), xlim=(lengths[0] / 1.3, lengths[-1] * 1.3))
    axes.set_xticks(lengths, [_short_binary(length) for length in lengths])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,g}")
    if crosses:
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.2)  # room above the lines
    axes.grid(axis="y", alpha=0.3)
    for at, (name, line, (colour, *_)) in enumerate(_styled(_lines(rows, by))):
        full = [row["length"] for row in line if row["status"] == "out of memory"] if crosses else []
        style = {"color": colour, "linestyle": "none"}
        style |= {"marker": "x", "markersize": 10, "markeredgewidth": 2.5}
        height = [0.97 - 0.06 * at] * len(full)
        if full:
            where = axes.get_xaxis_transform()  # tokens across, share of the height up
            axes.plot(full, height, transform=where, label=tr("{name}: out of memory", name=tr(name)), **style)
    axes.legend(frameon=False, fontsize=10)


def _span(line: Rows, field: str, unit: str) -> str:
    """The figures of a line, and from where on its memory did not suffice."""
    full = [row["length"] for row in line if row["status"] == "out of memory"]
    said = [_points({row["length"]: row[field] for row in _ok(line)}, unit)] if _ok(line) else []
    return ", ".join([*said, *([tr("out of memory from {tokens} tokens", tokens=f"{min(full):,}")] if full else [])])


def _points(points: Mapping[int, float], unit: str) -> str:
    """First and last of some points."""
    said = []
    for length, value in points.items():
        point = {"value": f"{_figures(value)} {unit}", "length": f"{length:,}"}
        said.append(tr("{value} at {length} tokens", **point))
    return tr(" to ").join(dict.fromkeys((said[0], said[-1])))


def _figures(value: float) -> str:
    """Three figures, or all before the point."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _short_binary(length: int) -> str:
    return f"{length // 1024}k" if length % 1024 == 0 else short_count(length)
