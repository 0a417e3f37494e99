"""Hold the Chinese course to the English one: what is out of date, and code and outputs made anew.

    python notebooks/translate.py                              # lists what is out of date; exit code 1 if anything is
    python notebooks/translate.py sync                         # code and outputs of all Chinese notebooks, or 01 03
    python notebooks/translate.py accept 01-23 README.md#start quiz.toml#01-2    # these are translated anew

Markdown is translated by hand. A Chinese cell remembers in its metadata the hash of its English source; so do a section
of a page and a question of the quiz. Code cells and outputs are made from the English notebook, with the strings in
zh/strings.toml; Chinese figures come from execute.py. The folder translation/ holds what this command is made of.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode
from translation.code import SHARED, Pair, chinese_code, read_strings
from translation.outputs import Spoken, Words
from translation.sections import HERE, PAGES, QUIZ, ROOT, Part, hash_of, questions, sections, with_hash

from minimax_nb.language import speaking

COMMAND, STRINGS = "python notebooks/translate.py", "zh/strings.toml"


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


def chinese_notebook(path: Path, pictures: Mapping[str, dict] | None = None) -> NotebookNode:
    """The Chinese counterpart of an English notebook, as `sync` writes it.

    Markdown is what the Chinese one has; a cell that it lacks stands in English, with no hash. `pictures` are the data
    of new Chinese figures and stills, by the hash of the English one; others are taken from the notebook that is there.
    ValueError, with the id of the cell, if a string of strings.toml does not fit.
    """
    english, chinese = nbformat.read(path, 4), read_chinese(HERE / "zh" / path.name)
    known = {cell.id: cell for cell in chinese.cells if cell.cell_type == "markdown"}
    pictures = shown(chinese) | dict(pictures or {})
    spoken, cells, strings = Spoken(), [], read_strings(HERE / STRINGS)
    for cell in english.cells:
        if cell.cell_type == "markdown":
            old = known.get(cell.id)
            metadata = cell.metadata | ({"en": old.metadata["en"]} if old and "en" in old.metadata else {})
            source = old.source if old else cell.source
            cells.append(nbformat.from_dict(cell | {"source": source, "metadata": metadata}))
            continue
        source, pairs = in_chinese(cell, strings)
        words = spoken.words(cell.source, pairs)
        made = [chinese_output(output, words, pictures) for output in outputs(cell)]
        if made and (number := quiz_number(cell)):
            made[0].data |= quiz_still(number)
            made[0].metadata["en"] = picture_hash(outputs(cell)[0])
        cells.append(nbformat.from_dict(cell | {"source": source, "outputs": made}))
    return nbformat.from_dict(english | {"cells": cells})


def read_chinese(path: Path) -> NotebookNode:
    return nbformat.read(path, 4) if path.exists() else nbformat.v4.new_notebook()


def in_chinese(cell: NotebookNode, strings: Mapping[str, dict[str, str]]) -> tuple[str, list[Pair]]:
    try:
        return chinese_code(cell.source, strings.get(cell.id, {}), strings.get(SHARED, {}))
    except ValueError as error:
        raise ValueError(f"{STRINGS}, {cell.id}: {error}") from error


def chinese_output(output: NotebookNode, words: Words, pictures: Mapping[str, dict]) -> NotebookNode:
    output = nbformat.from_dict(output)  # a copy
    if output.output_type == "stream":
        output.text = words.text(output.text)
    elif has_picture(output):
        of = picture_hash(output)
        output.metadata |= {"en": of} if of in pictures else {}
        output.data |= pictures.get(of, {})
    elif "data" in output:
        output.data["text/plain"] = words.text(output.data["text/plain"])
    return output


def shown(chinese: NotebookNode) -> dict[str, dict]:
    """The figures and stills of a Chinese notebook, by the hash of the English ones."""
    found = [output for cell in chinese.cells for output in outputs(cell) if has_picture(output)]
    return {each.metadata["en"]: each.data for each in found if "en" in each.metadata}


def has_picture(output: NotebookNode) -> bool:
    """Whether it is a figure, or what stands for a widget where none runs."""
    return not {"image/png", "text/html"}.isdisjoint(output.get("data", {}))


def picture_hash(output: NotebookNode) -> str:
    picture = output.data.get("image/png") or output.data["text/html"]
    return hash_of("".join(picture.split()))


def quiz_number(cell: NotebookNode) -> str | None:
    last = cell.source.rpartition("\n")[2]
    return last[6:8] if last.startswith('quiz("') else None


def quiz_still(number: str) -> dict[str, str]:
    """What a cell with a quiz shows where no widgets run, from the file of the questions."""
    if not QUIZ[1].exists():
        return {}
    from minimax_nb.widgets.explorers.quiz import Quiz, read
    from minimax_nb.widgets.explorers.view import ExplorerView

    with speaking("zh"):
        view = ExplorerView(Quiz(number, read(number, QUIZ[1])))
        return {"text/html": view.as_html(), "text/plain": view.as_text()}


def stale_notebooks() -> Iterator[Problem]:
    for path, chinese in notebooks().items():
        sync = f"{COMMAND} sync {path.name[:2]}"
        if not chinese.exists():
            yield Problem(f"zh/{path.name}", "is not there yet", f"{sync}, and translate it")
            continue
        try:
            yield from stale_cells(path, read_chinese(chinese), chinese_notebook(path), sync)
        except ValueError as error:
            where, _, why = str(error).partition(": ")
            yield Problem(where, why, f"mend it, then {sync}")
    yield from stale_strings()


def stale_cells(path: Path, there: NotebookNode, wanted: NotebookNode, sync: str) -> Iterator[Problem]:
    hashes = {cell.id: hash_of(cell.source) for cell in nbformat.read(path, 4).cells}
    have = {cell.id: cell for cell in there.cells}
    for cell in wanted.cells:
        where, pictures = f"zh/{path.name}, cell {cell.id}", [each for each in outputs(cell) if has_picture(each)]
        if cell.id not in have:
            yield Problem(where, "is missing", f"{sync}, and translate it")
        elif cell.cell_type == "markdown" and cell.metadata.get("en") != hashes[cell.id]:
            why = "its English source has changed" if "en" in cell.metadata else "is not translated yet"
            yield Problem(where, why, f"translate it, then {COMMAND} accept {cell.id}")
        elif have[cell.id] != cell:
            yield Problem(where, "is not what the English cell makes it", sync)
        elif any("en" not in each.metadata for each in pictures):
            yield Problem(where, "shows the English picture", f"python notebooks/execute.py {path.name[:2]}")
    for name in have.keys() - hashes.keys():
        yield Problem(f"zh/{path.name}, cell {name}", "has no English cell", sync)
    if have.keys() == hashes.keys() and [*have] != [*hashes]:
        yield Problem(f"zh/{path.name}", "has its cells in another order", sync)


def stale_strings() -> Iterator[Problem]:
    """Tables and shared fragments of strings.toml that no cell has any more."""
    cells = [cell for path in notebooks() for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    for name, table in read_strings(HERE / STRINGS).items():
        if name == SHARED:
            gone = [fragment for fragment in table if not any(fragment in cell.source for cell in cells)]
            yield from (Problem(f"{STRINGS}, {SHARED}", f"stands in no cell: {each!r}", "delete it") for each in gone)
        elif name not in {cell.id for cell in cells}:
            yield Problem(f"{STRINGS}, {name}", "has no English cell", "delete it")


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
    return [*stale_notebooks(), *stale_sections()]


def sync(numbers: tuple[str, ...] = ("",), pictures: Mapping[str, dict] | None = None) -> None:
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
