"""The explorers as a reader uses them: one notebook with all of them in JupyterLab, by mouse and by keyboard alone.

Work is held by a file, as in test_browser. The first explorer is the test's own: it has every kind of control, buttons
in a wide picture, and a slow draw. Screenshots are kept in runs/browser/; those of notebooks/images/ are drawn again by
`KEEP_PICTURE=1 python -m pytest tests/test_explorers_browser.py`.
"""

import json
import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from test_browser import (  # noqa: F401
    BRIGHTNESS,
    PICTURES,
    chromium,
    errors,
    hold,
    keep_picture,
    opened,
    status,
    tab_to,
    theme,
    url,
    wait_until_held,
    with_notebook,
)

WIDGETS = (
    "Trial",
    "Half-converted configs",
    "Attention, tile by tile",
    "What a head of MiniMax-Text-01 remembers",
    "What a head of this model remembers",
    "Which experts wrote it",
    "What each GPU would hold",
)
CELLS = [
    """\
import time
from pathlib import Path

from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.demo import demo_checkpoint
from minimax_nb.widgets import config_explorer, planner, stepper
from minimax_nb.widgets.controls import Control
from minimax_nb.widgets.explorers import config as config_state
from minimax_nb.widgets.explorers.explorer import Explorer
from minimax_nb.widgets.explorers.view import ExplorerView

def held():
    while Path("hold").exists():
        Path("held").touch()
        time.sleep(0.01)""",
    """\
class Trial(Explorer):
    title, hint, action = "Trial", "Draws slowly.", "Count"
    controls = (
        Control("side", "Side", 3, low=1, high=60),
        Control("half", "Half", 0.5, low=0, high=1000, step=0.5),
        Control("name", "Name", "a"),
        Control("size", "Size", "small", options=("small", "large")),
        Control("filled", "Filled", True),
    )
    drawn = 0

    def draw(self):
        self.drawn += 1
        time.sleep(0.15)
        if self.values["name"] == "broken":
            raise ValueError("no such square")
        side = self.values["side"]
        sides = [f'<button data-name="side" data-value="{n}">to {n}</button>' for n in (side - 1, side + 1, 9)]
        wide = "&nbsp;" * 300 if self.values["size"] == "large" else ""
        return f"<p>area {side ** 2}, drawn {self.drawn}{wide}</p>" + "".join(sides)

    def describe(self):
        return "a square"

    def run(self):
        for count in ("one", "two"):
            held()
            yield count

ExplorerView(Trial())""",
    """\
surprises = config_state.surprises

def slowly(*args):
    for surprise in surprises(*args):
        held()
        yield surprise

config_state.surprises = slowly
config_explorer(demo_checkpoint(), patch_checkpoint(demo_checkpoint(), "demo"))""",
    "stepper()",
    """\
from minimax_nb.loading import load
from minimax_nb.widgets import expert_view, head_memory

model, tokenizer = load("demo", dtype="float32")
head_memory(tokenizer)""",
    "head_memory(tokenizer, model)",
    """\
def brake(_, inputs, __):
    if inputs[0].shape[1] == 1:
        held()

model.register_forward_hook(brake)
expert_view(model, tokenizer)""",
    "planner()",
    "print('all cells ran')",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A notebook in a Lab that keeps cells which are out of sight."""
    folder = with_notebook(tmp_path_factory.mktemp("lab"), CELLS)
    settings = folder / ".jupyter/settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}))
    return folder


@pytest.fixture
def page(opened, errors, hold):  # noqa: F811
    """The notebook with all explorers as at the start; afterwards nothing has gone wrong unseen."""
    opened.set_viewport_size({"width": 1200, "height": 1000})
    for title in WIDGETS:
        region(opened, title).get_by_role("button", name="Reset").click()
    yield opened
    hold.unlink(missing_ok=True)
    assert errors == []


def region(page: Page, title: str) -> Locator:
    return page.get_by_role("region", name=title, exact=True)


@pytest.fixture
def trial(page) -> Locator:
    expect(status(region(page, "Trial"))).to_have_text("ready")
    return region(page, "Trial")


@pytest.fixture
def config(page) -> Locator:
    widget = region(page, "Half-converted configs")
    expect(status(widget)).to_have_text("without rope_parameters, rows of q and k: not measured yet")
    return widget


@pytest.fixture
def steps(page) -> Locator:
    widget = region(page, "Attention, tile by tile")
    expect(status(widget)).to_have_text("Step 0 of 10: nothing is computed yet.")
    return widget


# What all share


@pytest.mark.parametrize("title", WIDGETS)
def test_every_control_has_a_name_and_all_fits(page, title):
    widget = region(page, title)
    tree = widget.aria_snapshot()
    controls = re.findall(r"- (checkbox|slider|combobox|textbox|spinbutton|button)\b(.*)", tree)
    assert len(controls) == widget.locator("input, select, button").count()
    assert [kind for kind, rest in controls if not re.match(' "[^"]+"', rest)] == []
    for name, width in {"wide": 1440, "half": 700, "narrow": 390}.items():
        page.set_viewport_size({"width": width, "height": 1000})
        widget.scroll_into_view_if_needed()
        widget.screenshot(path=PICTURES / f"{title.split(',')[0].replace(' ', '_').lower()}_{name}.png")
        assert widget.evaluate("e => e.scrollWidth <= e.clientWidth && e.getBoundingClientRect().right <= innerWidth")
        if width >= 700:  # no table is cut
            assert widget.locator(".mmnb-picture").evaluate("e => e.scrollWidth <= e.clientWidth")
    stills = page.locator("[data-mmnb-still]")
    assert stills.count() == len(WIDGETS) and not any(still.is_visible() for still in stills.all())


def test_by_mouse_values_are_set_and_drawn(trial):
    trial.get_by_label("Half").fill("2.5")
    trial.get_by_label("Half").blur()
    trial.get_by_label("Name").fill("<b>")
    trial.get_by_label("Name").blur()
    trial.get_by_label("Size").select_option("large")
    trial.get_by_label("Filled").click()
    trial.get_by_label("Side").fill("5")
    expect(trial).to_contain_text("area 25")
    trial.get_by_role("button", name="Reset").click()
    expect(trial).to_contain_text("area 9")
    first = {"Side": "3", "Half": "0.5", "Name": "a", "Size": "small"}
    for label, value in first.items():
        expect(trial.get_by_label(label)).to_have_value(value)
    expect(trial.get_by_label("Filled")).to_be_checked()


def test_a_wrong_value_is_told_and_stays_to_be_mended(trial):
    half = trial.get_by_label("Half")
    half.fill("-1")
    half.blur()
    expect(status(trial)).to_have_text("error: Half is -1: give a number from 0 to 1,000")
    expect(half).to_have_value("-1")
    trial.get_by_role("button", name="Reset").click()
    expect(status(trial)).to_have_text("ready")
    expect(half).to_have_value("0.5")


def test_an_error_while_drawing_is_told(trial):
    trial.get_by_label("Name").fill("broken")
    trial.get_by_label("Name").press("Enter")
    expect(status(trial)).to_have_text("error: no such square")
    expect(trial.locator(".mmnb-picture")).to_be_empty()


def test_a_key_held_down_is_not_lost_and_a_slow_draw_gets_the_newest(page, trial):
    slider = trial.get_by_label("Side")
    slider.focus()
    before = drawn(trial)
    for _ in range(40):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(25)  # so answers come in between
    expect(trial).to_contain_text("area 1849")
    expect(slider).to_have_value("43")
    expect(slider).to_be_focused()
    assert drawn(trial) - before < 20


def test_buttons_of_the_picture_keep_the_focus(page, trial):
    button = trial.get_by_role("button", name="to 9")
    button.focus()
    page.keyboard.press("Enter")
    expect(trial).to_contain_text("area 81")
    expect(trial.get_by_role("button", name="to 9")).to_be_focused()
    trial.get_by_role("button", name="to 10").click()
    expect(trial).to_contain_text("area 100")
    expect(trial.locator(".mmnb-picture")).to_be_focused()  # there is no "to 10" any more
    expect(trial.get_by_label("Side")).to_have_value("10")


def test_a_wide_picture_is_scrolled_by_keys(page, trial):
    picture = trial.get_by_role("group", name="Picture")
    expect(picture).to_have_attribute("tabindex", "-1")
    trial.get_by_label("Size").select_option("large")
    expect(picture).to_have_attribute("tabindex", "0")
    picture.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("e => e.scrollLeft > 0", arg=picture.element_handle())


def test_work_is_stopped_by_mouse_and_by_escape(page, trial, hold):  # noqa: F811
    count, stop = (trial.get_by_role("button", name=name) for name in ("Count", "Stop"))
    expect(stop).to_have_attribute("aria-disabled", "true")
    for press in (stop.click, lambda: page.keyboard.press("Escape")):
        hold.touch()
        count.click()
        expect(count).to_have_attribute("aria-disabled", "true")
        count.press("Enter")
        expect(status(trial)).to_have_text("still at work: press Stop first")
        expect(count).to_be_focused()
        press()
        expect(status(trial)).to_have_text("stopping...")
        hold.unlink()
        expect(status(trial)).to_have_text("stopped")
    count.click()
    expect(status(trial)).to_have_text("done")


def drawn(widget: Locator) -> int:
    return int(re.search(r"drawn (\d+)", widget.inner_text())[1])


# Half-converted configs


def test_configs_by_mouse(page, config):
    expect(table(config, "What differs").get_by_role("row")).to_have_count(3)
    config.get_by_role("checkbox", name="mlp factors").click()
    expect(table(config, "What differs")).to_contain_text("layernorm_mlp_alpha: 2.0")
    config.get_by_role("checkbox", name="mlp factors").click()
    expect(table(config, "What differs")).not_to_contain_text("layernorm_mlp_alpha")
    config.get_by_role("button", name="Measure").click()
    expect(status(config)).to_have_text("done")
    config.get_by_role("checkbox", name="rows of q and k").click()
    config.get_by_role("button", name="Measure").click()
    expect(status(config)).to_have_text("done")
    rows = table(config, "Measured so far").get_by_role("row").all_inner_texts()
    names = ["repairs", "all on", "without rope_parameters, rows of q and k", "without rope_parameters"]
    assert [row.split("\t")[0] for row in rows] == names
    assert [row.endswith("number is 845921.") for row in rows] == [False, True, False, True]
    keep(page, config, "config_explorer")
    page.set_viewport_size({"width": 390, "height": 1000})
    config.screenshot(path=PICTURES / "config_narrow.png")


def test_configs_by_keyboard_alone(page, config, hold):  # noqa: F811
    press, prompts = page.keyboard.press, page.locator(".jp-InputPrompt").all_inner_texts()
    config.get_by_role("checkbox", name="layer_types").focus()
    for label in ("rope_parameters", "rows of q and k"):
        tab_to(page, label)
        press("Space")
        expect(config.get_by_role("checkbox", name=label)).to_be_checked()
    expect(status(config)).to_have_text("all on: not measured yet")
    expect(config).to_contain_text("Nothing differs: this is the converted folder.")
    expect(config.get_by_role("checkbox", name="rows of q and k")).to_be_focused()
    tab_to(page, "Measure")
    hold.touch()
    press("Enter")
    wait_until_held(page, hold)
    expect(status(config)).to_have_text(re.compile("^all on: logits, against"))
    press("Escape")
    expect(status(config)).to_have_text("stopping...")
    hold.unlink()
    expect(status(config)).to_have_text("stopped")
    expect(config).to_contain_text("Nothing is measured yet.")
    expect(config.get_by_role("button", name="Measure")).to_be_focused()
    press("Space")
    expect(status(config)).to_have_text("done")
    expect(table(config, "Measured so far").get_by_role("row")).to_have_count(2)
    tab_to(page, "Reset")
    press("Enter")
    expect(config).to_contain_text("Nothing is measured yet.")
    expect(config.get_by_role("checkbox", name="rows of q and k")).not_to_be_checked()
    assert page.locator(".jp-InputPrompt").all_inner_texts() == prompts  # no key went to the notebook


def table(widget: Locator, caption: str) -> Locator:
    return widget.get_by_role("table", name=caption)


# The stepper


def test_the_stepper_by_mouse(page, steps):
    slider = steps.get_by_label("Step")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(status(steps)).to_have_text("Step 5 of 10: queries 4 and 5 meet keys 2 and 3.")
    expect(steps.locator(".mmnb-value")).to_have_text("5")
    assert steps.locator("td b").count() == 4
    steps.get_by_label("Scores times").select_option("100")
    expect(steps.locator("td b").first).to_contain_text(re.compile(r"\d{2,}\.\d"))
    keep(page, steps, "stepper")


def test_the_stepper_by_keyboard_alone(page, steps):
    slider = steps.get_by_label("Step")
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(status(steps)).to_have_text("Step 3 of 10: queries 2 and 3 meet keys 2 and 3.")
    expect(slider).to_be_focused()
    page.keyboard.press("End")
    expect(steps).to_contain_text("Finished queries: 8, equal to plain softmax within 1e-6: yes.")
    tab_to(page, "Scores times")
    page.keyboard.press("ArrowDown")
    expect(steps.get_by_label("Scores times")).to_have_value("10")
    expect(steps.get_by_label("Scores times")).to_be_focused()
    tab_to(page, "Reset")
    page.keyboard.press("Space")
    expect(status(steps)).to_have_text("Step 0 of 10: nothing is computed yet.")
    expect(slider).to_have_value("0")


# The planner


def test_the_planner_by_keyboard_alone(page):
    widget = region(page, "What each GPU would hold")
    expect(status(widget)).to_have_text("does not fit")
    widget.get_by_label("GB of a GPU").focus()
    tab_to(page, "Weights")
    page.keyboard.press("ArrowDown")
    expect(status(widget)).to_have_text("fits")
    expect(widget).to_contain_text("the longest context that fits: 2,249,810 tokens")
    keep(page, widget, "planner")
    tab_to(page, "Context")
    page.keyboard.press("End")
    expect(status(widget)).to_have_text("does not fit")
    expect(widget).to_contain_text("--context 2249810")


# Last: it changes the theme


# What a head remembers


def test_a_head_forgets_and_another_does_not(page):
    memory = region(page, "What a head of MiniMax-Text-01 remembers")
    expect(memory).to_contain_text('Below 1 %, marked "gone": 14 of 73 tokens.')
    keep(page, memory, "head_memory")
    memory.get_by_label("Head").focus()
    page.keyboard.press("ArrowRight")
    expect(memory).to_contain_text("Layer 20, head 26: its memory of a token has halved after 9.6 more tokens.")
    memory.get_by_label("Layer").fill("7")
    expect(memory).to_contain_text("softmax attention, which has no decay")
    memory.get_by_label("Text").fill("<script>alert(1)</script>")
    memory.get_by_label("Text").press("Enter")
    expect(memory).to_contain_text("All 21 tokens are kept.")
    assert memory.locator("script").count() == 0


def test_q_and_k_find_the_word(page):
    memory = region(page, "What a head of this model remembers")
    memory.get_by_label("Weight").select_option("decay times q k")
    memory.get_by_label("Layer").fill("1")
    memory.get_by_label("Head").fill("6")
    expect(memory).to_contain_text('The largest weight is on "condiment", 1 back from the last token')


# Which experts wrote it


def test_experts_of_a_reply(page):
    experts = region(page, "Which experts wrote it")
    expect(experts).to_contain_text("The model has read nothing yet")
    experts.get_by_role("button", name="Reply").click()
    expect(status(experts)).to_have_text("done")
    expect(experts).to_contain_text("Layer 4: expert 2 most, 61 of 84 times (73 %), expert 1 least, 35 (42 %).")
    page.set_viewport_size({"width": 1200, "height": 1300})
    keep(page, experts, "experts")
    experts.get_by_label("Layer").focus()
    page.keyboard.press("ArrowRight")
    expect(status(experts)).to_have_text("Layer 5: expert 1 most, 58 of 84 times (69 %)")


def test_a_stopped_reply_shows_what_was_read(page, hold):  # noqa: F811
    experts = region(page, "Which experts wrote it")
    hold.touch()
    experts.get_by_role("button", name="Reply").click()
    expect(status(experts)).to_have_text("writing: 25 tokens read")
    page.keyboard.press("Escape")
    expect(status(experts)).to_have_text("stopping...")
    hold.unlink()
    expect(status(experts)).to_have_text("stopped")
    expect(experts).to_contain_text(re.compile(r"Layer 4: expert \d most, \d+ of 2\d times"))


def test_in_the_dark_all_is_light_on_dark(page, config, steps):
    steps.get_by_label("Step").fill("4")
    theme(page, "JupyterLab Dark")
    try:
        expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
        expect(page.locator("#jupyterlab-splash")).to_have_count(0)
        for title in WIDGETS:
            widget = region(page, title)
            widget.screenshot(path=PICTURES / f"{title.split(',')[0].replace(' ', '_').lower()}_dark.png")
            for part in ("button", "label", "p", ".mmnb-picture"):
                light, dark = widget.locator(part).first.evaluate(BRIGHTNESS)
                assert light > dark + 120, (title, part)
    finally:
        theme(page, "JupyterLab Light")


def keep(page: Page, widget: Locator, name: str) -> None:
    page.mouse.move(0, 0)
    widget.screenshot(path=PICTURES / f"{name}.png")
    if os.environ.get("KEEP_PICTURE"):
        keep_picture(name)
