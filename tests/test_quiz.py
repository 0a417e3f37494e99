"""The quizzes: form of the questions, logic, still picture, a page worked by keyboard, their place in notebooks."""

import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import expect
from test_browser import chromium  # noqa: F401
from widget_page import opened

from minimax_nb.language import speaking
from minimax_nb.widgets import quiz
from minimax_nb.widgets.explorers.quiz import LETTERS, Question, Quiz, read
from minimax_nb.widgets.explorers.view import ExplorerView

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FILES = {"en": ROOT / "notebooks" / "quiz.toml", "zh": ROOT / "notebooks" / "quiz.zh.toml"}
ALL = tomllib.loads(FILES["en"].read_text(encoding="utf-8"))
ENDS = {"en": ("?", "."), "zh": ("？", "。")}  # of questions, and of what is said to an answer
HEADINGS = {"en": ("## Quiz\n", "## What you saw\n"), "zh": ("## 小测验\n", "## 小结\n")}
SHARP = Question("Is `a < b`?", "b", ["no & yes", "It forgets `a`."], ["yes", "It is."], ["<i>so</i>", "No <tags>."])
DULL = Question("And now?", "a", ["x", "Right it is."], ["y", "It is late."], ["z", "It is early."])


@pytest.fixture
def state() -> Quiz:
    return Quiz("00", [SHARP, DULL])


# The questions


@pytest.mark.parametrize("language", FILES)
@pytest.mark.parametrize("number", ALL)
def test_questions_are_well_formed(number, language):
    questions, (asks, tells) = read(number, FILES[language]), ENDS[language]
    assert 3 <= len(questions) <= 4
    for question in questions:
        texts, said = zip(*(getattr(question, letter) for letter in LETTERS), strict=True)
        assert question.right in LETTERS and question.ask.endswith(asks)
        for each in (texts, said):
            assert len(set(each)) == 3 and all(text.strip() for text in each)
        assert all(text.endswith(tells) and len(text) < 200 for text in said)
    assert len({option.reason for question in questions for option in question.options()}) == 3 * len(questions)
    assert len({question.right for question in questions}) > 1  # the right one is not always in the same place


def test_each_notebook_has_questions():
    assert [path.name for path in NOTEBOOKS if path.name[:2] not in ALL] == []


def test_no_questions_say_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="start the notebook from its own folder"):
        quiz("01")


# The logic


def test_a_choice_is_explained_at_once(state):
    state.set("1", 0)
    assert state.status == "1 a: Not quite. It forgets a. 1 of 2 answered, 0 right."
    state.set("1", 1)
    assert state.status == "1 b: Right. It is. 1 of 2 answered, 1 right."
    state.set("2", 2)
    assert state.status == "2 c: Not quite. It is early. 2 of 2 answered, 1 right."
    assert "b) yes <- Right. It is." in state.text and "It forgets a." not in state.text


def test_reset_takes_all_answers_back(state):
    fresh = state.picture
    state.set("1", 1)
    assert state.picture != fresh
    state.reset()
    assert (state.picture, state.status, state.count()) == (fresh, "ready", "0 of 2 answered, 0 right.")


@pytest.mark.parametrize(
    "name, value", [("3", 0), ("1", 3), ("1", -1), ("one", 0), ("1", None), ("1", True), ("1", 1.0), (["1"], 0)]
)
def test_what_is_no_option_is_said_and_not_taken(state, name, value):
    state.set(name, value)
    assert state.status == f"error: no option {value} of question {name!r}" and state.values == {}


def test_nothing_is_told_before_a_choice(state):
    shown = state.picture + state.text
    assert not any(said in shown for said in ("Right", "Not quite", "It is"))


def test_text_is_escaped_and_backquotes_are_code(state):
    state.set("1", 2)
    for html in (state.picture, state.still()):
        assert "Is <code>a &lt; b</code>?" in html and "no &amp; yes" in html
        assert "&lt;i&gt;so&lt;/i&gt;" in html and " No &lt;tags&gt;." in html
        assert "<i>" not in html and "<tags>" not in html
    assert "Is a < b?" in state.text


