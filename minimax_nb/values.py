"""One value of a config.json from outside: what its key needs, or a ConfigError that names the key."""

import math
from collections.abc import Callable
from numbers import Real

from .errors import ConfigError

COPY = "copy it from the original config.json"
LARGEST = 2**63 - 1  # what torch counts with
SHOWN = 60  # characters of a value in a message


def shown(value) -> str:
    """A value as it is in a message: cut, where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def get(config: dict, key: str):
    """A value that must be there."""
    if config.get(key) is None:
        raise ConfigError(f"{key} is missing: {COPY}")
    return config[key]


def one_of(found: dict, key: str):
    """The value of a key that may be given under two names, which must then agree."""
    if not found:
        raise ConfigError(f"{key} is missing: {COPY}")
    (first, value), *others = found.items()
    for other, also in others:
        if also != value:
            fix = "delete the one that the model was not trained with"
            raise ConfigError(f"{first} and {other} contradict each other: {fix}")
    return value


def number(key: str, value) -> float:
    try:
        finite = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        finite = False
    if not finite:
        raise ConfigError(f"{key} is {shown(value)}: it must be a finite number")
    return value


def positive(key: str, value) -> float:
    if number(key, value) <= 0:
        raise ConfigError(f"{key} is {shown(value)}: it must be larger than zero")
    return value


def positive_int(key: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ConfigError(f"{key} is {shown(value)}: it must be a whole number above zero")
    if value > LARGEST:
        raise ConfigError(f"{key} is {shown(value)}: it must be at most {LARGEST}")
    return value


def between(low: float, high: float) -> Callable:
    """A check for a number from `low` to `high`, both included."""

    def check(key: str, value) -> float:
        if not low <= number(key, value) <= high:
            raise ConfigError(f"{key} is {shown(value)}: it must be between {low:g} and {high:g}")
        return value

    return check


def flag(key: str, value) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{key} is {shown(value)}: it must be true or false")
    return value


def word(*words: str) -> Callable:
    """A check for one of `words`."""

    def check(key: str, value) -> str:
        if value not in words:
            raise ConfigError(f"{key} is {shown(value)}: it must be one of {', '.join(words)}")
        return value

    return check


def token_id(key: str, value, vocab_size: int) -> int:
    """An id in the vocabulary."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocab_size:
        allowed = f"null or an id below vocab_size, which is {vocab_size}"
        raise ConfigError(f"{key} is {shown(value)}: it must be {allowed}")
    return value
