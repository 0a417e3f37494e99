"""The figures of notebook 7: what lies on each GPU, and which GPU computes when. See basics.py."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ..language import mark, tr
from .basics import BLUE, GREEN, GREY, VERMILLION, figure_style, new_panels

KINDS = {  # colour and hatch of each part of a GPU's memory
    mark("weights"): (BLUE, ""),
    mark("KV cache"): (VERMILLION, "///"),
    mark("lightning state"): ("black", ""),
    mark("workspace"): (GREEN, ".."),
}


def placement(machines: Mapping[str, tuple[float, Sequence[Mapping[str, float]]]]) -> Figure:
    """A panel for each machine, in it a bar for each GPU: GB by kind, and a line where the memory ends.

    `machines` maps a name to (GB of a GPU, for each GPU its GB by the names of KINDS).
    """
    longest = max(sum(parts.values()) for _, gpus in machines.values() for parts in gpus)
    longest = max(longest, *(memory for memory, _ in machines.values()))
    rows = max(len(gpus) for _, gpus in machines.values())
    with figure_style():
        figure, panels = new_panels(13, 1.9 + 0.32 * rows, len(machines))
        for panel, (name, (memory, gpus)) in zip(panels, machines.items(), strict=True):
            start = [0.0] * len(gpus)
            for kind, (colour, hatch) in KINDS.items():
                sizes = [parts[kind] for parts in gpus]
                label = tr(kind) if panel is panels[0] else None
                style = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
                panel.barh(range(len(gpus)), sizes, 0.7, start, label=label, **style)
                start = [a + b for a, b in zip(start, sizes, strict=True)]
            _limit(panel, memory, f"{memory:g} GB", len(gpus))
            panel.set(title=name, xlabel="GB", xlim=(0, 1.05 * longest), ylim=(len(gpus) - 0.4, -1.6))
            panel.set_yticks(range(len(gpus)), [f"GPU {index}" for index in range(len(gpus))])
        figure.legend(frameon=False, loc="outside lower center", ncols=len(KINDS))
    return figure


def turns(ways: Mapping[str, Sequence[Sequence[tuple[float, float]]]], unit: str) -> Figure:
    """Which GPU computes when, at one token: a panel for each way, a row for each GPU, a box while it computes.

    `ways` maps a name to the spans of each GPU, as (start, length) in `unit`.
    """
    end = max(start + length for gpus in ways.values() for spans in gpus for start, length in spans)
    with figure_style():
        figure, panels = new_panels(12, 3.6, len(ways))
        styles = ({"facecolor": BLUE}, {"facecolor": GREEN, "hatch": "..", "edgecolor": "white"})
        for panel, (name, gpus), style in zip(panels, ways.items(), styles, strict=False):
            for row, spans in enumerate(gpus):
                panel.broken_barh(spans, (row - 0.35, 0.7), linewidth=0, **style)
            last = max(start + length for spans in gpus for start, length in spans)
            _limit(panel, last, f"{last:.1f}", len(gpus))
            panel.set(title=name, xlabel=unit, xlim=(0, 1.1 * end), ylim=(len(gpus) - 0.4, -1.4))
            panel.set_yticks(range(len(gpus)), [f"GPU {index}" for index in range(len(gpus))])
    return figure


def _limit(panel, at: float, name: str, rows: int) -> None:
    """A dashed line across all rows, with its name above it."""
    panel.plot([at, at], [-0.6, rows - 0.4], color=GREY, linewidth=2, linestyle=(0, (6, 3)))
    panel.text(at, -0.65, name, ha="center", va="bottom", color=GREY)
