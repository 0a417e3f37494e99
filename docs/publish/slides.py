"""The notebooks as slides: one reveal.js deck each, with the outputs they were committed with. Nothing is executed.

    python docs/publish/slides.py build/slides              # all of them, the Chinese ones in its folder zh
    python docs/publish/slides.py build/slides 03           # those whose names begin so

The decks need no network: reveal.js lies beside them, and formulas are MathML. A cell with a slide type of its own, in
its slideshow metadata or as a tag, keeps it. For the others it follows from the text: see `typed` and `split`.
"""

import argparse
import re
import shutil
from collections.abc import Iterator, Sequence
from importlib.resources import files
from math import ceil
from pathlib import Path

import nbformat
from captions import CAPTION, describe
from formulas import mathml
from jinja2 import pass_context
from nbconvert.exporters import SlidesExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from rich.progress import track

from minimax_nb.language import columns

HERE = Path(__file__).resolve().parent
NOTEBOOKS = HERE.parents[1] / "notebooks"
REVEAL = files("sphinx_revealjs") / "_static" / "revealjs"  # that package carries reveal.js, with its licence
CARRIED = ("LICENSE", "dist/reveal.js", "dist/reveal.css", "plugin/notes/notes.js")
TYPES = ("slide", "subslide", "fragment", "skip", "notes")
LEFT_OUT = ("What goes wrong", "常见问题")
QUESTION = {"en": "### Question {}", "zh": "### 第{}题"}  # by the language's code of two letters
FULL, ALONE, PICTURE, SMALL = 18.5, 2, 11, 0.65  # a slide, its title, a figure, and a line of code, in lines of prose
BLOCK = re.compile(r"(<details>.*?</details>|```.*?```)|\n\s*\n", re.DOTALL)  # folded, fenced, or between empty lines
HEADING = re.compile(r"(#{1,3}) (.+)")
LOCAL = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|\w+\.ipynb)[^)\s]+\)")  # neither a web page nor a notebook
DECK = re.compile(r"(\]\(\w+)\.ipynb")
ABOVE = re.compile(r"(!\[[^\]]*\]\()\.\./")  # a picture as notebooks/zh finds it; nbconvert embeds those of one folder
ANCHOR = re.compile(r'\s*<a id="[\w-]+"></a>\s*')
WIDGET = "from minimax_nb.widgets import"
QUESTION_ENDS = re.compile(r"(?<=</details>)(?=.)", re.DOTALL)  # in a quiz's still picture, after its folded answers


def deck(cells: Sequence[NotebookNode], language: str = "en") -> list[NotebookNode]:
    """The cells as they stand on slides: prose cut into its blocks, a slide type for each, no slide too full."""
    return list(split(typed([block for cell in cells for block in cut(cell, language)])))


def cut(cell: NotebookNode, language: str) -> list[NotebookNode]:
    """Prose into its blocks; code from what it printed, where both together are too high; a quiz into its questions.

    Of another widget only the code is kept: a picture of it stands below, and slides run no widgets.
    """
    if own_type(cell):
        return [cell]
    if cell.cell_type == "markdown":
        parts = (part for part in BLOCK.split(cell.source) if part and part.strip())
        return [new_markdown_cell(part) for part in parts if not ANCHOR.fullmatch(part)]
    if questions := asked(cell):
        titles = [new_markdown_cell(QUESTION[language].format(at)) for at, _ in enumerate(questions, 1)]
        return [new_code_cell(cell.source), *(block for both in zip(titles, questions, strict=True) for block in both)]
    if WIDGET in cell.source:
        return [new_code_cell(cell.source)]
    if lines(cell) < FULL - ALONE:
        return [cell]
    return [new_code_cell(cell.source), new_code_cell(outputs=cell.outputs, metadata=cell.metadata)]


def asked(cell: NotebookNode) -> list[NotebookNode]:
    """A cell for each question of a quiz, with its part of the still picture; none for other cells."""
    if not cell.outputs or not re.search(r"^quiz\(", cell.source, re.MULTILINE):
        return []
    parts = QUESTION_ENDS.split(cell.outputs[0].data["text/html"])
    outputs = [new_output("display_data", {"text/html": part, "text/plain": ""}) for part in parts]
    return [new_code_cell(outputs=[output]) for output in outputs]


def own_type(cell: NotebookNode) -> str | None:
    """The slide type that the notebook's author gave to a cell."""
    marks = [cell.metadata.get("slideshow", {}).get("slide_type"), *cell.metadata.get("tags", [])]
    return next((mark for mark in marks if mark in TYPES), None)


def typed(blocks: Sequence[NotebookNode]) -> Sequence[NotebookNode]:
    """A heading of level 1 or 2 begins a slide, one of level 3 a slide below it, if anything stands between.

    Folded parts (solutions) and descriptions of figures are speaker notes. The table of what goes wrong is left out.
    """
    section, level = "", 0
    for block in blocks:
        above, (level, title) = level, heading(block)
        section = title if level in (1, 2) else section
        kind = {0: "-", 3: "-" if above == 2 else "subslide"}.get(level, "slide")
        kind = "notes" if is_aside(block) else kind
        kind = own_type(block) or ("skip" if section in LEFT_OUT else kind)
        block.metadata.slideshow = {"slide_type": kind}
    return blocks


