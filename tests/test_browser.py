"""The playground as a reader uses it: JupyterLab in headless Chromium, driven by mouse and by keyboard alone.

Replies are held by a file: while it is there the model waits after a few tokens, and says so in a second file. So a
test has as long as it likes to press Stop. Screenshots are kept in runs/browser/, which git ignores. The one that the
notebooks show is drawn again by `KEEP_PICTURE=1 python -m pytest tests/test_browser.py -k candidates`.
"""

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from time import monotonic, sleep

import nbformat
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect, sync_playwright

from minimax_nb.workshop import free_port

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "runs" / "browser"
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
MISSING = (
    "no Chromium: `apt-get install chromium`, or CHROMIUM=/path/to/chrome; "
    "`pytest --ignore=tests/test_browser.py` leaves these tests out"
)
# No sandbox: CI is root. No /dev/shm: a container's is small.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
TOOK = r"[\d.]+ s \([\d.]+ a second after the first\)"
DONE = re.compile(rf"^done: \d+ tokens in {TOOK}$")
STOPPED = re.compile(rf"^stopped: \d+ tokens in {TOOK}; the half reply is kept$")
SLOW = 90_000  # ms: a shared core may take this long for what takes a second elsewhere
CELLS = [
    """\
import time
from pathlib import Path

from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.demo import demo_checkpoint
from minimax_nb.loading import load
from minimax_nb.widgets import playground

model, tokenizer = load(patch_checkpoint(demo_checkpoint(), "demo"))""",
    """\
hold = Path("hold")

def brake(_, inputs, __):
    global steps
    steps = 0 if inputs[0].shape[1] > 1 else steps + 1
    while hold.exists() and steps > 6:
        Path("held").touch()
        time.sleep(0.01)

model.register_forward_hook(brake)
widget = playground(model, tokenizer)
widget""",
    "print('another cell:', widget.playground.status)",
    "print('all cells ran')",
    "# for what a test pastes",
]
expect.set_options(timeout=SLOW)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return with_notebook(tmp_path_factory.mktemp("lab"), CELLS)


