"""The sampling settings of a playground: what they are called, what each may be, what `generate` is given.

    settings = start()                                    # {"temperature": 0.0, "top_k": 50, ...}
    generation(settings | {"temperature": 0.8})           # {"do_sample": True, "temperature": 0.8, ...}

Settings are a dict, because they come from a page as JSON. A field that was emptied is None.
"""

from ...language import mark
from ..controls import Control

MANY = 10_240_000  # more than the vocabulary has, and as long a text as MiniMax-Text-01 takes
CONTROLS = (
    Control("temperature", mark("Temperature (0 is greedy)"), 0.0, 0, 2, 0.1),
    Control("top_k", mark("Top-k (0 keeps all tokens)"), 50, 0, MANY),
    Control("top_p", mark("Top-p (1 keeps all tokens)"), 1.0, 0.05, 1, 0.05),
    Control("repetition_penalty", mark("Repetition penalty (1 is none)"), 1.0, 1, 2, 0.05),
    Control("max_new_tokens", mark("Longest reply (tokens)"), 200, 1, MANY),
    Control("seed", mark("Seed (empty draws one)"), None, 0, 2**32 - 1, optional=True),
)
WITHOUT_DRAW = ("repetition_penalty", "max_new_tokens")  # what still counts when the likeliest token is taken


def start() -> dict:
    """The settings at the start and after a reset: greedy."""
    return {control.name: control.start for control in CONTROLS}


def problem(settings: dict) -> str:
    """What is wrong with the first setting that is out of its range; empty if all are right."""
    return next(filter(None, (control.problem(settings[control.name]) for control in CONTROLS)), "")


def generation(settings: dict) -> dict:
    """What to pass to `generate` or `Chat`: all but the seed. ValueError for a setting out of its range."""
    if why := problem(settings):
        raise ValueError(why)
    given = {control.name: control.taken(settings[control.name]) for control in CONTROLS}
    del given["seed"]
    if given["temperature"]:
        return {"do_sample": True} | given
    return {"do_sample": False} | {name: given[name] for name in WITHOUT_DRAW}