def heading(block: NotebookNode) -> tuple[int, str]:
    """Level and text; level 0 if it is none."""
    found = HEADING.match(block.source) if block.cell_type == "markdown" else None
    return (len(found[1]), found[2]) if found else (0, "")


def is_aside(block: NotebookNode) -> bool:
    return block.cell_type == "markdown" and bool(block.source.startswith("<details>") or CAPTION.match(block.source))


def split(blocks: Sequence[NotebookNode]) -> Iterator[NotebookNode]:
    """A slide goes on below, under the same title, where it is full, and with prose that leads to the next code."""
    title, used, code = "", 0.0, False
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        kind = block.metadata.slideshow.slide_type
        leads = code and block.cell_type == "markdown" and after is not None and after.cell_type == "code"
        if kind in ("slide", "subslide"):
            title, used, code = heading(block)[1] or title, 0.0, False
        elif kind == "-" and (leads or used > ALONE and used + lines(block) > FULL):
            yield new_markdown_cell(f"### {title}", metadata={"slideshow": {"slide_type": "subslide"}})
            used, code = ALONE, False
        if kind not in ("skip", "notes"):
            used, code = used + lines(block), code or block.cell_type == "code"
        yield block


def lines(block: NotebookNode) -> float:
    """How high a block is, about, in lines of prose. Code is set smaller."""
    if block.cell_type == "code":
        return 1 + SMALL * height(block.source, 105) + sum(map(output_lines, block.outputs))
    if block.source.startswith("```"):
        return 1 + SMALL * height(block.source, 105)
    return 0.6 + height(re.sub(r"\n(?!- |\d\. |\||> )", " ", block.source), 90)


def output_lines(output: NotebookNode) -> float:
    if "text" in output:
        return SMALL * height(output.text, 105)
    if "image/png" in output.data:
        return PICTURE
    html = output.data.get("text/html", "")
    return html.count("<tr") + SMALL * (html.count("\n") or height(output.data["text/plain"], 105))


def height(text: str, width: int) -> int:
    """How many lines a text takes where so many Latin letters fit into one. A Chinese character is as wide as two."""
    return sum(ceil(columns(line) / width) or 1 for line in text.splitlines())


def on_slide(block: NotebookNode) -> NotebookNode:
    """Links to notebooks lead to their decks, others into the repository become text; no marks for tests in code."""
    if block.cell_type == "markdown":
        linked = DECK.sub(r"\1.html", LOCAL.sub(r"\1", block.source))
        block.source = ABOVE.sub(r"\1", linked).replace("<details>", "<details open>")
    else:
        block.source = block.source.removeprefix("# NBVAL_IGNORE_OUTPUT\n")
    return block


class Renderer(IPythonRenderer):
    def block_math(self, body: str) -> str:
        return mathml(body, block=True)

    def inline_math(self, body: str) -> str:
        return mathml(body, block=False)


class Deck(SlidesExporter):
    @pass_context
    def markdown2html(self, context, source: str) -> str:
        settings = {"escape": False, "exclude_anchor_links": True, "embed_images": True, "path": str(NOTEBOOKS)}
        return MarkdownWithMath(renderer=Renderer(**settings)).render(source)


def write(path: Path, to: Path) -> None:
    """The deck of a notebook: NAME.html in the folder `to`, in its folder zh for one of notebooks/zh."""
    chinese = path.parent.name == "zh"
    language = "zh" if chinese else "en"
    notebook = nbformat.read(path, 4)
    describe(notebook.cells)
    notebook.cells = [on_slide(block) for block in deck(notebook.cells, language)]
    exporter = Deck(
        template_name="deck",
        extra_template_basedirs=[str(HERE)],
        reveal_url_prefix="../reveal.js" if chinese else "reveal.js",
        reveal_theme="kit",
        language_code=language,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
    target = to / path.relative_to(NOTEBOOKS).with_suffix(".html")
    target.parent.mkdir(exist_ok=True)
    target.write_text(html, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("to", type=Path, help="folder of the decks")
    parser.add_argument("names", nargs="*", help="how the notebooks' names begin; all without")
    arguments = parser.parse_args()
    carry(arguments.to / "reveal.js")
    for path in track(sorted([*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("zh/*.ipynb")])):
        if path.name.startswith(tuple(arguments.names) or ""):
            write(path, arguments.to)


def carry(to: Path) -> None:
    """What the decks need of reveal.js, and our own theme."""
    for name in CARRIED:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REVEAL / name, to / name)
    (to / "dist" / "theme").mkdir(exist_ok=True)
    shutil.copy(HERE / "deck" / "kit.css", to / "dist" / "theme")


if __name__ == "__main__":
    main()
