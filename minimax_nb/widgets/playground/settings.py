"""The sampling settings of a playground: what they are called, what each may be, what `generate` is given.

    settings = start()                                    # {"temperature": 0.0, "top_k": 50, ...}
    generation(settings | {"temperature": 0.8})           # {"do_sample": True, "temperature": 0.8, ...}

Settings are a dict, since they come from a page as JSON: a cleared field is None. This file knows no torch: the seed is
left to whoever has the device.
"""

from math import inf
from typing import NamedTuple


class Control(NamedTuple):
    """One setting. A step of 1 means whole numbers; `high` is inf where there is no limit."""

    name: str
    label: str
    start: float | None
    low: float
    high: float
    step: float


CONTROLS = (
    Control("temperature", "Temperature (0 is greedy)", 0.0, 0, 2, 0.1),
    Control("top_k", "Top-k (0 keeps all tokens)", 50, 0, inf, 1),
    Control("top_p", "Top-p (1 keeps all tokens)", 1.0, 0.05, 1, 0.05),
    Control("repetition_penalty", "Repetition penalty (1 is none)", 1.0, 1, 2, 0.05),
    Control("max_new_tokens", "Longest reply (tokens)", 200, 1, inf, 1),
    Control("seed", "Seed (empty draws one)", None, 0, 2**32 - 1, 1),
)


def start() -> dict:
    """The settings at the start and after a reset: greedy."""
    return {control.name: control.start for control in CONTROLS}


def check(settings: dict) -> None:
    """ValueError, in one line, for the first setting that is out of its range or no number."""
    for control in CONTROLS:
        value = settings[control.name]
        if not (_fits(control, value) or value is control.start is None):
            shown = "empty" if value is None else repr(value)
            kind = "a whole number" if control.step == 1 else "a number"
            limits = f"from {control.low} on" if control.high == inf else f"from {control.low} to {control.high}"
            raise ValueError(f"{control.label.split(' (')[0]} is {shown}: give {kind} {limits}")


def _fits(control: Control, value) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and control.low <= value <= control.high and (control.step != 1 or value == int(value))


def generation(settings: dict) -> dict:
    """What to pass to `generate` or `Chat`: all but the seed. ValueError as `check`."""
    check(settings)
    given = {c.name: int(settings[c.name]) if c.step == 1 else float(settings[c.name]) for c in CONTROLS[:-1]}
    if given["temperature"]:
        return {"do_sample": True} | given
    return {"do_sample": False} | {name: given[name] for name in ("repetition_penalty", "max_new_tokens")}