def with_notebook(folder: Path, cells: list[str]) -> Path:
    """The folder, with these cells in it under the name that `url` opens."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    nbformat.write(notebook, folder / "playground.ipynb")
    return folder


@pytest.fixture(scope="module")
def chromium() -> str:
    return CHROMIUM or pytest.skip(MISSING)


@pytest.fixture(scope="module")
def url(folder):
    """A JupyterLab that knows nothing of this user's settings, and stops when the tests are done."""
    port = free_port()
    token, base, log = secrets.token_hex(16), f"http://127.0.0.1:{port}", folder / "lab.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={token}"]
    with log.open("w") as output:
        server = subprocess.Popen(command, env=environment(folder), stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for_server(server, f"{base}/api/status?token={token}", log)
        yield f"{base}/lab/tree/playground.ipynb?token={token}&reset"
    finally:
        server.send_signal(signal.SIGTERM)  # not SIGINT, which leaves the kernels running
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def environment(folder: Path) -> dict:
    home = folder / ".jupyter"
    no_news = home / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    no_news.parent.mkdir(parents=True)
    no_news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    own = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    return os.environ | own | {"IPYTHONDIR": str(home / "ipython")}


def wait_for_server(server: subprocess.Popen, status: str, log: Path) -> None:
    deadline = monotonic() + SLOW / 1000
    while True:
        assert server.poll() is None and monotonic() < deadline, log.read_text()[-2000:]
        try:
            return urllib.request.urlopen(status, timeout=5).close()
        except OSError:
            sleep(0.1)


@pytest.fixture(scope="module")
def errors() -> list[str]:
    """What went wrong unseen: in a callback, which shows in no cell, or in the page."""
    return []


@pytest.fixture(scope="module")
def opened(chromium, url, errors):
    """The notebook in Lab, all its cells run."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        watch(page, errors)
        run_all_cells(page, url, SLOW)
        page.keyboard.press("Control+b")  # the file list goes, and leaves its room
        yield page
        browser.close()


def run_all_cells(page: Page, url: str, patience: float) -> None:
    """Open a notebook whose last cell prints "all cells ran", and run it; patience: ms."""
    page.goto(url, timeout=SLOW)
    expect(page.locator("#jp-bottom-panel").get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator(".lm-Menu-item", has_text=re.compile("^Run All Cells")).first.click()
    expect(page.locator(".jp-OutputArea-output", has_text="all cells ran")).to_be_visible(timeout=patience)


def watch(page: Page, errors: list[str]) -> None:
    def frame(data: bytes | str) -> None:
        data = data if isinstance(data, bytes) else data.encode()
        if re.search(rb'"msg_type":\s*"error"', data):
            errors.append(data[-1500:].decode(errors="replace"))

    page.on("websocket", lambda socket: socket.on("framereceived", frame))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))


@pytest.fixture
def page(opened, errors, hold):
    """The opened notebook as at the start; afterwards nothing has gone wrong unseen."""
    opened.set_viewport_size({"width": 1200, "height": 1000})
    opened.get_by_role("button", name="Reset").click()
    expect(status(opened)).to_have_text("ready")
    yield opened
    hold.unlink(missing_ok=True)
    assert errors == []


@pytest.fixture
def hold(folder) -> Path:
    """The file that holds replies while it is there."""
    (folder / "held").unlink(missing_ok=True)
    return folder / "hold"


@pytest.fixture
def widget(page) -> Locator:
    return page.get_by_role("region", name="Chat playground")


def test_there_is_a_browser():
    """Where there is none this one fails, in a line, and the others are skipped."""
    if CHROMIUM is None:
        pytest.fail(MISSING, pytrace=False)


def test_every_control_has_a_name_and_all_fits(page, widget):
    names = ["Temperature", "Top-k", "Top-p", "Repetition penalty", "Longest reply", "Seed"]
    found = [widget.get_by_label(re.compile(f"^{name}")) for name in names]
    assert [control.input_value() for control in found] == ["0", "50", "1", "1", "200", ""]
    others = ["Message", "Token", "System prompt", "The conversation as a cell"]
    assert all(widget.get_by_label(re.compile(f"^{name}")).count() == 1 for name in others)
    fields, buttons = widget.locator("input, textarea"), widget.get_by_role("button")
    assert fields.count() == len(names) + len(others)
    assert buttons.all_inner_texts() == ["Send", "Stop", "Regenerate", "New chat", "Reset", "Copy as code"]
    asked(widget, "How do I make pesto, please? " * 12)
    widget.get_by_role("button", name="Copy as code").click()
    for name, width in {"normal": 1200, "narrow": 420}.items():
        page.set_viewport_size({"width": width, "height": 2000})
        widget.screenshot(path=PICTURES / f"{name}.png")
        assert widget.evaluate("e => e.scrollWidth <= e.clientWidth && e.getBoundingClientRect().right <= innerWidth")
        assert widget.locator("table").evaluate("e => e.scrollWidth <= e.parentNode.clientWidth")


def test_by_mouse_a_reply_streams_while_other_cells_run(page, widget, hold):
    hold.touch()
    widget.get_by_label("Message").fill("How do I make pesto?")
    widget.get_by_role("button", name="Send").click()
    expect(status(widget)).to_have_text("writing...")
    expect(log(widget)).to_have_text(re.compile(r"^You How do I make pesto\?Model \w+"))
    half = log(widget).inner_text()
    page.screenshot(path=PICTURES / "writing.png")
    page.locator(".jp-Cell", has_text="another cell:").locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    expect(page.locator(".jp-OutputArea-output", has_text="another cell: writing...")).to_be_visible()
    hold.unlink()
    expect(status(widget)).to_have_text(DONE)
    whole = log(widget).inner_text()
    assert whole.startswith(half) and len(whole) > len(half)
    page.screenshot(path=PICTURES / "done.png")


def test_by_mouse_send_and_stop_work_while_a_cell_is_busy(page, widget, hold):
    hold.touch()
    cell = page.locator(".jp-Cell", has_text="another cell:")
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text("while hold.exists(): time.sleep(0.01)\nprint('another cell: over')")
    page.keyboard.press("Control+Enter")
    expect(cell.locator(".jp-InputPrompt")).to_have_text("[*]:")
    widget.get_by_label("Message").fill("How do I make pesto?")
    widget.get_by_role("button", name="Send").click()
    wait_until_held(page, hold)
    widget.get_by_role("button", name="Stop").click()
    expect(status(widget)).to_have_text("stopping...")
    expect(cell.locator(".jp-InputPrompt")).to_have_text("[*]:")
    hold.unlink()
    expect(status(widget)).to_have_text(STOPPED)
    expect(cell.locator(".jp-OutputArea-output")).to_have_text("another cell: over")


def test_by_mouse_stop_keeps_the_half_reply_and_the_next_turn_is_whole(page, widget, hold):
    hold.touch()
    widget.get_by_label("Message").fill("How do I make pesto?")
    widget.get_by_role("button", name="Send").click()
    wait_until_held(page, hold)
    widget.get_by_role("button", name="Stop").click()
    expect(status(widget)).to_have_text("stopping...")
    hold.unlink()
    expect(status(widget)).to_have_text(STOPPED)
    half = log(widget).inner_text()
    widget.get_by_label("Message").fill("Who are you?")
    widget.get_by_role("button", name="Send").click()
    expect(status(widget)).to_have_text(DONE)
    assert log(widget).inner_text().startswith(half) and turns(widget) == ["You", "Model", "You", "Model"]
    widget.get_by_role("button", name="Regenerate").click()
    expect(status(widget)).to_have_text(DONE)
    assert turns(widget) == ["You", "Model", "You", "Model"]


def test_by_keyboard_alone(page, widget, hold):
    press, prompts = page.keyboard.press, page.locator(".jp-InputPrompt")
    before = prompts.all_inner_texts()
    log(widget).focus()
    press("Tab")
    page.keyboard.type("How do I make")
    press("Shift+Enter")
    page.keyboard.type("pesto?")
    press("Enter")
    expect(status(widget)).to_have_text(DONE)
    assert log(widget).inner_text().startswith("You How do I make\npesto?")
    expect(widget.get_by_label("Message")).to_be_focused()
    tab_to(page, "Temperature")
    for _ in range(8):
        press("ArrowRight")
    tab_to(page, "Longest reply")
    page.keyboard.type("8")
    tab_to(page, "Seed")
    page.keyboard.type("7")
    tab_to(page, "Regenerate", back=True)
    press("Space")
    cut = re.compile(rf"^cut: 8 tokens in {TOOK}, seed 7; the longest reply was set to 8$")
    expect(status(widget)).to_have_text(cut)
    tab_to(page, "Message", back=True)
    hold.touch()
    page.keyboard.type("And mayonnaise?")
    press("Enter")
    wait_until_held(page, hold)
    press("Escape")
    expect(status(widget)).to_have_text("stopping...")
    hold.unlink()
    expect(status(widget)).not_to_have_text("stopping...")
    tab_to(page, "New chat")
    press("Enter")
    expect(log(widget)).to_be_empty()
    expect(status(widget)).to_have_text("ready")
    kept = {"Temperature": "0.8", "Longest reply": "8", "Seed": "7"}
    assert {label: widget.get_by_label(label).input_value() for label in kept} == kept
    tab_to(page, "Reset")
    press("Enter")
    first = {"Temperature": "0", "Longest reply": "200", "Seed": ""}
    for label, value in first.items():
        expect(widget.get_by_label(label)).to_have_value(value)
    assert prompts.all_inner_texts() == before  # no key went to the notebook, where Enter and others are commands


def test_a_wrong_setting_is_said_and_the_message_comes_back(page, widget):
    widget.get_by_label("Top-k").fill("-1")
    widget.get_by_label("Message").fill("How do I make pesto?")
    words = "error: Top-k is -1: give a whole number from 0 to 10,240,000"
    expect(status(widget)).to_have_text(words)
    widget.get_by_role("button", name="Send").click()
    expect(widget.get_by_label("Message")).to_have_value("How do I make pesto?")
    expect(status(widget)).to_have_text(words)
    expect(log(widget)).to_be_empty()


def test_by_mouse_a_token_shows_its_candidates(page, widget):
    for label, value in {"Temperature": "1.2", "Top-k": "6", "Seed": "4"}.items():
        widget.get_by_label(label).fill(value)
        widget.get_by_label(label).blur()
    reply = asked(widget, "How do I make mayonnaise?")
    words = widget.locator(".mmnb-candidate")
    expect(words).to_have_text(re.compile(r"^<end_of_sentence>: drawn, number 1 of the 6 that were kept$"))
    widget.locator(".mmnb-token").first.click()
    first = widget.locator(".mmnb-token").first.inner_text()
    expect(words).to_have_text(re.compile(rf"^'{first}': drawn, number \d of the 6 that were kept$"))
    expect(widget.locator(".mmnb-token.mmnb-chosen")).to_have_text(first)
    table = rows(widget)
    assert [row[0] for row in table] == [*"123456--"] and [row[2] for row in table[6:]] == ["cut", "cut"]
    assert [row[1] for row in table if "▶" in row[1]] == [f"▶ '{first}' (chosen)"]
    kept = [float(row[2].lstrip("<")) for row in table[:6]]
    assert kept == sorted(kept, reverse=True) and sum(kept) == pytest.approx(1, abs=0.01)
    assert bars(widget) == pytest.approx([*kept, 0, 0], abs=0.002)
    widget.screenshot(path=PICTURES / "playground.png")
    if os.environ.get("KEEP_PICTURE"):
        keep_picture("playground")
    assert log(widget).inner_text().endswith(reply)


def test_by_keyboard_tokens_are_walked_and_the_focus_stays(page, widget, hold):
    asked(widget, "How do I make pesto?")
    tokens, slider = widget.locator(".mmnb-token"), widget.get_by_label("Token", exact=True)
    tab_to(page, "Token")
    for key, place in {"Home": 0, "ArrowRight": 1, "End": tokens.count() - 1, "ArrowLeft": tokens.count() - 2}.items():
        page.keyboard.press(key)
        expect(tokens.nth(place)).to_have_class(re.compile("mmnb-chosen"))
        text = tokens.nth(place).text_content()
        expect(widget.locator(".mmnb-candidate")).to_contain_text(
            f"'{text}': the" if text else "<end_of_sentence>: the"
        )
        expect(slider).to_have_attribute("aria-valuetext", re.compile(f"^{place + 1} of {tokens.count()} "))
    hold.touch()
    widget.get_by_role("button", name="Regenerate").click()
    wait_until_held(page, hold)
    tokens.first.click()
    hold.unlink()
    expect(status(widget)).to_have_text(DONE)
    expect(slider).to_be_focused()
    expect(tokens.first).to_have_class(re.compile("mmnb-chosen"))


def test_a_system_prompt_is_for_the_next_chat(page, widget):
    prompt = widget.get_by_label("System prompt")
    asked(widget, "How do I make pesto?")
    prompt.fill("You are a cook.")
    prompt.press("Tab")
    expect(status(widget)).to_have_text("the system prompt counts from the next new chat on")
    assert turns(widget) == ["You", "Model"]
    widget.get_by_role("button", name="New chat").click()
    expect(log(widget)).to_have_text("System You are a cook.")
    asked(widget, "Who are you?")
    assert turns(widget) == ["System", "You", "Model"]
    widget.get_by_role("button", name="Reset").click()
    expect(log(widget)).to_be_empty()
    expect(prompt).to_have_value("")


def test_copied_code_says_the_same_in_a_cell(page, widget):
    copy, code = widget.get_by_role("button", name="Copy as code"), widget.get_by_label("The conversation as a cell")
    copy.click()
    expect(status(widget)).to_have_text("nothing to copy yet: send a message")
    expect(code).to_be_hidden()
    widget.get_by_label("Temperature").fill("1.5")
    widget.get_by_label("Temperature").blur()
    reply = asked(widget, "How do I make pesto?")
    copy.click()
    expect(status(widget)).to_have_text("copied: paste it into a cell")
    assert page.evaluate("navigator.clipboard.readText()") == code.input_value()
    cell = page.locator(".jp-Cell").last
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.press("Control+v")
    page.keyboard.press("Control+Enter")
    expect(cell.locator(".jp-OutputArea-output")).to_contain_text(reply)


def test_where_a_page_may_not_copy_the_code_is_selected(page, widget):
    asked(widget, "How do I make pesto?")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined, configurable: true})")
    widget.get_by_role("button", name="Copy as code").press("Enter")
    expect(status(widget)).to_have_text(re.compile("^not copied, .* the code is selected, press Ctrl\\+C"))
    code = widget.get_by_label("The conversation as a cell")
    expect(code).to_be_focused()
    assert code.evaluate("e => [e.selectionStart, e.selectionEnd]") == [0, len(code.input_value())]
    page.evaluate("delete navigator.clipboard")


def test_in_the_dark_all_is_light_on_dark(page, widget):
    asked(widget, "How do I make pesto?")
    widget.get_by_role("button", name="Copy as code").click()
    try:
        theme(page, "JupyterLab Dark")
        expect(page.locator("body")).to_have_attribute("data-jp-theme-light", "false")
        expect(page.locator("#jupyterlab-splash")).to_have_count(0)
        widget.screenshot(path=PICTURES / "dark.png")
        for part in ("textarea", "button", "td", ".mmnb-turn", ".mmnb-status", "legend"):
            light, dark = widget.locator(part).first.evaluate(BRIGHTNESS)
            assert light > dark + 120, part
    finally:
        theme(page, "JupyterLab Light")


# Of the text and of what lies behind it, from 0 to 255
BRIGHTNESS = """e => {
    const mean = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).reduce((sum, each) => sum + Number(each) / 3, 0);
    const bare = (node) => getComputedStyle(node).backgroundColor.endsWith(", 0)");
    let behind = e;
    while (bare(behind)) behind = behind.parentNode;
    return [mean(getComputedStyle(e).color), mean(getComputedStyle(behind).backgroundColor)];
}"""


def theme(page: Page, name: str) -> None:
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.locator(".lm-Menu-item", has_text="Theme").first.hover()
    page.locator(".lm-Menu-item", has_text=name).first.click()


def keep_picture(name: str) -> None:
    """A screenshot as the notebooks show it: a palette, for its size."""
    picture = Image.open(PICTURES / f"{name}.png").convert("RGB").quantize(64)
    picture.save(ROOT / "notebooks" / "images" / f"{name}.png", optimize=True)


def asked(widget: Locator, text: str) -> str:
    """The model's reply to `text`, which is sent and waited for."""
    widget.get_by_label("Message").fill(text)
    widget.get_by_label("Message").press("Enter")
    expect(status(widget)).to_have_text(re.compile("^done: "))
    return "".join(log(widget).locator("p").last.locator(".mmnb-token").all_text_contents())


