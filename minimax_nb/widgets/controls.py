"""A value that a reader sets on a page: what it is called, what it may be, and why another is refused.

side = Control("side", mark("Side"), 3, low=1, high=9)
side.problem(10)                                    # "Side is 10: give a whole number from 1 to 9"
side.problem(4.0), side.taken(4.0)                  # "", 4
"""

import re
import reprlib
from typing import NamedTuple

from ..language import tr

SLIDER_STEPS = 200  # a slider with more positions than this could not be set by hand
COUNTABLE = 2**53  # JavaScript, which runs the page, holds whole numbers exactly up to here


class Control(NamedTuple):
    """One value. What it looks like follows from its first value, `start`:

    a bool is a switch, a text a text field, one of `options` a list, and a number is a slider where it has
    few positions and a field else. A number needs both ends, `low` and `high`. With `optional` the field may
    be left empty, and the value is None then. `label` and `options` are English; `drawn`, `problem` and `shown`
    say them in the language of the reader.
    """

    name: str
    label: str
    start: bool | int | float | str | None
    low: float | None = None
    high: float | None = None
    step: float = 1
    options: tuple[str, ...] = ()
    optional: bool = False

    @property
    def kind(self) -> str:
        if isinstance(self.start, bool):
            return "switch"
        if self.options:
            return "list"
        if isinstance(self.start, str):
            return "text"
        return "slider" if (self.high - self.low) / self.step <= SLIDER_STEPS else "number"

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.kind in ("slider", "number") and self.step % 1 == 0

    def problem(self, value) -> str:
        """Why `value` is refused; empty if it is not."""
        name = re.split(r" \(|（", tr(self.label))[0]
        if self.kind in ("slider", "number"):
            if (self.optional and value is None) or self._fits(value):
                return ""
            given = {"name": name, "value": tr("empty") if value is None else quoted(value)}
            given |= {"low": f"{self.low:,}", "high": f"{self.high:,}"}
            if self.whole:
                return tr("{name} is {value}: give a whole number from {low} to {high}", **given)
            return tr("{name} is {value}: give a number from {low} to {high}", **given)
        if not isinstance(value, type(self.start)) or (self.options and value not in self.options):
            return tr("{name} cannot be {value}", name=name, value=quoted(value))
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            return tr("{name} holds half of a character, which cannot be read: type it again", name=name)
        return ""

    def drawn(self) -> dict:
        """What a page needs to draw it."""
        said = {"label": tr(self.label), "labels": [tr(option) for option in self.options]}
        return self._asdict() | {"kind": self.kind} | said

    def shown(self, value) -> str:
        """Its value in a still picture."""
        if isinstance(value, bool):
            return tr("on") if value else tr("off")
        return tr(value) if self.options else str(value)

    def taken(self, value):
        """A value without a problem, in the type that it is used as: a page has one kind of number, Python two."""
        if value is None or self.kind not in ("slider", "number"):
            return value
        return int(value) if self.whole else float(value)

    def _fits(self, value) -> bool:
        return is_number(value) and self.low <= value <= self.high and (not self.whole or value == int(value))


def is_number(value) -> bool:
    """Whether a field of a page could hold it: no infinity, none of JSON's true and false, nothing beyond counting."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -COUNTABLE <= value <= COUNTABLE


def quoted(value) -> str:
    """Any value, shortened, for a line that refuses it."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes out no whole number of thousands of digits
        return tr("too long a number")
