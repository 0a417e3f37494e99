"""The pages of all widgets in Chromium without Jupyter: widths, themes, the still picture, a kernel that is busy.

Screenshots of each are kept in runs/browser/, by widget, width and theme.
"""

import runpy
from pathlib import Path

import nbformat
import pytest
import torch
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ExecutePreprocessor
from playwright.sync_api import expect, sync_playwright
from test_browser import FLAGS, PICTURES, chromium  # noqa: F401
from widget_page import DARK, LIGHT, opened

from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.demo import demo_checkpoint
from minimax_nb.loading import load
from minimax_nb.widgets import config_explorer, expert_view, head_memory, planner, playground, quiz, stepper
from minimax_nb.widgets import page as page_module

torch.set_num_threads(1)

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SIZES = {1440: (LIGHT, DARK), 700: (LIGHT, DARK), 580: (LIGHT,)}  # of 700 pixels JupyterLab leaves a cell about 580
WIDER = """() => [...document.querySelectorAll("section, section :not(input, textarea)")]
    .filter((e) => e.clientWidth && e.scrollWidth > e.clientWidth + 1).map((e) => e.outerHTML.slice(0, 99))"""
STATE = '<script type="application/vnd.jupyter.widget-state+json">{}</script>'
BUSY = "The kernel is busy, and this waits for it."


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(converted folder, model, tokenizer)"""
    folder = patch_checkpoint(demo_checkpoint(), tmp_path_factory.mktemp("demo") / "converted")
    return folder, *load(folder)


def a_quiz():
    view = quiz("04")
    view.explorer.set("1", 0)
    view.explorer.set("2", 0)
    return view


def a_chat(model, tokenizer):
    view = playground(model, tokenizer)
    for name, value in {"temperature": 1.2, "top_k": 6, "seed": 4}.items():
        view.playground.set(name, value)
    view.playground.send("How do I make mayonnaise?")
    view.playground.wait()
    view.playground.look(0)
    return view


def a_reply(model, tokenizer):
    view = expert_view(model, tokenizer)
    view.explorer.start()
    view.explorer.wait()
    return view


def with_values(view, **values):
    for name, value in values.items():
        view.explorer.set(name, value)
    return view


MADE = {
    "quiz": lambda folder, *loaded: a_quiz(),
    "stepper": lambda folder, *loaded: with_values(stepper(), step=5, size="100"),
    "head_memory": lambda folder, model, tokenizer: with_values(
        head_memory(tokenizer, model), layer=4, head=5, weight="decay times q k"
    ),
    "experts": lambda folder, *loaded: a_reply(*loaded),
    "config_explorer": lambda folder, *loaded: config_explorer(demo_checkpoint(), folder),
    "planner": lambda folder, *loaded: with_values(planner(), gpus=16, memory=141, batch=64),
    "playground": lambda folder, *loaded: a_chat(*loaded),
}


@pytest.mark.parametrize("name", MADE)
def test_nothing_is_cut_at_any_width(chromium, demo, name, monkeypatch):  # noqa: F811
    monkeypatch.chdir(NOTEBOOKS)
    view = MADE[name](*demo)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for width, themes in SIZES.items():
        for theme in themes:
            with opened(chromium, view, width, theme) as page:
                widget = page.locator("section")
                expect(widget).to_be_visible()
                kind = "dark" if theme else "light"
                widget.screenshot(path=PICTURES / f"page_{name}_{width}_{kind}.png")
                assert page.evaluate(WIDER) == [], (width, kind)


# The still picture


def test_the_still_picture_is_there_when_the_page_is_not(chromium):  # noqa: F811
    with opened(chromium, stepper()) as page:
        still = page.locator("[data-mmnb-still]")
        expect(page.locator("section")).to_be_visible()
        expect(still).to_be_hidden()
        page.evaluate("window.away()")
        expect(page.locator("section")).to_have_count(0)
        expect(still).to_be_visible()


def test_the_still_picture_of_another_widget_stays(chromium):  # noqa: F811
    with opened(chromium, stepper(), extra=f'<div data-mmnb-still="{stepper().still}">another</div>') as page:
        expect(page.locator("section")).to_be_visible()
        expect(page.get_by_text("another")).to_be_visible()


def test_in_a_saved_page_no_dead_widget_is_drawn(chromium):  # noqa: F811
    """An exported notebook that finds its scripts on the network: there is no kernel that could answer."""
    with opened(chromium, stepper(), extra=STATE) as page:
        page.wait_for_timeout(300)
        expect(page.locator("section")).to_have_count(0)
        expect(page.locator("[data-mmnb-still]")).to_be_visible()


def test_an_executed_notebook_as_html_shows_still_pictures_offline(chromium, tmp_path):  # noqa: F811
    """As `nbconvert --execute --to html` makes it, opened from a disk, without a network."""
    cells = ["from minimax_nb.widgets import quiz, stepper\nstepper()", 'quiz("04")']
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    ExecutePreprocessor(timeout=120).preprocess(notebook, {"metadata": {"path": str(NOTEBOOKS)}})
    assert notebook.metadata.widgets  # nbconvert has kept the widgets' state, and would show them alone
    page_html, _ = HTMLExporter().from_notebook_node(notebook)
    path = tmp_path / "executed.html"
    path.write_text(page_html, encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1000, "height": 1000})
        page.route("http*://**", lambda route: route.abort())
        page.goto(path.as_uri(), wait_until="domcontentloaded")
        expect(page.get_by_text("Attention, tile by tile, a still picture")).to_be_visible()
        expect(page.get_by_role("cell", name="later").first).to_be_visible()
        expect(page.get_by_text("Quiz of notebook 04. Run this cell in JupyterLab")).to_be_visible()
        expect(page.get_by_text("Answer 1")).to_be_visible()
        page.screenshot(path=PICTURES / "executed_offline.png")
        browser.close()


def test_a_committed_notebook_has_the_still_picture_alone(monkeypatch):
    """What notebooks/execute.py leaves of the two outputs of a widget."""
    monkeypatch.chdir(NOTEBOOKS)
    outputs, view = [], quiz("04")
    monkeypatch.setattr(page_module, "display", lambda data, **_: outputs.append({"data": data}))
    view._ipython_display_()
    assert len(outputs) == 2 and view.still in outputs[0]["data"]["text/html"]
    other = {"data": {page_module.VIEW: {"model_id": "another"}, "text/plain": "HBox()"}}
    kept = runpy.run_path(str(NOTEBOOKS / "execute.py"))["without_views"]([*outputs, other])
    assert [output["data"] for output in kept] == [
        {"text/html": view.as_html(), "text/plain": view.as_text()},
        {"text/plain": "A widget, in JupyterLab: run this cell there."},
    ]


# A kernel that is busy


def test_a_slider_that_moves_while_the_kernel_is_busy_says_so(chromium):  # noqa: F811
    with opened(chromium, stepper()) as page:
        page.evaluate("window.free = new Promise((resolve) => (window.release = resolve)), 0")
        page.get_by_label("Step").focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        expect(page.locator(".mmnb-value").first).to_have_text("3")
        expect(page.get_by_text(BUSY)).to_be_visible()
        expect(page.get_by_role("status")).to_have_text("Step 0 of 10: nothing is computed yet.")
        page.evaluate("window.release()")
        expect(page.get_by_role("status")).to_have_text("Step 3 of 10: queries 2 and 3 meet keys 2 and 3.")
        expect(page.get_by_text(BUSY)).to_have_count(0)


def test_what_is_typed_while_the_kernel_is_busy_is_not_undone(chromium, demo):  # noqa: F811
    view = playground(*demo[1:])
    with opened(chromium, view) as page:
        page.evaluate("window.free = new Promise((resolve) => (window.release = resolve)), 0")
        field = page.get_by_label("Top-k")
        field.fill("7")
        field.blur()
        field.fill("99")  # typed, and not yet sent
        page.evaluate("window.release()")
        page.wait_for_function("() => true")
        while view.playground.settings["top_k"] != 7:
            page.wait_for_timeout(20)
        page.wait_for_timeout(300)
        expect(field).to_have_value("99")
        field.blur()
        while view.playground.settings["top_k"] != 99:
            page.wait_for_timeout(20)
