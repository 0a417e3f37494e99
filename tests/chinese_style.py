"""The house style of the Chinese course: what a Chinese text breaks of it, and what it lost of its English source.

    breaches(english, chinese)      # sentences, none if all is well

Both are Markdown: a cell of a notebook, or a section of a page.
"""

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from translation.code import skeleton

GLOSSARY = tomllib.loads((Path(__file__).parents[1] / "notebooks" / "zh" / "glossary.toml").read_text(encoding="utf-8"))
HAN, WIDE = r"\u3400-\u9fff", r"，。：；？！、（）“”《》"
FENCE = re.compile(r"^( *)(```+|~~~+)(\w*)[^\n]*\n(.*?)^\1\2 *$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\n).)+?)(?<!`)\1(?!`)", re.DOTALL)
FORMULA = re.compile(r"\$\$.+?\$\$|(?<![\\$A-Za-z0-9])\$[^$\n]+\$", re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(<?([^)\s>]+)>?[^)]*\)")
HEADING = re.compile(r"^(#{1,6}) +(\d+\. )?(.+)$", re.MULTILINE)
NUMBERED = re.compile(r"(?m)^(#* ?\d\d?) +")  # a heading, or a link to a notebook
UNITS = {"": 1, "万": 1e4, "亿": 1e8, "万亿": 1e12, "thousand": 1e3, "million": 1e6, "M": 1e6, "billion": 1e9, "B": 1e9}
BLOCK = re.compile(r" *(?:[-*+] |\d+[.)] |#|>|\||<|\$\$|!\[|---|\*\*\*)")


def breaches(english: str, chinese: str) -> Iterator[str]:
    yield from style(chinese)
    yield from losses(english, chinese)


# Style, of the Chinese alone


def style(text: str) -> Iterator[str]:
    without_fences = FENCE.sub("", text)
    lines = without_fences.splitlines()
    for line, below in zip(lines, lines[1:], strict=False):
        open_ended = line.strip() and not re.match(r" *(?:#|\||<|\$\$|---)", line) and not line.endswith(("  ", "\\"))
        if open_ended and below.strip() and not BLOCK.match(below):
            yield f"a line broken within a paragraph: {below.strip()[:40]}"
    for formula in FORMULA.findall(CODE.sub("`", without_fences)):
        if re.search(f"[{HAN}]", formula):
            yield f"Chinese between dollars: {formula[:60]}"
    said = prose(text)
    for what, pattern in STYLE.items():
        for match in re.finditer(pattern, said):
            yield f"{what}: {said[max(0, match.start() - 12) : match.end() + 12]!r}"
    for term, entry in GLOSSARY.items():
        for other in entry.get("not", []):
            if other in said:
                yield f"{term} is {entry.get('zh', term)}, not {other}"
    for token in MarkdownIt("commonmark").enable("table").parse(FORMULA.sub("", text)):
        for child in token.children or []:
            if child.type == "text" and re.search(r"(?<![\w\d ])\*+|\*+(?![\w\d ])", child.content):
                yield f"a star that emphasises nothing: {child.content[:50]!r}"


STYLE = {
    "您": "您",
    "a space between Chinese and Latin": rf"[{HAN}] +(?!x )[\w*`]|(?<=[\w%`])(?<! x) +[{HAN}]",
    "a space beside a wide mark": rf"[{WIDE}] +(?=[^|\s])|(?<=[^|\s]) +(?<!\n )[{WIDE}]",
    "a narrow mark behind Chinese": rf"[{HAN}][,;:?!](?![A-Za-z0-9/])|[{HAN}]\.(?![A-Za-z0-9.])|[{HAN}]\((?=[{HAN}])",
}


def prose(text: str) -> str:
    """The sentences of a text: no fences, formulas, tags and addresses; `x` for code."""
    text = FORMULA.sub("x", CODE.sub("x", FENCE.sub("", text)))
    for _ in range(2):  # a picture may be the text of a link
        text = LINK.sub(lambda match: NUMBERED.sub(r"\1.", match[2]), text)
    text = NUMBERED.sub(r"\1.", re.sub(r"<[^>]*>", "", text))
    return re.sub(r"\*\*|(?<!^)(?<![-\d ] )\*(?! )|^\*(?! )", "", text, flags=re.MULTILINE)


# What was lost, or came, on the way


