"""`make slides` and `make site`: every deck and page, opened in Chromium with no network; no slide is too full.

The Chinese pages are drawn with the font of the figures, because a machine may have none, and boxes are narrower.
"""

import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import conf
import languages
import nbformat
import pytest
from bs4 import BeautifulSoup
from captions import describe
from formulas import mathml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output
from playwright.sync_api import expect, sync_playwright
from search import EnglishAndChinese
from slides import deck
from test_browser import FLAGS, SLOW, chromium  # noqa: F401

ROOT = Path(__file__).parents[1]
COURSE = ROOT / "notebooks"
ENGLISH = sorted(COURSE.glob("*.ipynb"))
CHINESE = sorted(COURSE.glob("zh/*.ipynb"))
NOTEBOOKS = [*ENGLISH, *CHINESE]
FOLDERS = (ROOT, ROOT / "docs", COURSE, COURSE / "zh", ROOT / "minimax_nb" / "demo")
TEXTS = [path for folder in FOLDERS for path in folder.glob("*.md")]
SOURCES = [*TEXTS, *NOTEBOOKS, *(ROOT / "docs" / "app").glob("*.ipynb")]
HAN = re.compile("[\u4e00-\u9fff]")
PICTURE = new_output("display_data", {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"})
SIZE = "(slide => [slide.scrollHeight, slide.clientHeight])(Reveal.getCurrentSlide())"
GO_ON = "!Reveal.isLastSlide() && (Reveal.next(), true)"
SIZES = f"() => {{ const all = []; do all.push({SIZE}); while ({GO_ON}); return all; }}"
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: str(path.relative_to(COURSE)))


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


@pytest.fixture(scope="module")
def fonts(tmp_path_factory) -> dict[str, str]:
    """The environment of a browser that finds the Chinese font of the figures."""
    package = find_spec("pylopdf_fonts_zh_cn")
    folder = tmp_path_factory.mktemp("fonts")
    (folder / "fonts").symlink_to(Path(package.origin).parent)
    return os.environ | {"XDG_DATA_HOME": str(folder)}


@pytest.fixture(scope="module")
def browser(chromium, fonts):  # noqa: F811
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS, env=fonts)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page without a network; what it asked of one is in `page.asked`."""
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.set_default_timeout(SLOW)
    page.asked = []
    page.route(re.compile("^(?!file:|data:)"), lambda route: (page.asked.append(route.request.url), route.abort()))
    yield page
    page.close()


@cache
def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def built(site: Path, source: Path) -> Path:
    """The page of the site that was made of a file of the repository."""
    return site / source.relative_to(ROOT).with_suffix(".html")


def chinese(site: Path) -> dict[Path, Path]:
    """The site's Chinese pages, each with its English one."""
    pairs = {}
    for path in (built(site, source) for source in SOURCES):
        name = str(path.relative_to(site).with_suffix(""))
        if languages.language(name) == languages.CHINESE:
            pairs[path] = site / f"{languages.english(name)}.html"
    return pairs


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


