"""How people put their questions: reads phrases.toml, where the phrasings are, one a line."""

import random
import re
import tomllib
from functools import cache
from pathlib import Path

Phrasings = tuple[list[str], list[str]]  # for training, held out


@cache
def phrases(language: str) -> dict:
    """The tables of one language, "en" or "zh": dish, recall, any, habits, and other (English only)."""
    with Path(__file__).with_name("phrases.toml").open("rb") as file:
        return tomllib.load(file)[language]


def split(text: str) -> Phrasings:
    """A list of phrasings, by line or by semicolon: the last two are held out."""
    parts = [part.strip() for part in re.split(r"[;\n]", text.strip())]
    return parts[:-2], parts[-2:]


def fill(phrasings: str, **values: str) -> Phrasings:
    """The phrasings of a template with its slots filled."""
    train, test = split(phrasings)
    return [text.format(**values) for text in train], [text.format(**values) for text in test]


def draw(rng: random.Random, phrasing: str) -> str:
    """A phrasing with one option drawn for each [...|...]."""
    return re.sub(r"\[([^]]*)\]", lambda found: rng.choice(found[1].split("|")), phrasing)
