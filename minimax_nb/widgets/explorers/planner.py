"""The planner as a picture: what each GPU holds, for a machine, a dtype, a context and a batch that a reader sets.

A reader also sets whether the layers lie on the GPUs whole, or each GPU has a part of all (tensor parallel).

    planner = Planner()
    planner.set("dtype", "int8")
    planner.found.fits, planner.text                # found is None where so many GPUs cannot split the model

All figures are those of `minimax_nb.plan` for MiniMax-Text-01; nothing is loaded. A bar's parts differ by hatch and
order as well as by colour, and stand as figures beside it.
"""

from html import escape

from ...language import mark, tr
from ...plan import PARTS, Plan, planned
from ...planner.words import decoding, layers
from ..controls import Control
from .explorer import Explorer

WIDTH = 12  # em of the longest bar
FILLS = {  # of each part: how its box is filled
    "weights": "#0072b2",
    "KV cache": "repeating-linear-gradient(45deg,#d55e00 0 3px,#fff 3px 6px)",
    "lightning state": "currentColor",
    "workspace": "repeating-linear-gradient(0deg,#009e73 0 2px,#fff 2px 5px)",
}
WHOLE, SPLIT = mark("whole layers"), mark("tensor parallel")
SPLITS = (2, 4, 8)  # numbers of GPUs that share the 8 KV heads, from 2 on
BOX = "display:inline-block;height:1em;vertical-align:middle"


class Planner(Explorer):
    title = mark("What each GPU would hold")
    hint = mark(
        "Arrow keys move the sliders. The context goes in powers of two: 17 is 131,072 tokens. The upright line in a "
        "bar is the memory of the GPU."
    )
    controls = (
        Control("gpus", mark("GPUs"), 8, low=2, high=16),
        Control("memory", mark("GB of a GPU"), 80, low=40, high=200),
        Control("dtype", mark("Weights"), "bf16", options=("bf16", "int8")),
        Control("spread", mark("Over the GPUs"), WHOLE, options=(WHOLE, SPLIT)),
        Control("context", mark("Context (2 to the power of)"), 17, low=10, high=23),
        Control("batch", mark("Conversations at a time"), 1, low=1, high=64),
    )

    def draw(self) -> str:
        set_to = self.values
        split = set_to["spread"] == SPLIT
        if split and set_to["gpus"] not in SPLITS:
            self.found = None
            return f"<p>{escape(self._cannot_split())}</p>"
        self.found = planned(
            gpus=set_to["gpus"],
            gpu_memory=set_to["memory"],
            dtype=set_to["dtype"],
            context=2 ** set_to["context"],
            batch=set_to["batch"],
            tp=split,
        )
        sentences = "".join(f"<p>{escape(line)}</p>" for line in self._verdict())
        return sentences + _legend() + _bars(self.found)

    def describe(self) -> str:
        return self.found.report if self.found else self._cannot_split()

    def summary(self) -> str:
        if not self.found:
            return tr("cannot be split")
        return tr("fits") if self.found.fits else tr("does not fit")

    def _cannot_split(self) -> str:
        return tr(
            "Tensor parallel takes 2, 4 or 8 GPUs, because they share the 8 KV heads equally. {count} cannot.",
            count=self.values["gpus"],
        )

    def _verdict(self) -> list[str]:
        """What stands in the report above its figures and below them."""
        first, *rest = self.found.report.splitlines()
        last = [line for line in rest if not line.startswith("  ")]
        chosen = {"machine": first, "context": f"{self.found.context:,}", "batch": self.found.batch}
        chosen["decoding"] = decoding(self.found)
        return [*last, tr("{machine}; {context} tokens of context, batch {batch}; {decoding}.", **chosen)]


def _legend() -> str:
    parts = "".join(
        f'<span style="white-space:nowrap"><span aria-hidden="true" style="{BOX};width:1em;background:{fill}"></span> '
        f"{tr(name)}&ensp;</span>"
        for name, fill in FILLS.items()
    )
    return f"<p>{tr('From left to right: {parts}', parts=parts)}</p>"


def _bars(found: Plan) -> str:
    """A table with a row for each GPU: the bar, and its figures."""
    head = ("", "", *map(tr, PARTS), tr("together"))
    longest = max(found.gpu_memory_gb, *found.per_gpu_gb)
    top = "".join(f'<th scope="col">{name}</th>' if name else "<td></td>" for name in head)
    rows = []
    for index, (parts, held, here) in enumerate(
        zip(found.parts_per_gpu_gb, found.per_gpu_gb, layers(found), strict=True)
    ):
        cells = "".join(f"<td>{_gb(value)}</td>" for value in (*parts.values(), held))
        name = tr("GPU {index}, {layers}", index=index, layers=here)
        bar = _bar(parts, found.gpu_memory_gb, longest)
        rows.append(f'<tr><th scope="row">{name}</th><td style="text-align:left">{bar}</td>{cells}</tr>')
    caption = tr("GB on each GPU at its busiest moment, of {memory}", memory=f"{found.gpu_memory_gb:g}")
    body = f"<thead><tr>{top}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f"<table><caption>{caption}</caption>{body}</table>"


def _bar(parts: dict[str, float], memory: float, longest: float) -> str:
    """One box a part, side by side, and a line where the memory ends. Only for show: the figures stand beside it."""

    def em(gb: float) -> str:
        return f"{WIDTH * gb / longest:.2f}em"

    boxes = "".join(
        f'<span style="{BOX};width:{em(gb)};background:{FILLS[name]}"></span>' for name, gb in parts.items()
    )
    line = f"position:absolute;left:{em(memory)};top:-0.15em;height:1.3em;border-left:2px solid currentColor"
    style = f"position:relative;display:inline-block;white-space:nowrap;width:{WIDTH + 0.2}em"
    return f'<span aria-hidden="true" style="{style}">{boxes}<span style="{line}"></span></span>'


def _gb(value: float) -> str:
    return f"{value:,.1f}" if abs(value) >= 0.05 or value == 0 else f"{value:.3f}"