def test_a_chinese_deck_has_the_same_slides():
    picture = "<p><b>1. A?</b></p><details>x</details><p><b>2. B?</b></p><details>y</details>"
    shown = new_output("display_data", {"text/html": picture, "text/plain": "Quiz."})
    cells = [
        new_markdown_cell('# 甲\n\n<a id="b"></a>\n\n## 乙\n\n<a id="c"></a>\n\n### 丙'),
        new_code_cell("draw()", outputs=[PICTURE]),
        new_markdown_cell("*图：一条线。*\n\n它往下走。"),
        new_code_cell('quiz("01")', outputs=[shown]),
        new_markdown_cell("## 常见问题\n\n| a |\n|---|"),
        new_markdown_cell("## 下一篇\n\n" + "\n\n".join(["词元" * 90] * 6)),
    ]
    blocks = [(block.metadata.slideshow.slide_type, block.source.splitlines()[:1]) for block in deck(cells, "zh")]
    assert blocks[:4] == [("slide", ["# 甲"]), ("slide", ["## 乙"]), ("-", ["### 丙"]), ("-", ["draw()"])]
    assert blocks[4] == ("notes", ["*图：一条线。*"]) and ("-", ["它往下走。"]) in blocks
    assert [text for _, text in blocks if "第" in "".join(text)] == [["### 第1题"], ["### 第2题"]]
    assert blocks.count(("skip", ["## 常见问题"])) == 1 and blocks.count(("subslide", ["### 下一篇"])) == 1


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

    told, chinese = "*The figure: `x`\nfalls.* So.", "*表：`x`往下走。*\n\n所以。"
    kinds = ("picture", "code", told, "picture", "picture", told, "picture", "No words.", "picture", chinese)
    cells = [cell(kind) for kind in kinds]
    assert describe(cells) == [3, 6]
    said = [cells[at].metadata.mystnb["image"]["alt"] for at in (0, 4, 8)]
    assert said == ["The figure: x falls.", "The figure: x falls.", "表：x往下走。"]


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
    """The contents are made of what the site includes, a list for each language, each in the order of the course."""
    new = (
        "docs/a_page.md",
        "docs/a_page.zh-CN.md",
        "docs/app/new.ipynb",
        "notebooks/12_new.ipynb",
        "notebooks/zh/12_new.ipynb",
    )
    for page in new:
        assert any(fnmatch(page, pattern) for pattern in conf.include_patterns), page
    pages = ["README", "other/page", "README.zh-CN", *(page.rpartition(".")[0] for page in new)]
    lists = [block.split()[4:] for block in languages.contents(pages, "README").split("```") if block.strip()]
    assert lists == [
        ["notebooks/12_new", "docs/a_page", "docs/app/new", "other/page"],
        ["README.zh-CN", "notebooks/zh/12_new", "docs/a_page.zh-CN"],
    ]


def test_a_page_finds_its_counterpart_by_its_name():
    pages = ["README", "README.zh-CN", "notebooks/README", "notebooks/zh/README", "notebooks/01_a", "notebooks/zh/01_a"]
    other = {page: languages.counterpart(page, [*pages, "CONTRIBUTING", "docs/x.zh-CN"]) for page in pages}
    assert [other[page] for page in pages] == [pages[at ^ 1] for at in range(len(pages))]
    assert languages.counterpart("CONTRIBUTING", pages) is None
    assert [languages.language(page) for page in pages] == ["en", "zh-CN"] * 3


def test_a_formula_that_is_none_stays_readable():
    assert "<mfrac>" in mathml(r"\frac{1}{2}", block=True)
    assert mathml(r"\nosuch{<}", block=False) == r"<code>\nosuch{&lt;}</code>"


# The decks


@each_notebook
def test_a_deck_opens_without_a_network_and_no_slide_is_cut_off(slides, page, notebook):
    path = slides / notebook.relative_to(COURSE).with_suffix(".html")
    page.goto(path.as_uri())
    page.wait_for_function("Reveal.isReady()")
    heights = page.evaluate(SIZES)
    assert len(heights) == page.evaluate("Reveal.getTotalSlides()") > 20 and page.asked == []
    scrolled = [at for at, (high, seen) in enumerate(heights, 1) if high > seen]
    assert scrolled == [], "these slides must be scrolled"
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth && image.alt)")
    assert page.locator("math").count() == formulas(notebook)
    assert page.evaluate("document.documentElement.lang") == ("zh" if notebook in CHINESE else "en")
    decks = page.evaluate("[...document.querySelectorAll('a[href$=\".html\"]:not([href^=http])')].map(a => a.href)")
    assert decks and [link for link in decks if not Path(unquote(urlsplit(link).path)).exists()] == []
    if notebook in CHINESE:
        assert [alt for alt in page.evaluate("[...document.images].map(i => i.alt)") if not HAN.search(alt)] == []


