"""Pages in Markdown and the questions of the quiz, each with its Chinese counterpart, in parts that are held together.

A part of a page is a section: a heading and what follows it, to the next heading. Below a Chinese heading stands
`<!-- en: HASH -->`, and in a Chinese question `en = "HASH"`: the hash of the English part that it was made from.
"""

import json
import re
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parents[1]  # notebooks/
ROOT = HERE.parent
PAGES = {
    ROOT / english: ROOT / chinese
    for english, chinese in {
        "README.md": "README.zh-CN.md",
        "notebooks/README.md": "notebooks/zh/README.md",
        "docs/workshop.md": "docs/workshop.zh-CN.md",
        "docs/engines.md": "docs/engines.zh-CN.md",
        "minimax_nb/demo/MODEL_CARD.md": "minimax_nb/demo/MODEL_CARD.zh-CN.md",
    }.items()
}
QUIZ = HERE / "quiz.toml", HERE / "quiz.zh.toml"
FENCE_OR_HEADING = re.compile(r"^ *(?:(```+|~~~+)|(#{1,6}) +(.+?) *#*$)")
REMEMBERED = re.compile(r"^<!-- en: ([0-9a-f]+) -->\n?", re.MULTILINE)
ASKED = re.compile(r"^\[\[(\d\d)\]\]\n", re.MULTILINE)
HASH = re.compile(r'^en = "([0-9a-f]+)"\n', re.MULTILINE)


class Part(NamedTuple):
    """A section or a question: its name, a level that both languages share, its text, and the hash in it."""

    name: str
    level: str
    text: str
    remembered: str | None = None


def hash_of(text: str) -> str:
    return sha256(text.strip().encode()).hexdigest()[:10]


def slug(title: str) -> str:
    """The anchor that GitHub makes of a heading."""
    title = re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", title)
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def sections(text: str) -> list[Part]:
    """The sections of a page, named by the anchors of their headings.

    What stands before the first heading, such as an anchor or a link to the other language, belongs to its section.
    """
    found, lines, fence = [("", "", [])], text.splitlines(keepends=True), None
    for line in lines:
        mark, hashes, title = match.groups() if (match := FENCE_OR_HEADING.match(line)) else (None, None, None)
        if mark:
            fence = None if fence and mark.startswith(fence) else fence or mark
        if hashes and not fence:
            names = [slug(title) == re.sub(r"-\d+$", "", name) for name, *_ in found]
            found.append((slug(title) + (f"-{sum(names)}" if any(names) else ""), hashes, []))
        found[-1][2].append(line)
    if len(found) > 1:
        found[1][2][:0] = found.pop(0)[2]
    parts = (Part(name, level, "".join(lines)) for name, level, lines in found)
    return [part._replace(remembered=_first(REMEMBERED, part.text)) for part in parts if part.text.strip()]


def questions(text: str) -> list[Part]:
    """The questions of a quiz file, named 01-1, 01-2 and so on. The hash of a question is no part of its text."""
    _, *pieces = ASKED.split(text)
    found, counts = [], {}
    for number, piece in zip(pieces[::2], pieces[1::2], strict=True):
        counts[number] = counts.get(number, 0) + 1
        said = json.dumps(tomllib.loads(HASH.sub("", piece)), ensure_ascii=False, sort_keys=True)
        found.append(Part(f"{number}-{counts[number]}", number, said, _first(HASH, piece)))
    return found


def _first(pattern: re.Pattern, text: str) -> str | None:
    return match[1] if (match := pattern.search(text)) else None


def with_hash(text: str, name: str, number: int, hash_: str) -> str:
    """The Chinese text of a page, or of a quiz file, in which part `number` remembers a hash."""
    if name.endswith(".toml"):
        begins = [match.end() for match in ASKED.finditer(text)]
        start, stop = begins[number], [*begins, len(text)][number + 1]
        return text[:start] + f'en = "{hash_}"\n' + HASH.sub("", text[start:stop]) + text[stop:]
    parts = sections(text)
    lines = REMEMBERED.sub("", parts[number].text).splitlines(keepends=True)
    heading = parts[number].level + " "
    at = next((at for at, line in enumerate(lines, 1) if line.startswith(heading)), 0)
    rest = "".join(lines[at:]).lstrip("\n")
    mended = "".join(lines[:at]) + ("\n" if at else "") + f"<!-- en: {hash_} -->\n\n" + rest
    return "".join(part.text if each != number else mended for each, part in enumerate(parts))