def losses(english: str, chinese: str) -> Iterator[str]:
    for what, count in (("headings", headings), ("tags", tags), ("rows of tables", rows), ("captions", captions)):
        ours, theirs = count(english), count(chinese)
        if ours != theirs:
            yield f"other {what}: {differing(ours, theirs)}"
    yield from fences(english, chinese)
    for what, found in (("links", links), ("numbers", numbers), ("code", codes)):
        ours, theirs = found(english), found(chinese)
        if missing := sorted((ours - theirs).elements()):
            yield f"{what} missing: {', '.join(missing)}"
        if what != "code" and (more := [each for each in theirs - ours if not _said_in_words(each)]):
            yield f"{what} that the English has not: {', '.join(more)}"


def _said_in_words(number: str) -> bool:
    """The English may say "seven of eight" where the Chinese says 8 and 7."""
    return number.isdigit() and int(number) <= 100


def differing(ours: list, theirs: list) -> str:
    return f"{ours} in English, {theirs} in Chinese"


def headings(text: str) -> list[str]:
    return [level + (number or "") for level, number, _ in HEADING.findall(FENCE.sub("", text))]


def tags(text: str) -> list[str]:
    """HTML's, in order; anchors left out, which Chinese headings have more of."""
    text = CODE.sub("", FENCE.sub("", text))
    return sorted(name for name in re.findall(r"<(/?[a-z]+)\b[^>]*>", text) if name.strip("/") != "a")


def rows(text: str) -> list[int]:
    return [line.count("|") for line in CODE.sub("x", FENCE.sub("", text)).splitlines() if line.startswith("|")]


def captions(text: str) -> list[str]:
    kinds = {"*The figure": "figure", "*图：": "figure", "*The table": "table", "*表：": "table"}
    return [kinds[begin] for begin in re.findall(r"^(\*The (?:figure|table)|\*[图表]：)", text, re.MULTILINE)]


def fences(english: str, chinese: str) -> Iterator[str]:
    """Fenced code must do the same: what is Python may differ in strings and comments."""
    ours, theirs = FENCE.findall(english), FENCE.findall(chinese)
    if len(ours) != len(theirs):
        yield f"other fences: {len(ours)} in English, {len(theirs)} in Chinese"
        return
    for (_, _, kind, our), (_, _, its_kind, their) in zip(ours, theirs, strict=True):
        if kind != its_kind or bare(our, kind) != bare(their, kind):
            yield f"other code in a fence: {their[:60]!r}"


def bare(code: str, kind: str) -> str:
    """Code without what may differ: strings and comments of Python, comments of a shell, all but what begins a line."""
    if kind == "python":
        try:
            return skeleton(ast.parse(code))
        except SyntaxError:
            pass  # a piece of Python that is no whole statement
    if not kind:
        return " ".join(line.split()[0] for line in code.splitlines() if line.strip())
    return re.sub(r"(?:(?<=\s)|^)#.*|\s+", "", code, flags=re.MULTILINE)


def links(text: str) -> Counter:
    """Where a text's links go, without folders, so that both languages' compare; places in the page itself as well."""
    found = [match for match in LINK.findall(CODE.sub("x", FENCE.sub("", text)))]
    inner = [link for _, said, _ in found for link in LINK.findall(said)]
    return Counter(_target(address) for _, said, address in [*found, *inner] if said not in ("English", "中文版"))


def _target(address: str) -> str:
    if re.match(r"[a-z]+:", address):
        return address
    path, _, place = address.partition("#")
    return path.rpartition("/")[2].replace(".zh-CN", "") + ("#" if place else "")


def numbers(text: str) -> Counter:
    """The numbers in digits, each as often as it is there. 456 billion is 4560亿."""
    text = re.sub(r"<[^>]*>", "", LINK.sub(lambda match: match[2], CODE.sub("", FENCE.sub("", text))))
    found = re.findall(r"(\d+(?:,\d{3})*)((?:\.\d+)*) *(billion|million|thousand|[BM](?![A-Za-z])|万亿|亿|万)?", text)
    return Counter(_number(whole.replace(",", "") + fraction, unit) for whole, fraction, unit in found)


def _number(digits: str, unit: str) -> str:
    return digits if digits.count(".") > 1 else f"{float(digits) * UNITS[unit]:.12g}"


def codes(text: str) -> Counter:
    return Counter({" ".join(match[1].split()): 1 for match in CODE.findall(FENCE.sub("", text))})
