"""The code of a Chinese cell, made from the English one by the strings that a reader reads.

    strings = read_strings(HERE / "zh" / "strings.toml")      # a table for each cell
    code, pairs = chinese_code(source, strings["01-23"], strings["shared"])

A pair is one English string and its Chinese, both with their placeholders: outputs.py finds them in what was printed.
Knows nothing of files of notebooks.
"""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

FILLED_LATER = re.compile(r"\{([\w.]*)(?::([^{}]*))?\}")
SHARED = "shared"  # the table of what stands in cells of several notebooks
CALLS = {"enter_notebooks_folder()": 'enter_notebooks_folder(language="zh")'}  # all that may differ in code proper


class Field(NamedTuple):
    """A placeholder: by what it is known in the other language, and how its value is printed."""

    key: str
    spec: str = ""


Parts = tuple[str | Field, ...]
Pair = tuple[Parts, Parts]


def read_strings(path: Path) -> dict[str, dict[str, str]]:
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def chinese_code(source: str, own: Mapping[str, str], shared: Mapping[str, str]) -> tuple[str, list[Pair]]:
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
            yield with_fields(english.value), with_fields(chinese.value)
    elif isinstance(english, ast.JoinedStr):
        partners = _partners(english, chinese)
        pair = _parts(english, [ours for ours, _ in partners]), _parts(chinese, [theirs for _, theirs in partners])
        if pair[0] != pair[1]:
            yield pair
        for ours, theirs in partners:
            yield from _differences(ours.value, theirs.value)
    else:
        for ours, theirs in zip(ast.iter_child_nodes(english), ast.iter_child_nodes(chinese), strict=True):
            yield from _differences(ours, theirs)


def _partners(english: ast.JoinedStr, chinese: ast.JoinedStr) -> list[tuple[ast.FormattedValue, ast.FormattedValue]]:
    """The placeholders of an f-string, each with the same one of the other: to the letter, or but for its strings."""
    left, found = _fields(chinese), []
    for same in (ast.dump, skeleton):
        for ours in _fields(english):
            if all(ours is not done for done, _ in found):
                if theirs := next((each for each in left if same(each) == same(ours)), None):
                    left.remove(theirs)
                    found.append((ours, theirs))
    return found


def _fields(string: ast.JoinedStr) -> list[ast.FormattedValue]:
    return [part for part in string.values if isinstance(part, ast.FormattedValue)]


def _parts(string: ast.JoinedStr, fields: list[ast.FormattedValue]) -> Parts:
    """Literals and placeholders. A placeholder is known by its number in `fields`."""
    parts = []
    for part in string.values:
        if isinstance(part, ast.FormattedValue):
            parts.append(Field(str(fields.index(part)), _spec(part)))
        else:
            parts += with_fields(part.value)
    return tuple(parts)


def with_fields(text: str) -> Parts:
    """A string that `format` fills later, with its placeholders as such; any other as it is."""
    pieces, parts, unnamed = FILLED_LATER.split(text), [], 0
    for literal, name, spec in zip(pieces[::3], [*pieces[1::3], None], [*pieces[2::3], None], strict=True):
        parts += [literal] if literal else []
        if name is not None:
            parts.append(Field(name or f"#{unnamed}", spec or ""))
            unnamed += not name
    return tuple(parts)


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
