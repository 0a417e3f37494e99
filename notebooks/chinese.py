"""Chinese code and outputs, made from the English ones by the strings that a reader reads.

    strings = read_strings()                       # zh/strings.toml: a table for each cell
    code, pairs = chinese_code(source, strings["01-23"], strings["shared"])
    Words([*pairs, *said_by_the_package()]).text("456 billion parameters, 95% of them in experts")

A pair is one English string and its Chinese, both with their placeholders. Outputs need no second execution: a pair of
f-strings is a pattern, "{count} of {total} names" finds "8 of 10 names". Knows nothing of notebooks' files.
"""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from html import escape, unescape
from pathlib import Path
from string import Formatter
from typing import NamedTuple

from minimax_nb.language import catalogue

HERE = Path(__file__).resolve().parent
STRINGS = HERE / "zh" / "strings.toml"
SHARED = "shared"  # the table of what stands in cells of several notebooks
CALLS = {"enter_notebooks_folder()": 'enter_notebooks_folder(language="zh")'}  # all that may differ in code proper


class Field(NamedTuple):
    """A placeholder: by what it is known in the other language, and how its value is printed."""

    key: str
    spec: str = ""


Parts = tuple[str | Field, ...]
Pair = tuple[Parts, Parts]


@cache
def read_strings(path: Path = STRINGS) -> dict[str, dict[str, str]]:
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@cache
def said_by_the_package() -> tuple[Pair, ...]:
    return tuple((_template(english), _template(chinese)) for english, chinese in catalogue().items())


def _template(text: str) -> Parts:
    parts = []
    for literal, name, spec, _ in Formatter().parse(text):
        parts += [literal] if literal else []
        parts += [Field(name, spec)] if name is not None else []
    return tuple(parts)


# Code


def chinese_code(
    source: str, own: Mapping[str, str], shared: Mapping[str, str] | None = None
) -> tuple[str, list[Pair]]:
    """The source with its fragments replaced, and the pairs of strings that differ now.

    ValueError if a fragment of `own` does not stand in a string or a comment of the source, and if anything but strings
    and comments, or a placeholder, would be another.
    """
    spans = _readable(source)
    found = {fragment for fragment in own if any(fragment in source[slice(*span)] for span in spans)}
    for fragment in own:
        if fragment not in found:
            where = "only in the code of" if fragment in source else "not in"
            raise ValueError(f"stands {where} the cell, and in no string or comment of it: {fragment!r}")
    fragments = dict(shared) | dict(own)
    result, end, used = "", 0, set()
    for start, stop in spans:
        translated, hits = _replaced(source[start:stop], fragments)
        result, end, used = result + source[end:start] + translated, stop, used | hits
    result += source[end:]
    for fragment in found - used:
        raise ValueError(f"stands only within a longer fragment: {fragment!r}")
    pairs = list(_differences(ast.parse(source), ast.parse(result)))
    for english, chinese in CALLS.items():
        result = result.replace(english, chinese)
    return result, pairs