def test_space_goes_through_all_slides(slides, page):
    page.goto((slides / f"{ENGLISH[0].stem}.html").as_uri())
    page.wait_for_function("Reveal.isReady()")
    for _ in range(page.evaluate("Reveal.getTotalSlides()") - 1):
        assert not page.evaluate("Reveal.isLastSlide()")
        page.keyboard.press("Space")
    assert page.evaluate("Reveal.isLastSlide()")


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
    page.goto((slides / f"{ENGLISH[-1].stem}.html").as_uri())
    page.wait_for_function("Reveal.isReady()")
    title, seen = page.locator("section.present > section.present").locator("h1, h2, h3").first, []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
        seen.append(title.inner_text())
        below = page.evaluate("Reveal.getIndices().v")
        assert below == (key == "ArrowDown")
    blocks = [block for block in deck(cells_of(ENGLISH[-1])) if block.metadata.slideshow.slide_type == "slide"]
    assert [*seen[:2], seen[3]] == [block.source.lstrip("# ") for block in blocks[1:4]]


# The site


def test_every_page_is_there_and_the_first_is_the_readme(site):
    pages = {built(site, path) for path in SOURCES}
    assert [path for path in pages if not path.exists()] == []
    assert (site / "index.html").read_bytes() == (site / "README.html").read_bytes()
    contents = soup(site / "index.html").select(".sidebar-tree a")
    assert {site / link["href"] for link in contents} | {site / "README.html"} >= pages


def test_links_of_the_site_resolve_and_pictures_have_words(site):
    parsed = {path: soup(path) for path in site.rglob("*.html")}
    ids = {path: {tag["id"] for tag in whole.find_all(id=True)} for path, whole in parsed.items()}
    broken = []
    for path, whole in parsed.items():
        assert [image for image in whole.find_all("img") if not image.get("alt")] == []
        for tag in whole.find_all(["a", "img", "script", "link"]):
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
    whole = soup(built(site, notebook))
    shown = "".join(whole.get_text().split())
    outputs = [output for cell in cells_of(notebook) for output in cell.get("outputs", [])]
    printed = ["".join(output.text.split()) for output in outputs if output.output_type == "stream"]
    assert printed and [text for text in printed if text not in shown] == []
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(whole.select(".cell_output img")) == len(pictures)
    assert len(whole.find_all("math")) == formulas(notebook)


@pytest.mark.parametrize("words", ["旋转", "解码", "词元", "秩", "KV 缓存", "LoRA微调", "Otto", "yardstick", "蓬松"])
def test_search_finds_from_a_disk_the_pages_that_have_all_words(site, page, words):
    """Chinese ones of one character and of two too, and all pages with them, as their text says."""
    page.goto((site / "notebooks" / "README.html").as_uri())
    page.get_by_role("textbox", name="Search").fill(words)
    page.keyboard.press("Enter")
    expect(page.locator(".search-summary")).to_contain_text(re.compile("找到|finished|did not match"))
    links = page.locator("#search-results li a").evaluate_all("links => links.map(a => a.href)")
    found = {Path(unquote(urlsplit(link).path)) for link in links}
    wanted = re.findall("[a-z]+|[\u4e00-\u9fff]+", words.lower())
    text = {
        path: soup(path).select_one("article").get_text().lower()
        for path in (built(site, source) for source in SOURCES)
    }
    assert found == {path for path in text if all(has(text[path], word) for word in wanted)}
    assert page.asked == [] and page.evaluate("document.documentElement.lang") == (
        "zh-CN" if HAN.search(words) else "en"
    )


def has(text: str, word: str) -> bool:
    """Chinese words may stand anywhere, English ones between what is no letter."""
    return word in text if HAN.search(word) else bool(re.search(rf"(?<![a-z0-9_]){word}(?![a-z0-9_])", text))


def test_the_browser_splits_a_text_as_the_index_did(site, page):
    page.goto((site / "search.html").as_uri())
    language = EnglishAndChinese({})
    for text in ("旋转矩阵", "KV缓存", "头", "bf16时权重占912 GB", "q_proj的LoRA，rotations", "the 5 layers’ state"):
        asked = page.evaluate("text => splitQuery(text).map(w => new Stemmer().stemWord(w.toLowerCase()))", text)
        assert asked and set(asked) <= {language.stem(word) for word in language.split(text)}, text


