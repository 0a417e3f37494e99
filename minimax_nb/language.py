"""The language in which the package speaks to a reader: English, or Chinese, "zh".

    MINIMAX_NB_LANGUAGE=zh jupyter lab      # from the start of a process
    use("zh")                               # from here on, in all threads
    with speaking("zh"):                    # in here, and in this thread alone
        tr("{at} of {total}", at=1, total=2)

Widgets, figures, the line that load() prints and its progress follow it. The command line, check, doctor, plan's report
and all exceptions stay English, because people search for their words. What a model says is never translated.

zh.toml holds English = Chinese, with the same {placeholders}, and is read when Chinese is first spoken. The standard
library's gettext would do as much. But it reads a compiled catalogue: there would be a build step, and a file that git
cannot show. Its plural forms are not needed, since Chinese has none.
"""

import logging
import os
import tomllib
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

VARIABLE = "MINIMAX_NB_LANGUAGE"
TAGS = {"en": "en", "zh": "zh-CN"}  # the languages, and what HTML calls them
_here: ContextVar[str | None] = ContextVar("language", default=None)  # of `speaking`; a new thread begins without
_used: str | None = None  # by `use`


def current() -> str:
    """ "en" or "zh": of `speaking`, else of `use`, else of the environment, else English."""
    return _here.get() or _used or _of_environment(os.environ.get(VARIABLE, ""))


def use(language: str) -> None:
    """Speak this language from now on, in all threads. ValueError for one that the package does not know."""
    global _used
    _used = known(language)


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Within it this thread speaks the language, whatever the others speak. ValueError for an unknown one."""
    token = _here.set(known(language))
    try:
        yield
    finally:
        _here.reset(token)


def known(language: str) -> str:
    """ "zh" for "zh", "zh-CN" and "zh_CN.UTF-8"; the same for "en". ValueError for another language."""
    short = language.lower().replace("_", "-").partition(".")[0].partition("-")[0]
    if short not in TAGS:
        raise ValueError(f"no language {language!r}: give one of {', '.join(TAGS)}")
    return short


def tag() -> str:
    """The current language as an attribute `lang` of HTML has it."""
    return TAGS[current()]


def tr(text: str, /, **values) -> str:
    """`text` in the current language, its {placeholders} filled; English where the catalogue does not know it."""
    said = text if current() == "en" else catalogue().get(text, text)
    return said.format(**values) if values else said


def mark(text: str) -> str:
    """`text` as it is, for a constant: it is made before it is known who reads it, and `tr` gets it later."""
    return text


@cache
def catalogue() -> dict[str, str]:
    """English -> Chinese, of all modules."""
    tables = tomllib.loads(Path(__file__).with_name("zh.toml").read_text(encoding="utf-8"))
    return {english: chinese for table in tables.values() for english, chinese in table.items()}


def sentences(*parts: str) -> str:
    """Sentences one behind the other, empty ones left out. Chinese puts no space between them."""
    return (" " if current() == "en" else "").join(filter(None, parts))


def columns(text: str) -> int:
    """How wide a text is on a terminal, in columns: Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in text)


def padded(text: str, width: int) -> str:
    """`text`, with spaces behind it up to so many columns."""
    return text + " " * (width - columns(text))


@cache
def _of_environment(language: str) -> str:
    """English where the variable names no language of ours: a reader is told once, and nothing fails by it."""
    try:
        return known(language or "en")
    except ValueError as unknown:
        logging.getLogger("minimax_nb").warning("%s: %s; this speaks English", VARIABLE, unknown)
        return "en"