# Where no widgets run


def test_a_still_picture_folds_the_answers(state):
    bundle, _ = ExplorerView(state)._repr_mimebundle_()
    page, plain = bundle["text/html"], bundle["text/plain"]
    shown, folded = re.sub(r"<details>.*?</details>", "", page), "".join(re.findall(r"<details>.*?</details>", page))
    for _, text, verdict, reason in DULL.options():
        said = f"{verdict} {reason}"
        assert f") {text}" in shown and said not in shown and said in folded and f") {text}" in plain
    assert page.count("<summary>Answer") == 2 and "<button" not in page and "style" not in page
    assert "Run this cell in JupyterLab" in plain and "quiz.toml" in plain and DULL.a[1] not in plain


# The page


@pytest.fixture
def page(chromium, state):  # noqa: F811
    with opened(chromium, ExplorerView(state)) as page:
        yield page


def test_the_keyboard_alone_answers_and_is_told(page):
    reset, status = page.get_by_role("button", name="Reset"), page.get_by_role("status")
    reset.focus()
    for key in ("Tab", "Enter"):
        page.keyboard.press(key)
    expect(status).to_have_text("1 a: Not quite. It forgets a. 1 of 2 answered, 0 right.")
    first = page.get_by_role("group", name="1. Is a < b?").get_by_role("button", name="a) no & yes")
    expect(first).to_be_focused()  # the picture was drawn anew meanwhile
    expect(first).to_have_attribute("aria-pressed", "true")
    for key in ("Tab", "Space"):
        page.keyboard.press(key)
    expect(status).to_have_text("1 b: Right. It is. 1 of 2 answered, 1 right.")
    expect(first).to_have_attribute("aria-pressed", "false")
    marked = page.locator("[aria-pressed=true]")
    expect(marked).to_have_text("✓ b) yes")
    expect(page.locator(".mmnb-question").first).to_contain_text("✓ b: Right. It is.")
    page.get_by_role("button", name="a) x").click()
    page.get_by_role("button", name="c) z").click()
    expect(marked.last).to_have_text("✗ c) z")
    colours = marked.evaluate_all("all => all.map(e => getComputedStyle(e).borderColor)")
    assert len(set(colours)) == 2  # right and wrong differ by mark, by word and by colour
    reset.press("Enter")
    expect(status).to_have_text("ready")
    expect(page.locator("[aria-pressed=true]")).to_have_count(0)


def test_a_long_question_stays_within_its_frame(chromium):  # noqa: F811
    long = SHARP._replace(ask="Is " + "a question that goes on and on " * 12 + "a long one?")
    with opened(chromium, ExplorerView(Quiz("00", [long])), width=500) as page:
        frame, ask = page.locator(".mmnb-question"), page.locator(".mmnb-question p").first
        outer, inner = frame.bounding_box(), ask.bounding_box()
        assert inner["height"] > 80 and inner["y"] > outer["y"]
        assert inner["x"] >= outer["x"] and inner["x"] + inner["width"] <= outer["x"] + outer["width"]


# Their place


@pytest.mark.parametrize("language", FILES)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_ends_with_its_own_quiz(notebook, language):
    number, (begins, follows) = notebook.name[:2], HEADINGS[language]
    cells = nbformat.read(notebook if language == "en" else notebook.parent / "zh" / notebook.name, 4).cells
    (at,) = [at for at, cell in enumerate(cells) if cell.source.startswith(begins)]
    asked, after = cells[at + 1 : at + 3]
    assert asked.source.endswith(f'\nquiz("{number}")') and after.source.startswith(follows)
    (output,) = asked.outputs
    with speaking(language):
        page = ExplorerView(Quiz(number, read(number, FILES[language]))).as_html()
    assert output.data["text/html"] == page  # else execute it anew
