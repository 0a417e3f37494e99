"""`make slides` and `make site`: every deck and page, opened in Chromium with no network; no slide is too full."""

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import conf
import nbformat
import pytest
from bs4 import BeautifulSoup
from captions import describe
from formulas import mathml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from playwright.sync_api import expect, sync_playwright
from slides import deck
from test_browser import FLAGS, SLOW, chromium  # noqa: F401

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FOLDERS = (ROOT, ROOT / "docs", ROOT / "notebooks", ROOT / "minimax_nb" / "demo")
TEXTS = [path for folder in FOLDERS for path in folder.glob("*.md")]
PICTURE = new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"})
SIZE = "(slide => [slide.scrollHeight, slide.clientHeight])(Reveal.getCurrentSlide())"
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def make(target: str) -> Path:
    """What `make` would run for a target, with this Python; the folder that it writes."""
    command = ["make", "--silent", "--dry-run", "--assume-old=.venv/site.stamp", target]
    recipe = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    recipe = recipe.replace(".venv/bin/python", sys.executable)
    run = subprocess.run(recipe, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    return ROOT / "build" / target


@pytest.fixture(scope="module")
def slides() -> Path:
    return make("slides")


@pytest.fixture(scope="module")
def site() -> Path:
    return make("site")


@pytest.fixture
def page(chromium):  # noqa: F811
    """A page without a network; what it asked of one is in `page.asked`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(SLOW)
        page.asked = []
        page.route(re.compile("^(?!file:|data:)"), lambda route: (page.asked.append(route.request.url), route.abort()))
        yield page
        browser.close()


def cells_of(notebook: Path) -> list:
    return nbformat.read(notebook, 4).cells


def formulas(notebook: Path) -> int:
    prose = "\n\n".join(cell.source for cell in cells_of(notebook) if cell.cell_type == "markdown")
    return len(re.findall(r"\$\$?[^$]+\$\$?", re.sub(r"```.*?```|`[^`\n]*`", "", prose, flags=re.DOTALL)))


# What becomes a slide


def kinds(*cells) -> list[tuple[str, str]]:
    return [(block.metadata.slideshow.slide_type, block.source.splitlines()[0]) for block in deck(cells)]


def test_headings_begin_slides():
    prose = new_markdown_cell("# A\n\none\n\n## B\n\n### C\n\ntwo\n\n### D\n\n```\n# no heading\n\n## nor this\n```")
    wanted = [("slide", "# A"), ("-", "one"), ("slide", "## B"), ("-", "### C"), ("-", "two"), ("subslide", "### D")]
    assert kinds(prose) == [*wanted, ("-", "```")]


def test_solutions_and_captions_are_for_the_speaker_and_what_goes_wrong_for_readers():
    cells = [
        new_markdown_cell("## A"),
        new_code_cell("draw()", outputs=[PICTURE]),
        new_markdown_cell("*The figure: a line.*\n\nIt falls.\n\n<details><summary>S</summary>\n\nx\n</details>"),
        new_markdown_cell("## What goes wrong\n\n| a |\n|---|"),
        new_markdown_cell("## Next"),
    ]
    assert [kind for kind, _ in kinds(*cells)] == ["slide", "-", "notes", "-", "notes", "skip", "skip", "slide"]


def test_a_slide_type_of_the_cell_itself_counts():
    by_metadata = new_markdown_cell("## A\n\none", metadata={"slideshow": {"slide_type": "notes"}})
    by_tag = new_code_cell("f()", metadata={"tags": ["other", "skip"]})
    wanted = [("slide", "# T"), ("notes", "## A"), ("skip", "f()")]
    assert kinds(new_markdown_cell("# T"), by_metadata, by_tag) == wanted


def test_a_full_slide_goes_on_below_under_its_title():
    long = new_markdown_cell("## A\n\n" + "\n\n".join(["word " * 90] * 6))
    assert kinds(long).count(("subslide", "### A")) == 2
    code = new_code_cell("f()\n" * 20, outputs=[PICTURE])
    assert [len(block.get("outputs", [])) for block in deck([new_markdown_cell("## A"), code])] == [0, 0, 0, 1]


def test_prose_stands_with_the_code_that_it_leads_to():
    run = [new_markdown_cell("## A\n\nWhat?"), new_code_cell("a"), new_markdown_cell("So.\n\nAnd?"), new_code_cell("b")]
    assert [source for _, source in kinds(*run)] == ["## A", "What?", "a", "So.", "### A", "And?", "b"]


def test_a_picture_has_the_words_below_it_or_none():
    def cell(kind: str):
        picture = kind == "picture"
        return new_code_cell(kind, outputs=[PICTURE] if picture else []) if kind.isalpha() else new_markdown_cell(kind)

    told = "*The figure: `x`\nfalls.* So."
    cells = [cell(kind) for kind in ("picture", "code", told, "picture", "picture", told, "picture", "No words.")]
    assert describe(cells) == [3, 6]
    assert [cells[at].metadata.mystnb["image"]["alt"] for at in (0, 4)] == ["The figure: x falls."] * 2


def test_a_quiz_has_a_slide_for_each_question():
    picture = "<p>Quiz.</p><p><b>1. A?</b></p><details>x</details><p><b>2. B?</b></p><details>y</details>"
    shown = new_output("display_data", {"text/html": picture, "text/plain": "Quiz."})
    blocks = deck([new_markdown_cell("## Quiz"), new_code_cell('quiz("01")', outputs=[shown])])
    titles = [block.source for block in blocks if block.metadata.slideshow.slide_type in ("slide", "subslide")]
    assert titles == ["## Quiz", "### Question 1", "### Question 2"]
    parts = [output.data["text/html"] for block in blocks for output in block.get("outputs", [])]
    assert len(parts) == 2 and "".join(parts) == picture and "2. B?" in parts[1]


def test_of_a_widget_the_code_is_shown_and_not_its_still_picture():
    shown = new_output("display_data", {"text/html": "<p>" * 99, "text/plain": "Steps."})
    (block,) = deck([new_code_cell("from minimax_nb.widgets import stepper\n\nstepper()", outputs=[shown])])
    assert block.source.endswith("stepper()") and block.outputs == []


def test_new_pages_need_no_entry_in_a_list():
    """What the site includes is in its contents as well: a page that is not there fails the build."""
    contents = conf.CONTENTS.split()
    for page in ("docs/a_new_page.md", "docs/app/new.ipynb", "notebooks/12_new.ipynb"):
        assert any(fnmatch(page, pattern) for pattern in conf.include_patterns)
        assert any(fnmatch(page.rpartition(".")[0], pattern) for pattern in contents), page


def test_a_formula_that_is_none_stays_readable():
    assert "<mfrac>" in mathml(r"\frac{1}{2}", block=True)
    assert mathml(r"\nosuch{<}", block=False) == r"<code>\nosuch{&lt;}</code>"


# The decks


@each_notebook
def test_a_deck_opens_without_a_network_and_no_slide_is_cut_off(slides, page, notebook):
    page.goto((slides / f"{notebook.stem}.html").as_uri())
    page.wait_for_function("Reveal.isReady()")
    heights = []
    for _ in range(page.evaluate("Reveal.getTotalSlides()")):
        heights.append(page.evaluate(SIZE))
        page.keyboard.press("Space")
    assert page.evaluate("Reveal.isLastSlide()") and page.asked == []
    scrolled = [at for at, (high, seen) in enumerate(heights, 1) if high > seen]
    assert scrolled == [], "these slides must be scrolled"
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth && image.alt)")
    assert page.locator("math").count() == formulas(notebook)


def test_a_slide_that_is_too_high_is_scrolled(slides, page):
    page.goto((slides / f"{NOTEBOOKS[0].stem}.html").as_uri())
    page.wait_for_function("Reveal.isReady()")
    page.evaluate("Reveal.getCurrentSlide().insertAdjacentHTML('beforeend', '<p style=\"height: 900px\">high</p>')")
    high, seen = page.evaluate(SIZE)
    assert seen <= 720 < high
    page.mouse.move(640, 360)
    page.mouse.wheel(0, 2000)
    page.wait_for_function("Reveal.getCurrentSlide().scrollTop > 0")


def test_arrows_go_from_section_to_section_and_down_within_one(slides, page):
    page.goto((slides / f"{NOTEBOOKS[-1].stem}.html").as_uri())
    page.wait_for_function("Reveal.isReady()")
    title, seen = page.locator("section.present > section.present").locator("h1, h2, h3").first, []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
        seen.append(title.inner_text())
        below = page.evaluate("Reveal.getIndices().v")
        assert below == (key == "ArrowDown")
    blocks = [block for block in deck(cells_of(NOTEBOOKS[-1])) if block.metadata.slideshow.slide_type == "slide"]
    assert [*seen[:2], seen[3]] == [block.source.lstrip("# ") for block in blocks[1:4]]


# The site


def test_every_page_is_there_and_the_first_is_the_readme(site):
    pages = {site / path.relative_to(ROOT).with_suffix(".html") for path in [*TEXTS, *NOTEBOOKS]}
    assert [path for path in pages if not path.exists()] == []
    assert (site / "index.html").read_bytes() == (site / "README.html").read_bytes()
    contents = BeautifulSoup((site / "index.html").read_text(encoding="utf-8"), "html.parser").select(".sidebar-tree a")
    assert {site / link["href"] for link in contents} | {site / "README.html"} >= pages


def test_links_of_the_site_resolve_and_pictures_have_words(site):
    parsed = {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in site.rglob("*.html")}
    ids = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in parsed.items()}
    broken = []
    for path, soup in parsed.items():
        assert [image for image in soup.find_all("img") if not image.get("alt")] == []
        for tag in soup.find_all(["a", "img", "script", "link"]):
            link = tag.get("href") or tag.get("src") or ""
            url = urlsplit(urljoin(path.as_uri(), link))
            if url.scheme == "file":
                target, fragment = Path(unquote(url.path)), unquote(url.fragment)
                broken += [] if target.exists() and fragment in {"", *ids.get(target, ())} else [(path.stem, link)]
            elif tag.name != "a":
                broken.append((path.stem, link))  # it would be asked of a network
    assert broken == []


@each_notebook
def test_the_site_shows_what_was_committed(site, notebook):
    soup = BeautifulSoup((site / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8"), "html.parser")
    shown = "".join(soup.get_text().split())
    outputs = [output for cell in cells_of(notebook) for output in cell.get("outputs", [])]
    printed = ["".join(output.text.split()) for output in outputs if output.output_type == "stream"]
    assert printed and [text for text in printed if text not in shown] == []
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(soup.select(".cell_output img")) == len(pictures)
    assert len(soup.find_all("math")) == formulas(notebook)


def test_search_finds_a_word_of_a_notebook_from_a_disk(site, page):
    page.goto((site / "index.html").as_uri())
    page.get_by_role("textbox", name="Search").fill("Otto")
    page.keyboard.press("Enter")
    found = page.locator("#search-results a", has_text="Chat and generation")
    expect(found).to_have_attribute("href", re.compile(r"notebooks/03_chat_generation\.html"))
    assert page.asked == []


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_a_screen(site, page, width):
    page.set_viewport_size({"width": width, "height": 800})
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
    assert page.asked == []
