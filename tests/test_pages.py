"""Pages and notebooks as readers meet them: links and their anchors, headings in order, pictures in words, contrast."""

import ast
import json
import re
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import matplotlib.pyplot as plt
import pytest
from captions import describe
from matplotlib.colors import to_rgb
from translation.sections import slug

from minimax_nb.plots import basics as plots

ROOT = Path(__file__).parents[1]
SITES = ("*", "docs/**/*", "findings/*", "notebooks/*", "notebooks/zh/*", "minimax_nb/**/*")
FOUND = {path for site in SITES for kind in (".md", ".ipynb") for path in ROOT.glob(site + kind)}
PAGES = sorted(path for path in FOUND if ".ipynb_checkpoints" not in path.parts)
NOTEBOOKS = [path for path in PAGES if path.suffix == ".ipynb"]
MODULES = sorted((ROOT / "minimax_nb").glob("plots*.py"))
HEADING = re.compile(r"^(#{1,6}) +(.+?) *#*$", re.MULTILINE)
FRAMED = {"#e0e0e0"}  # the boxes of special tokens, which their thick frames tell apart as well


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def prose(page: Path) -> str:
    """The text of a page or a notebook, without what is fenced."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", text)


# Links


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_local_links_resolve(page):
    text = without_code(prose(page))
    links = re.findall(r"\]\(<?([^)\s>]+)", text) + re.findall(r"""\b(?:src|href)=["']([^"']+)""", text)
    local = [link for link in links if not re.match(r"[a-z][a-z0-9+.-]*:", link)]
    assert [link for link in local if not leads_somewhere(page, *unquote(link).partition("#")[::2])] == []


def leads_somewhere(page: Path, path: str, anchor: str) -> bool:
    target = (page.parent / path).resolve() if path else page
    return target.exists() and target.is_relative_to(ROOT) and (not anchor or anchor in anchors(target))


def anchors(page: Path) -> list[str]:
    """The names of a page's places: what GitHub makes of headings in a text, JupyterLab in a notebook, and `<a id>`."""
    set_by_hand = re.findall(r'<a id="([^"]+)">', prose(page))
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", title) for _, title in HEADING.findall(prose(page))]
    if page.suffix == ".ipynb":
        return [*set_by_hand, *(title.replace(" ", "-") for title in titles)]
    names = [slug(title) for title in titles]
    numbered = [f"{name}-{names[:at].count(name)}" if name in names[:at] else name for at, name in enumerate(names)]
    return [*set_by_hand, *numbered]


def test_anchors_are_named_as_github_and_jupyterlab_do(tmp_path):
    text, notebook = tmp_path / "a.md", tmp_path / "a.ipynb"
    text.write_text("# A\n## What `load()` does, [here](b.md)\n```\n# no\n```\n### A\n")
    notebook.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": ["## 1. Another dish\n", "x"]}]}))
    assert anchors(text) == ["a", "what-load-does-here", "a-1"]
    assert anchors(notebook) == ["1.-Another-dish"]


def test_a_text_in_the_notebooks_folder_links_to_its_own_places_by_hand():
    """In the names made of headings JupyterLab keeps capitals, and GitHub does not; `<a id>` is the same in both."""
    page = ROOT / "notebooks" / "README.md"
    assert re.findall(r"\]\(#", prose(page)) == []
    places = set(re.findall(r'href="#([^"]+)"', prose(page)))
    assert places and places <= set(anchors(page))


def test_a_link_to_a_section_that_is_not_there_is_found():
    readme = ROOT / "README.md"
    assert leads_somewhere(readme, "notebooks/README.md", "memory-and-speed")
    assert not leads_somewhere(readme, "notebooks/README.md", "memory-and-time")
    assert leads_somewhere(readme, "", "a-reply") and not leads_somewhere(readme, "", "no-reply")
    assert not leads_somewhere(readme, "notebooks/README.txt", "")


# Headings


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_one_title_and_no_level_skipped(page):
    levels = [len(marks) for marks, _ in HEADING.findall(prose(page))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert [(above, below) for above, below in pairwise(levels) if below > above + 1] == []


# Pictures


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_pictures_of_a_text_have_words(page):
    text = without_code(prose(page))
    assert [path for words, path in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text) if not words.strip()] == []
    assert without_alt(text) == []


def without_alt(html: str) -> list[str]:
    return [tag for tag in re.findall(r"<img\b[^>]*>", html) if not re.search(r"""\balt=["'][^"']""", tag)]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=relative)
def test_pictures_of_a_notebook_have_words(notebook):
    """The next cell of prose begins with "*The figure: ...*", or the cell's metadata holds the words."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert [cells[at]["id"] for at in describe(cells)] == []
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    assert [tag for data in outputs for tag in without_alt("".join(data.get("text/html", [])))] == []


# Contrast of the figures, by WCAG 2.2: 3 for graphics (1.4.11), 4.5 for text (1.4.3)


def contrast(one, other="white") -> float:
    lighter, darker = sorted((luminance(to_rgb(one)), luminance(to_rgb(other))), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(rgb: tuple[float, float, float]) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_contrast_is_that_of_wcag():
    assert contrast("black") == pytest.approx(21) and contrast("#777777") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_colours_stand_out_from_white(module):
    colours = set(re.findall(r"#[0-9A-Fa-f]{6}\b", module.read_text(encoding="utf-8"))) - FRAMED
    assert [colour for colour in colours if contrast(colour) < 3] == []


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_words_and_pale_bars_stand_out_as_well(module):
    for call in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        named = {word.arg: word.value for word in call.keywords} if isinstance(call, ast.Call) else {}
        colour = getattr(plots, getattr(named.get("color"), "id", ""), None)
        if colour and call.func.attr in ("text", "annotate"):
            assert min(contrast(colour, ground) for ground in ("white", *FRAMED)) >= 4.5, f"line {call.lineno}"
        elif colour and "alpha" in named:
            pale = [1 + named["alpha"].value * (part - 1) for part in to_rgb(colour)]
            assert contrast(pale) >= 3, f"line {call.lineno}"


def test_letters_can_be_read_on_every_box():
    figure = plots.rotation({"head": [(0, 10 ** (-dim / 50)) for dim in range(101)]})
    letters = [text for text in figure.axes[0].texts if text.get_text() != "head"]
    boxes = figure.axes[0].patches
    assert len(letters) == len(boxes) == 101
    grounds = [box.get_facecolor()[:3] for box in boxes]
    assert min(contrast(text.get_color(), ground) for text, ground in zip(letters, grounds, strict=True)) >= 4.5
    plt.close(figure)
