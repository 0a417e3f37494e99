"""What a Chinese cell printed, from what the English one printed. No cell is executed for it.

    spoken = Spoken()
    words = spoken.words(source, pairs)      # for each cell in order; pairs are those of code.py
    words.text("456 billion parameters, 95% of them in experts")

An f-string and its Chinese are a pattern: "{count} of {total} names" finds "8 of 10 names". nbval runs the Chinese
notebooks too, so a pattern that finds too much or too little is seen. What the package itself says is translated only
where it is known to speak: in figures, and in the line that load() prints.
"""

import ast
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from minimax_nb import language
from minimax_nb.language import catalogue

from .code import Field, Pair, Parts, with_fields

NUMBER = r"[-+]?[\d,_.]+(?:e[-+]?\d+)?%?|[-+]?(?:inf|nan)"
IS_NUMBER = re.compile(r"[,.\d_]*[bcdeEfFgGnoxX%,]$")
WIDTH = re.compile(r"(?:.?([<>^=]))?[-+ ]?#?0?(\d+)")
FIGURES, LOADING = re.compile(r"shared|plots\."), re.compile(r"(?!plots\.|widgets\.)")  # tables of zh.toml
LOADED = re.compile(r"(; cache repaired: |, (?!fp32 state))")  # between the parts of the line that load() prints


class Spoken:
    """Which strings a cell may print: its own, and those of earlier cells whose names it uses."""

    def __init__(self):
        self._earlier: list[tuple[set[str], list[Pair]]] = []
        self._all: list[Pair] = []

    def words(self, source: str, pairs: Sequence[Pair]) -> "Words":
        """The translator for the next cell."""
        tree, reached = ast.parse(source), []
        bound = set(_bound(tree.body))
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - bound
        for names, theirs in reversed(self._earlier):
            reached += theirs if names & used else []
        self._earlier.append((bound, [*pairs, *reached]))
        self._all[:0] = pairs
        return Words(pairs, reached, widths(tree), self._all)