def _readable(source: str) -> list[tuple[int, int]]:
    """Where the strings and comments of a source begin and end."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    spans, depth, begins = [], 0, 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        start, stop = (lines[row - 1] + column for row, column in (token.start, token.end))
        kind = tokenize.tok_name[token.type]
        if kind in ("FSTRING_START", "TSTRING_START"):  # from Python 3.12 on an f-string is several tokens
            depth, begins = depth + 1, start if not depth else begins
        elif kind in ("FSTRING_END", "TSTRING_END"):
            depth -= 1
            spans += [] if depth else [(begins, stop)]
        elif kind in ("STRING", "COMMENT") and not depth:
            spans.append((start, stop))
    return spans


def _replaced(text: str, fragments: Mapping[str, str]) -> tuple[str, set[str]]:
    """A text with its fragments replaced, in one pass, the longest first; and those that were there."""
    used = set()
    if not fragments:
        return text, used

    def one(match: re.Match) -> str:
        used.add(match[0])
        return fragments[match[0]]

    any_of = "|".join(map(re.escape, sorted(fragments, key=len, reverse=True)))
    return re.sub(any_of, one, text), used


def _differences(english: ast.AST, chinese: ast.AST) -> Iterator[Pair]:
    """Pairs of strings that differ. ValueError if anything else does."""
    if skeleton(english) != skeleton(chinese):
        raise ValueError("more than strings and comments would differ: code, or a placeholder")
    if isinstance(english, ast.Constant):
        if isinstance(english.value, str) and english.value != chinese.value:
            yield (english.value,), (chinese.value,)
    elif isinstance(english, ast.JoinedStr):
        pair = _parts(english), _parts(chinese)
        if pair[0] != pair[1]:
            yield pair
        others = sorted(_fields(chinese), key=skeleton)
        for ours, theirs in zip(sorted(_fields(english), key=skeleton), others, strict=True):
            yield from _differences(ours.value, theirs.value)
    else:
        for ours, theirs in zip(ast.iter_child_nodes(english), ast.iter_child_nodes(chinese), strict=True):
            yield from _differences(ours, theirs)


def _fields(string: ast.JoinedStr) -> list[ast.FormattedValue]:
    return [part for part in string.values if isinstance(part, ast.FormattedValue)]


def _parts(string: ast.JoinedStr) -> Parts:
    return tuple(
        Field(skeleton(part), _spec(part)) if isinstance(part, ast.FormattedValue) else part.value
        for part in string.values
    )


def _spec(field: ast.FormattedValue) -> str:
    """The format of a placeholder; none where it is computed."""
    parts = field.format_spec.values if field.format_spec else []
    return "".join(part.value for part in parts) if all(isinstance(part, ast.Constant) for part in parts) else ""


def skeleton(node: ast.AST) -> str:
    """All of the code but its strings; of an f-string its placeholders, in any order."""
    if isinstance(node, ast.JoinedStr):
        return f"f{sorted(map(skeleton, _fields(node)))}"
    if isinstance(node, ast.FormattedValue):
        return f"{{{skeleton(node.value)}!{node.conversion}:{ast.dump(node.format_spec) if node.format_spec else ''}}}"
    if isinstance(node, ast.Constant):
        return "''" if isinstance(node.value, str) else repr(node.value)
    fields = ((name, value if isinstance(value, list) else [value]) for name, value in ast.iter_fields(node))
    inner = (
        f"{name}={[skeleton(each) if isinstance(each, ast.AST) else repr(each) for each in values]}"
        for name, values in fields
    )
    return f"{type(node).__name__}({', '.join(inner)})"


# Outputs

NUMBER = r" *[-+]?[\d,_.]+(?:e[-+]?\d+)?%? *|[-+ ]*(?:inf|nan) *"
BEGINS, ENDS = r"(?:(?<=\n)|\A)", r"(?=\n|\Z)"


class Words:
    """Translates what code printed, by pairs of strings: the longest English first, earlier pairs before later ones."""

    def __init__(self, pairs: Iterable[Pair]):
        patterns = [pattern for pair in dict.fromkeys(pairs) for pattern in _patterns(*pair)]
        self._patterns = sorted(patterns, key=lambda each: -each.weight)

    def text(self, text: str) -> str:
        return self._from(0, text)

    def html(self, page: str) -> str:
        """The same for the text between tags, and for what attributes say in words."""
        pieces = re.split(r"(<[^>]*>)", page)
        for at, piece in enumerate(pieces):
            if at % 2:
                said = r'(\b(?:alt|title|aria-label)=")([^"]*)'
                pieces[at] = re.sub(said, lambda match: match[1] + self._escaped(match[2]), piece)
            elif piece.strip():
                pieces[at] = self._escaped(piece)
        return "".join(pieces)

    def _escaped(self, text: str) -> str:
        said = unescape(text)
        return escape(translated, quote=True) if (translated := self.text(said)) != said else text

    def _from(self, first: int, text: str) -> str:
        """`text` translated by the patterns from `first` on. What was translated once is not looked at again."""
        for at in range(first, len(self._patterns)):
            pattern = self._patterns[at]
            if (match := pattern.regex.search(text)) is not None:
                before, after = text[: match.start()], text[match.end() :]
                return self._from(at + 1, before) + self._filled(pattern, match) + self._from(at, after)
        return text

    def _filled(self, pattern: "_Pattern", match: re.Match) -> str:
        values = {}
        for number, field in enumerate(pattern.fields, 1):
            values.setdefault(field.key, []).append(self._value(match[number], field.spec))
        return "".join(part if isinstance(part, str) else values[part.key].pop(0) for part in pattern.chinese)

    def _value(self, value: str, spec: str) -> str:
        """What stood in a placeholder may be a string of the code as well. Padding is counted again."""
        inner = value.strip(" ")
        if not inner or (translated := self.text(inner)) == inner:
            return value
        try:
            return format(translated, spec)
        except ValueError:
            return value.replace(inner, translated)


class _Pattern(NamedTuple):
    weight: float
    regex: re.Pattern
    fields: list[Field]
    chinese: Parts


def _patterns(english: Parts, chinese: Parts) -> Iterator[_Pattern]:
    """Two patterns: a placeholder at an end reaches to the end of the line, or it is a number or one word."""
    literal = sum(len(part) for part in english if isinstance(part, str))
    if not re.search(r"[^\W\d_]", "".join(part for part in english if isinstance(part, str))):
        return  # without a word there is nothing to find it by
    fields = [part for part in english if isinstance(part, Field)]
    last = len(english) - 1
    for loose in (False, True) if any(isinstance(english[at], Field) for at in (0, -1)) else (False,):
        regex = ""
        for at, part in enumerate(english):
            if isinstance(part, str):
                regex += _whole_words(part, at == 0, at == last)
            elif re.search(r"[,.\d_]*[bcdeEfFgGnoxX%,]$", part.spec):
                regex += f"({NUMBER})"
            elif loose and at in (0, last):
                regex += r"(\S+)"
            else:
                regex += (BEGINS if at == 0 else "") + r"([^\n]*?)" + (ENDS if at == last else "")
        yield _Pattern(literal - loose / 2, re.compile(regex), fields, chinese)


def _whole_words(text: str, first: bool, last: bool) -> str:
    before = r"(?<!\w)" if first and re.match(r"\w", text) else ""
    after = r"(?!\w)" if last and re.search(r"\w$", text) else ""
    return before + re.escape(text) + after