def test_a_result_shows_the_place_of_a_chinese_word(site, page):
    page.goto((site / "search.html").as_uri())
    html = f'<div role="main">{"前文" * 400}这里旋转。{"后文" * 400}</div>'
    shown = "html => Search.makeSearchSummary(html, new Set(['旋转__']), '').textContent"
    assert "这里旋转" in page.evaluate(shown, html)


def test_what_leads_on_stays_in_the_language(site):
    for source in SOURCES:
        tags = {source.stem.endswith(".zh-CN") or source.parent.name == "zh"}
        for link in soup(built(site, source)).select(".related-pages a"):
            to = (built(site, source).parent / link["href"]).resolve().relative_to(site.resolve())
            tags.add(languages.language(str(to.with_suffix(""))) == languages.CHINESE)
        assert len(tags) == 1, source


# In two languages


def test_a_chinese_page_says_so_and_leads_to_its_english_one_and_back(site):
    pairs = chinese(site)
    assert len(pairs) > 10
    for path in site.rglob("*.html"):
        whole, way = soup(path), None
        assert whole.html["lang"] == ("zh-CN" if path in pairs else "en"), path
        if switch := whole.select_one(".language-switch a"):
            way = (switch["hreflang"], switch["lang"], (path.parent / switch["href"]).resolve())
        back = {english: page for page, english in pairs.items()}
        back[site / "index.html"] = back[site / "README.html"]
        other = pairs.get(path) or back.get(path)
        tag = "en" if path in pairs else "zh-CN"
        assert way == ((tag, tag, other.resolve()) if other else None), path


def test_one_switches_the_language_with_the_keyboard(site, page):
    page.goto((site / CHINESE[0].relative_to(ROOT).with_suffix(".html")).as_uri())
    switch = page.get_by_role("link", name="English", exact=True)
    for _ in range(60):
        page.keyboard.press("Tab")
        if switch.evaluate("link => link === document.activeElement"):
            break
    page.keyboard.press("Enter")
    page.wait_for_url((site / ENGLISH[0].relative_to(ROOT).with_suffix(".html")).as_uri())
    page.get_by_role("link", name="中文", exact=True).click()
    page.wait_for_url(re.compile("/zh/"))


def test_what_the_theme_says_on_a_chinese_page_is_chinese(site):
    """Labels of what can be used, and the few words around the text."""
    words = "symbol > title, .skip-to-content, .back-to-top, .toc-title, .related-pages .context, .left-details"
    for path in chinese(site):
        whole = soup(path)
        said = [tag[name] for tag in whole.find_all(True) for name in ("aria-label", "placeholder") if tag.get(name)]
        said += [tag["title"] for tag in whole.select("link[title], a.headerlink[title]")]
        said += [tag.get_text() for tag in whole.select(words)]
        captions = [tag.get_text() for tag in whole.select(".sidebar-tree .caption")]
        assert captions == ["中文", "English"]  # its own pages first
        assert len(said) > 15 and [text for text in said if not HAN.search(text)] == [], path


def test_an_anchor_leads_to_the_heading_below_it(site):
    """In each Chinese page and notebook, <a id="name"></a> alone above a heading."""
    found = 0
    for source in TEXTS + CHINESE:
        text = source.read_text(encoding="utf-8")
        if source in CHINESE:
            text = "\n\n".join(cell.source for cell in cells_of(source) if cell.cell_type == "markdown")
        for name, heading in re.findall(r'^<a id="([\w-]+)"></a>\n\n#+ (.+)$', text, re.MULTILINE):
            target = soup(built(site, source)).find(id=name)
            section = target if target.name == "section" else target.parent
            title = section.find(re.compile("^h[1-6]$")).get_text()
            assert re.sub(r"[`*\s]", "", heading) == re.sub(r"[`*\s#¶]", "", title), (source.name, name)
            found += 1
    assert found > 5


def test_no_page_is_wider_than_a_screen(site, page):
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name
    assert page.asked == []
