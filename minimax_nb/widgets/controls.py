"""A value that a reader sets on a page: what it is called, what it may be, and why another is not taken."""

import math
from typing import NamedTuple


class Control(NamedTuple):
    """One value. A bool is a switch, a text a text field, one of `options` a list, a number with two ends a slider.

    A number without an upper end is a field; a number always has a lower one.
    """

    name: str
    label: str
    start: bool | int | float | str
    low: float | None = None
    high: float | None = None
    step: float = 1
    options: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        if isinstance(self.start, bool):
            return "switch"
        if self.options:
            return "list"
        return "text" if isinstance(self.start, str) else "slider" if self.high is not None else "number"

    @property
    def whole(self) -> bool:
        """Whether it counts: its values are of type int then."""
        return self.kind in ("slider", "number") and not self.step % 1

    def problem(self, value) -> str:
        """Why `value` cannot be taken, or nothing."""
        if self.kind in ("slider", "number"):
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            high = math.inf if self.high is None else self.high
            if not (number and self.low <= value <= high and (value == int(value) or not self.whole)):
                ends = f"from {self.low:g} on" if self.high is None else f"from {self.low:g} to {self.high:g}"
                what = "whole number" if self.whole else "number"
                return f"{self.label} is {'empty' if value is None else value}: give a {what} {ends}"
        elif not isinstance(value, type(self.start)) or (self.options and value not in self.options):
            return f"{self.label} cannot be {value!r}"
        return ""