def rows(widget: Locator) -> list[list[str]]:
    return [row.locator("th, td").all_inner_texts() for row in widget.locator("tbody tr").all()]


def bars(widget: Locator) -> list[float]:
    """How much of its room each bar takes."""
    share = "all => all.map(e => parseFloat(getComputedStyle(e, '::before').width) / e.clientWidth)"
    return widget.locator(".mmnb-bar").evaluate_all(share)


def status(widget: Locator) -> Locator:
    return widget.get_by_role("status")


def log(widget: Locator) -> Locator:
    return widget.get_by_role("log", name="Conversation")


def turns(widget: Locator) -> list[str]:
    return log(widget).locator("b").all_inner_texts()


def wait_until_held(page: Page, hold: Path) -> None:
    deadline = monotonic() + SLOW / 1000
    while not hold.with_name("held").exists():
        assert monotonic() < deadline, "no reply has begun"
        page.wait_for_timeout(20)


def tab_to(page: Page, label: str, back: bool = False) -> None:
    """Press Tab, or Shift+Tab, until the control called so has the focus."""
    for _ in range(12):
        page.keyboard.press("Shift+Tab" if back else "Tab")
        name = "e => (e.labels?.[0] ?? e).textContent"
        if page.locator(":focus").evaluate(name).startswith(label):
            return
    pytest.fail(f"Tab does not come to {label}")
