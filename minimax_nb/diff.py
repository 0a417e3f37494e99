"""Two configs side by side: plain dicts in, a rich Table out, which shows itself in Jupyter and in a terminal.

Each row begins with a mark and a word, so colour is never the only sign. It compares dicts and knows two things of
MiniMax: the new names of its keys (`NAMES`), and that two keys of the original become one (`rope_parameters`).

    config_diff(original, patch_config(original))           # the last line of a cell
    rich.print(config_diff(original, native))               # elsewhere
"""

import json
from collections.abc import Mapping
from itertools import groupby
from typing import NamedTuple

from rich.table import Column, Table
from rich.text import Text

from .config import FACTORS

NAMES = {"attn_type_list": "layer_types", **FACTORS, "rope_theta": "rope_parameters", "rotary_dim": "rope_parameters"}
WIDTHS = (40, 40)  # characters; with the first column and the frame 100, which a page of Jupyter holds
# Ink and paper both, so that a mark reads the same on a light page and on a dark one. Marks only: in Jupyter the paper
# of a line covers the underscores of the line above.
COLOURS = {"~": "black on #fff3bf", "-": "black on #fbd9c3", "+": "black on #cfe8f7"}


class Difference(NamedTuple):
    """One row: "~" renamed, changed or rewritten (both), "-" gone, "+" new; the entries that it concerns."""

    mark: str
    word: str
    before: dict
    after: dict


def differences(before: dict, after: dict, names: Mapping[str, str] = NAMES) -> list[Difference]:
    """The rows in the order of `before`, then what is new; keys with the same name and value are left out.

    `names` maps a key of `before` to its name in `after`; it does not apply where `after` has kept the old name.
    """
    groups: dict[str, dict] = {}
    for key, value in before.items():
        new = names.get(key, key)
        groups.setdefault(new if new in after and key not in after else key, {})[key] = value
    rows = [_compared(old, {key: after[key]} if key in after else {}) for key, old in groups.items()]
    rows += [Difference("+", "new", {}, {key: after[key]}) for key in after if key not in groups]
    return [row for row in rows if row.word != "same"]


def config_diff(before: dict, after: dict, titles: tuple[str, str] = ("original", "converted")) -> Table:
    """A table of what differs, and a last row that counts what does not. Lists are shown in runs: 7 x 0, 1."""
    rows = differences(before, after)
    sides = zip(titles, WIDTHS, strict=True)
    table = Table("", *(Column(title, max_width=width, overflow="fold") for title, width in sides))
    for mark, word, old, new in rows:
        table.add_row(Text(f"{mark} {word}", COLOURS[mark]), Text(shown(old)), Text(shown(new)))
    same = len(before) - sum(len(row.before) for row in rows)
    table.add_row("= same", f"{same} keys", f"{same} keys")
    return table


def _compared(old: dict, new: dict) -> Difference:
    if not new:
        return Difference("-", "gone", old, new)
    renamed, changed = old.keys() != new.keys(), list(old.values()) != list(new.values())
    if not renamed and not changed:
        return Difference("=", "same", old, new)
    if renamed and changed:
        return Difference("~", "rewritten", old, new)
    return Difference("~", "renamed" if renamed else "changed", old, new)


def shown(entries: dict) -> str:
    """`key: value` lines; those of a nested dict are indented under its key, and cut to the narrower column."""
    lines = []
    for key, value in entries.items():
        if isinstance(value, dict):
            nested = (f"  {line}" for line in shown(value).splitlines())
            lines += [f"{key}:", *(line if len(line) <= WIDTHS[0] else line[: WIDTHS[0] - 1] + "…" for line in nested)]
        else:
            lines.append(f"{key}: {_runs(value) if isinstance(value, list) else _scalar(value)}")
    return "\n".join(lines)


def _runs(values: list) -> str:
    runs = ((len(list(group)), _scalar(value)) for value, group in groupby(values))
    return ", ".join(text if count == 1 else f"{count} x {text}" for count, text in runs)


def _scalar(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)