def _bound(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """Names that statements of a cell give, those within functions left out."""
    for statement in statements:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            yield statement.name
        elif isinstance(statement, ast.stmt):
            nodes = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
            yield from (node.id for node in nodes if isinstance(node.ctx, ast.Store))
            yield from _bound(ast.iter_child_nodes(statement))


def widths(tree: ast.AST) -> set[str]:
    """The formats that pad a string in this code, such as "9" of f"{name:9}"."""
    fields = [node for node in ast.walk(tree) if isinstance(node, ast.FormattedValue) and node.format_spec]
    specs = {part.value for field in fields for part in field.format_spec.values if isinstance(part, ast.Constant)}
    return {spec for spec in specs if re.fullmatch(r"[<>^]?\d+", spec)}


class Words:
    """Translates what a cell printed: whole lines before parts of lines, and the longest English first.

    `own` pairs are the cell's, `reached` those of earlier cells; a single word of these must begin a line, or be the
    whole of a placeholder, as any of `said` may be. `widths` are the formats with which the cell pads strings.
    """

    def __init__(self, own: Sequence[Pair], reached: Sequence[Pair] = (), widths: Iterable[str] = (), said=()):
        padded = [each for pair in [*own, *reached] for width in widths for each in _padded(*pair, width)]
        pairs = list(dict.fromkeys([*padded, *own, *reached]))
        words = {english for english, _ in reached if _is_a_word(english)} - {english for english, _ in own}
        whole = [_pattern(*pair, whole=True) for pair in dict.fromkeys([*own, *reached])]
        partly = [_pattern(*pair, whole=False, begins=pair[0] in words) for pair in pairs]
        self._patterns = [*_longest_first(whole), *_longest_first(partly)]
        self._said = {english: chinese[0] for (english, *_), chinese in reversed(said) if len(chinese) == 1}

    def text(self, text: str) -> str:
        lines = re.split(r"(.*; cache repaired: .*)", text)
        return "".join(self.loaded(line) if at % 2 else self._from(0, line) for at, line in enumerate(lines))

    def label(self, text: str) -> str:
        """The same for a word of a figure, which the package may have said: then all of it is one entry of zh.toml."""
        found = [*_said_by_the_package(text, self.label, FIGURES), self._value(text)]
        name, colon, value = text.rpartition(": ")
        if colon and (parts := f"{self.label(name)}：{self.label(value)}") != f"{name}：{value}":
            found.insert(0, parts)
        return min(found, key=lambda said: len(re.findall("[A-Za-z]", said)))  # the one with least English left

    def _value(self, text: str) -> str:
        """The same for what stood in a placeholder."""
        return self._said.get(text) or self.text(text)

    def loaded(self, line: str) -> str:
        """The line that load() prints, part by part."""
        parts = LOADED.split(line)
        return "".join(catalogue().get(part) or self._part_of_loaded(part) for part in parts)

    def _part_of_loaded(self, part: str) -> str:
        if part.startswith("; cache"):
            return catalogue().get("; cache repaired: {repairs}", part).partition("{")[0]
        found = next(_said_by_the_package(part, self._part_of_loaded, LOADING), part)
        if found == part and (why := re.fullmatch(r"(.+) \((\D.+)\)", part)):
            return f"{self._part_of_loaded(why[1])} ({self._part_of_loaded(why[2])})"
        for said in (" as asked", " (1 thread)"):
            found = found.replace(said, next(_said_by_the_package(said, str, LOADING), said))
        return found

    def _from(self, first: int, text: str) -> str:
        """`text` translated by the patterns from `first` on. What was translated once is not looked at again."""
        for at in range(first, len(self._patterns)):
            if (match := self._patterns[at].search(text)) is not None:
                before, after = text[: match.start()], text[match.end() :]
                return (
                    self._from(at + 1, before) + self._patterns[at].filled(match, self._value) + self._from(at, after)
                )
        return text


class _Pattern(NamedTuple):
    """What finds an English string that was printed, and its Chinese."""

    literals: tuple[str, ...]
    regex: str
    fields: tuple[Field, ...]
    chinese: Parts

    def search(self, text: str) -> re.Match | None:
        """Most patterns are not there, and a look for their literals is faster than a regular expression."""
        return _compiled(self.regex).search(text) if all(literal in text for literal in self.literals) else None

    def filled(self, match: re.Match, translated: Callable[[str], str]) -> str:
        """The Chinese. What stood in a placeholder may be a string of the code as well."""
        values = {}
        for field, value in zip(self.fields, match.groups(), strict=True):
            values.setdefault(field.key, []).append(_padded_again(value, translated, field.spec))
        return "".join(part if isinstance(part, str) else values[part.key].pop(0) for part in self.chinese)


_compiled = cache(re.compile)


def _said_by_the_package(text: str, translated: Callable[[str], str], tables: re.Pattern) -> Iterator[str]:
    """The Chinese of a text that is one entry of zh.toml, in one of some tables."""
    for pattern in _entries(tables):
        if (match := pattern.search(text)) and match[0] == text:
            yield pattern.filled(match, translated)


@cache
def _entries(tables: re.Pattern) -> list[_Pattern]:
    said = tomllib.loads(Path(language.__file__).with_name("zh.toml").read_text(encoding="utf-8"))
    entries = [entry for name, table in said.items() if tables.match(name) for entry in table.items()]
    pairs = ((with_fields(english), with_fields(chinese)) for english, chinese in entries)
    return _longest_first(_pattern(*pair, whole=True) for pair in pairs)


def _longest_first(patterns: Iterable[_Pattern | None]) -> list[_Pattern]:
    return sorted(filter(None, patterns), key=lambda each: -sum(map(len, each.literals)))


@cache
def _pattern(english: Parts, chinese: Parts, whole: bool, begins: bool = False) -> _Pattern | None:
    """None where no word is there to find it by. In a part of a line a placeholder at an end is one word."""
    literals = tuple(part for part in english if isinstance(part, str))
    if not re.search(r"[^\W\d_]", "".join(literals)):
        return None
    fields = tuple(part for part in english if isinstance(part, Field))
    regex, last = "", len(english) - 1
    for at, part in enumerate(english):
        if isinstance(part, str):
            regex += re.escape(part) if whole else _whole_words(part, at == 0, at == last)
        elif IS_NUMBER.search(part.spec):
            regex += f"( *(?:{NUMBER}) *)" if WIDTH.match(part.spec) else f"({NUMBER})"
        elif width := WIDTH.match(part.spec):
            regex += rf"([^\n]{{{width[2]},}}?)"
        else:
            regex += r"(\S+)" if at in (0, last) and not whole else r"([^\n]*?)"
    regex = f"(?m:^{regex}$)" if whole else f"(?m:^){regex}" if begins else regex
    return _Pattern(literals, regex, fields, chinese)


def _whole_words(text: str, first: bool, last: bool) -> str:
    before = r"(?<!\w)" if first and re.match(r"\w", text) else ""
    after = r"(?!\w)" if last and re.search(r"\w$", text) else ""
    return before + re.escape(text) + after


def _is_a_word(parts: Parts) -> bool:
    return len(parts) == 1 and isinstance(parts[0], str) and len(parts[0].split()) == 1


def _padded(english: Parts, chinese: Parts, width: str) -> Iterator[Pair]:
    """A string without placeholders as f"{name:9}" prints it."""
    if len(english) == len(chinese) == 1 and isinstance(english[0], str) and isinstance(chinese[0], str):
        if len(padded := format(english[0], width)) == int(width.strip("<>^")):
            yield (padded,), (format(chinese[0], width),)


def _padded_again(value: str, translated: Callable[[str], str], spec: str) -> str:
    """A value translated, and padded by its format or, where that is computed, to the same length."""
    inner = value.strip(" ")
    said = translated(inner) if inner else inner
    if width := WIDTH.match(spec):
        right = value.startswith(" ") or not value.endswith(" ") and re.fullmatch(NUMBER, inner)
        align = width[1] or (">" if right else "<")
        return format(said, f"{align.replace('=', '>')}{width[2]}")
    if said == inner:
        return value
    said = said.rjust(len(value)) if value.startswith(" ") else said
    return said.ljust(len(value)) if value.endswith(" ") else said
