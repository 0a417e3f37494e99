"""Hold the Chinese course to the English one: what is out of date, and code and outputs made anew.

    python notebooks/translate.py                              # lists what is out of date; exit code 1 if anything is
    python notebooks/translate.py sync                         # code and outputs of all Chinese notebooks, or 01 03
    python notebooks/translate.py accept 01-23 README.md#start quiz.toml#01-2    # these are translated anew

Markdown is translated by hand. A Chinese cell remembers in its metadata the hash of its English source; so do a section
of a page and a question of the quiz (sections.py). Code cells and outputs are made from the English notebook, with
the strings in zh/strings.toml (chinese.py). Chinese figures come from execute.py.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import nbformat
from chinese import SHARED, Pair, Words, chinese_code, read_strings, said_by_the_package
from minimax_nb.language import speaking
from nbformat import NotebookNode
from sections import HERE, PAGES, QUIZ, ROOT, Part, hash_of, questions, sections, with_hash

COMMAND = "python notebooks/translate.py"


class Problem(NamedTuple):
    where: str
    why: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}; {self.mend}"


# Notebooks


def notebooks(numbers: tuple[str, ...] = ("",)) -> dict[Path, Path]:
    """The English notebooks whose names begin so, each with its Chinese counterpart."""
    return {path: HERE / "zh" / path.name for path in sorted(HERE.glob("*.ipynb")) if path.name.startswith(numbers)}


def chinese_notebook(path: Path, pictures: Mapping[str, str] | None = None) -> NotebookNode:
    """The Chinese counterpart of an English notebook, as `sync` writes it.

    Markdown is what the Chinese one has; a cell that it lacks stands in English, with no hash. `pictures` are new
    Chinese figures, by the hash of the English one; others are taken from the notebook that is there.
    ValueError, with the id of the cell, if a string of strings.toml does not fit.
    """
    english, chinese = nbformat.read(path, 4), read_chinese(HERE / "zh" / path.name)
    known = {cell.id: cell for cell in chinese.cells if cell.cell_type == "markdown"}
    pictures = shown(chinese) | dict(pictures or {})
    spoken: list[Pair] = []
    cells = []
    for cell in english.cells:
        if cell.cell_type == "markdown":
            old = known.get(cell.id)
            metadata = cell.metadata | ({"en": old.metadata["en"]} if old and "en" in old.metadata else {})
            source = old.source if old else cell.source
            cells.append(nbformat.from_dict(cell | {"source": source, "metadata": metadata}))
            continue
        source, pairs = in_chinese(cell)
        spoken = [*pairs, *spoken]
        words = Words([*spoken, *said_by_the_package()])
        outputs = [chinese_output(output, words, pictures) for output in cell.get("outputs", [])]
        if (number := quiz_number(cell)) and outputs and QUIZ[1].exists():
            outputs[0].data |= quiz_still(number)
        cells.append(nbformat.from_dict(cell | {"source": source, "outputs": outputs}))
    return nbformat.from_dict(english | {"cells": cells})


def read_chinese(path: Path) -> NotebookNode:
    return nbformat.read(path, 4) if path.exists() else nbformat.v4.new_notebook()


def in_chinese(cell: NotebookNode) -> tuple[str, list[Pair]]:
    strings = read_strings()
    try:
        return chinese_code(cell.source, strings.get(cell.id, {}), strings.get(SHARED, {}))
    except ValueError as error:
        raise ValueError(f"{cell.id}: {error}") from error


def chinese_output(output: NotebookNode, words: Words, pictures: Mapping[str, str]) -> NotebookNode:
    output = nbformat.from_dict(output)  # a copy
    if output.output_type == "stream":
        output.text = words.text(output.text)
    elif "image/png" in output.get("data", {}):
        of = picture_hash(output.data["image/png"])
        output.metadata |= {"en": of} if of in pictures else {}
        output.data["image/png"] = pictures.get(of, output.data["image/png"])
    elif "data" in output:
        for kind, translated in (("text/plain", words.text), ("text/html", words.html)):
            if kind in output.data:
                output.data[kind] = translated(output.data[kind])
    return output


def shown(chinese: NotebookNode) -> dict[str, str]:
    """The figures of a Chinese notebook, by the hash of the English ones."""
    outputs = [output for cell in chinese.cells for output in cell.get("outputs", [])]
    return {each.metadata["en"]: each.data["image/png"] for each in outputs if "en" in each.get("metadata", {})}


def picture_hash(png: str) -> str:
    return sha256("".join(png.split()).encode()).hexdigest()[:10]


def quiz_number(cell: NotebookNode) -> str | None:
    last = cell.source.rpartition("\n")[2]
    return last[6:8] if last.startswith('quiz("') else None


def quiz_still(number: str) -> dict[str, str]:
    """What a cell with a quiz shows where no widgets run, from the file of the questions."""
    from minimax_nb.widgets.explorers.quiz import Quiz, read
    from minimax_nb.widgets.explorers.view import ExplorerView

    with speaking("zh"):
        view = ExplorerView(Quiz(number, read(number, QUIZ[1])))
        return {"text/html": view.as_html(), "text/plain": view.as_text()}


def stale_cells() -> Iterator[Problem]:
    for path, its_chinese in notebooks().items():
        number, there = path.name[:2], read_chinese(its_chinese)
        sync = f"{COMMAND} sync {number}"
        if not there.cells:
            yield Problem(f"zh/{path.name}", "is not there yet", f"{sync}, and translate it")
            continue
        try:
            wanted = chinese_notebook(path)
        except ValueError as error:
            yield Problem(f"cell {str(error).replace(':', ', zh/strings.toml:', 1)}", "mend it", f"then {sync}")
            continue
        hashes = {cell.id: hash_of(cell.source) for cell in nbformat.read(path, 4).cells}
        have = {cell.id: cell for cell in there.cells}
        for cell in wanted.cells:
            where = f"zh/{path.name}, cell {cell.id}"
            if cell.id not in have:
                yield Problem(where, "is missing", f"{sync}, and translate it")
            elif cell.cell_type == "markdown" and cell.metadata.get("en") != hashes[cell.id]:
                why = "its English source has changed" if "en" in cell.metadata else "is not translated yet"
                yield Problem(where, why, f"translate it, then {COMMAND} accept {cell.id}")
            elif have[cell.id] != cell:
                yield Problem(where, "is not what the English cell makes it", sync)
            elif any("image/png" in output.get("data", {}) and "en" not in output.metadata for output in outputs(cell)):
                yield Problem(where, "shows the English figure", f"python notebooks/execute.py {number}")
        extra = [cell.id for cell in there.cells if cell.id not in hashes]
        yield from (Problem(f"zh/{path.name}, cell {name}", "has no English cell", sync) for name in extra)
        if have.keys() == hashes.keys() and [*have] != [*hashes]:
            yield Problem(f"zh/{path.name}", "has its cells in another order", sync)
    used = {cell.id for path in notebooks() for cell in nbformat.read(path, 4).cells} | {SHARED}
    for name in read_strings().keys() - used:
        yield Problem(f"zh/strings.toml, table {name}", "has no English cell", "delete it")


def outputs(cell: NotebookNode) -> list[NotebookNode]:
    return cell.get("outputs", [])


# Pages and the quiz


def pages() -> dict[Path, Path]:
    return PAGES | dict([QUIZ])


def parts(path: Path) -> list[Part]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return questions(text) if path.suffix == ".toml" else sections(text)


def stale_sections() -> Iterator[Problem]:
    for english, chinese in pages().items():
        name, where = english.relative_to(ROOT).as_posix(), chinese.relative_to(ROOT).as_posix()
        ours, theirs = parts(english), parts(chinese)
        if not theirs:
            yield Problem(where, "is not there yet", f"translate {name}")
        elif [part.level for part in ours] != [part.level for part in theirs]:
            why = f"has {len(theirs)} sections where {name} has {len(ours)}, or some of another level"
            yield Problem(where, why, "bring them into line")
        else:
            for our, their in zip(ours, theirs, strict=True):
                if their.remembered != hash_of(our.text):
                    why = "its English source has changed" if their.remembered else "is not accepted yet"
                    mend = f"translate it, then {COMMAND} accept {name}#{our.name}"
                    yield Problem(f"{where}, {our.name}", why, mend)


# Commands


def problems() -> list[Problem]:
    return [*stale_cells(), *stale_sections()]


def sync(numbers: tuple[str, ...] = ("",), pictures: Mapping[str, str] | None = None) -> None:
    """Write the Chinese notebooks whose names begin so. All or none of them."""
    made = {chinese: chinese_notebook(path, pictures) for path, chinese in notebooks(numbers).items()}
    for path, notebook in made.items():
        dropped = {cell.id for cell in read_chinese(path).cells} - {cell.id for cell in notebook.cells}
        print(f"{path.relative_to(ROOT)}" + (f", without {', '.join(sorted(dropped))}" if dropped else ""))
        write(path, nbformat.writes(notebook) + "\n")


def accept(names: list[str]) -> None:
    """Remember the English sources of cells, sections and questions as those that were translated. All or none."""
    texts: dict[Path, str] = {}
    for name in names:
        page, _, place = name.rpartition("#")
        path, text = _accepted_part(page, place, texts) if page else _accepted_cell(name, texts)
        texts[path] = text
    for path, text in texts.items():
        write(path, text)


def _accepted_cell(name: str, texts: Mapping[Path, str]) -> tuple[Path, str]:
    for english, chinese in notebooks().items():
        cells = {cell.id: cell for cell in nbformat.read(english, 4).cells if cell.cell_type == "markdown"}
        if name in cells and chinese.exists():
            notebook = nbformat.reads(texts.get(chinese) or chinese.read_text(encoding="utf-8"), 4)
            for cell in notebook.cells:
                if cell.id == name:
                    cell.metadata["en"] = hash_of(cells[name].source)
                    return chinese, nbformat.writes(notebook) + "\n"
    raise SystemExit(f"no cell of Markdown {name!r} in both languages")


def _accepted_part(page: str, place: str, texts: Mapping[Path, str]) -> tuple[Path, str]:
    english = next((path for path in pages() if path.relative_to(ROOT).as_posix() == page.removeprefix("./")), None)
    english = english or (QUIZ[0] if page == QUIZ[0].name else None)
    if english is None:
        raise SystemExit(f"no page {page!r}; there are {', '.join(str(path.relative_to(ROOT)) for path in pages())}")
    chinese, ours = pages()[english], parts(english)
    names = [part.name for part in ours]
    if place not in names:
        raise SystemExit(f"no {place!r} in {page}; there are {', '.join(names)}")
    if [part.level for part in parts(chinese)] != [part.level for part in ours]:
        raise SystemExit(f"{chinese.relative_to(ROOT)} has not the sections of {page}")
    at = names.index(place)
    text = texts.get(chinese) or chinese.read_text(encoding="utf-8")
    return chinese, with_hash(text, chinese.name, at, hash_of(ours[at].text))


def write(path: Path, text: str) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", nargs="?", choices=("list", "sync", "accept"), default="list")
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args(arguments)
    if asked.do == "accept":
        accept(asked.names)
    elif asked.do == "sync":
        sync(tuple(asked.names) or ("",))
    else:
        found = problems()
        print(*found, f"{len(found)} out of date", sep="\n")
        return int(bool(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
