"""`make app`: the playground as a page, through Voila, for whoever has the token and is on this machine."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep

import pytest
from playwright.sync_api import expect, sync_playwright
from test_browser import DONE, FLAGS, PICTURES, SLOW, chromium, environment, log, rows, status, watch  # noqa: F401

from minimax_nb.workshop import free_port

ROOT = Path(__file__).parents[1]
APP = ROOT / "docs" / "app"
IDLE = 20  # s, here: a page that is open keeps its kernel, however long it is idle
KERNELS = "/api/kernels/0-0-0-0-0"
WEBSOCKET = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(address, token, log) of the page, served by the Makefile's own line."""
    with serving(tmp_path_factory.mktemp("app")) as page:
        yield page


@contextmanager
def serving(folder: Path, *variables: str) -> Iterator[tuple[str, str, Path]]:
    port = free_port()
    options = f"--port={port} --Voila.port_retries=0 --MappingKernelManager.cull_interval=1"
    options += f" --MappingKernelManager.cull_idle_timeout={IDLE}"
    command = ["make", "-o", ".venv/lab.stamp", "app", f"RUN={sys.executable} -m", f"APP_ARGS={options}", *variables]
    said = folder / "app.log"
    with said.open("w") as output:
        server = subprocess.Popen(command, cwd=ROOT, env=environment(folder), stdout=output, stderr=subprocess.STDOUT)
    try:
        yield f"http://127.0.0.1:{port}", token(server, said), said
    finally:
        server.send_signal(signal.SIGTERM)  # make passes it on, and Voila ends its kernels
        server.wait(60)


def token(server: subprocess.Popen, said: Path) -> str:
    """That of the link which is printed when the server listens."""
    deadline = monotonic() + SLOW / 1000
    while not (link := re.search(r"http://127\.0\.0\.1:\d+/\?token=(\w+)", said.read_text())):
        assert server.poll() is None and monotonic() < deadline, said.read_text()[-2000:]
        sleep(0.1)
    return link[1]


def answer(url: str, **headers) -> tuple[int, str]:
    """(status, where it leads) of one request, without going there."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), Stay)
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=SLOW / 1000) as response:
            return response.status, response.url
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("Location", "")


@pytest.mark.parametrize("wrong", ["", "?token=", "?token=0123456789abcdef"])
def test_without_the_token_there_is_no_page_and_no_kernel(served, wrong):
    address, _, said = served
    code, leads_to = answer(f"{address}/{wrong}")
    assert code == 302 and leads_to.startswith("/login?")  # a form that asks for the token
    assert answer(address + KERNELS + wrong)[0] == 403
    assert answer(f"{address}{KERNELS}/channels{wrong}", **WEBSOCKET)[0] == 403
    assert answer(f"{address}/voila/files/playground.ipynb{wrong}")[0] == 403
    assert "Kernel started" not in said.read_text()


def test_with_the_token_the_kernels_answer(served):
    address, right, _ = served
    assert answer(f"{address}{KERNELS}?token={right}")[0] == 404  # there is none yet, and one is told so


def test_it_listens_on_this_machine_only(served):
    """A server for all addresses would answer on this one too, which is this machine's as well."""
    port = int(served[0].rpartition(":")[2])
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", port), timeout=5)


def test_with_the_token_a_reply_streams_and_nothing_comes_from_elsewhere(served, chromium):  # noqa: F811
    address, right, _ = served
    errors, answered, refused = [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        watch(page, errors)
        page.on("response", lambda response: answered.append(response.url))
        page.on("requestfailed", lambda request: refused.append(request.url))
        assert page.goto(f"{address}/?token={right}", timeout=SLOW).status == 200
        widget = page.get_by_role("region", name="Chat playground")
        expect(status(widget)).to_have_text("ready")
        expect(page.get_by_text("Chat playground, a still picture")).to_be_hidden()
        lengths = watch_length(log(widget))
        widget.get_by_label("Message").fill("How do I make pesto?")
        widget.get_by_label("Message").press("Enter")
        expect(status(widget)).to_have_text(DONE)
        assert len(lengths()) > 3 and lengths() == sorted(lengths())
        assert "basil" in log(widget).inner_text()
        widget.locator(".mmnb-token").first.click()
        expect(widget.locator(".mmnb-candidate")).to_have_text("'For': the likeliest, taken without a draw")
        assert [row[1] for row in rows(widget)][:4] == ["▶ 'For' (chosen)", "'Certainly'", "'Gladly'", "'Of'"]
        PICTURES.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=PICTURES / "app.png")
        assert page.get_by_role("heading").all_inner_texts() == ["A chat with the small model"]
        browser.close()
    assert [url for url in answered if not url.startswith((address, "data:", "blob:"))] == []
    assert [url for url in refused if url.startswith(address)] == []
    assert [error for error in errors if "Content Security Policy" not in error] == []


def test_the_kernel_of_a_closed_page_ends_and_that_of_an_open_one_does_not(served, chromium):  # noqa: F811
    address, right, said = served

    def alive() -> int:
        return said.read_text().count("Kernel started") - len(re.findall(r"Culling '.*' kernel", said.read_text()))

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        closed, page = browser.new_page(), browser.new_page()
        for each in (closed, page):
            each.goto(f"{address}/?token={right}", timeout=SLOW)
            widget = each.get_by_role("region", name="Chat playground")
            expect(status(widget)).to_have_text("ready")
        assert alive() >= 2
        closed.close()
        deadline = monotonic() + SLOW / 1000
        while alive() > 1 and monotonic() < deadline:
            page.wait_for_timeout(500)
        page.wait_for_timeout(1000 * (IDLE + 5))
        widget.get_by_role("button", name="New chat").click()
        widget.get_by_label("Message").fill("Who are you?")
        widget.get_by_label("Message").press("Enter")
        expect(status(widget)).to_have_text(DONE)
        assert alive() == 1
        browser.close()


def test_how_long_a_kernel_stays_is_said_as_it_is_set():
    minutes = json.loads((APP / "voila.json").read_text())["MappingKernelManager"]["cull_idle_timeout"] / 60
    said = f"ends {minutes:.0f} minutes after"
    assert said in (ROOT / "Makefile").read_text() and said in (APP / "playground.ipynb").read_text()


def test_the_chinese_page_is_the_same_but_for_its_prose():
    """Its prose carries the hash of the English prose that it was translated from, as in notebooks/zh."""
    english, chinese = (json.loads((APP / f"playground{name}.ipynb").read_text()) for name in ("", ".zh-CN"))
    assert "关掉页面10分钟后" in json.dumps(chinese, ensure_ascii=False)
    source = sha256("".join(english["cells"][0]["source"]).strip().encode()).hexdigest()[:10]
    assert chinese["cells"][0]["metadata"].pop("en") == source, "the English prose has changed: translate it again"
    for notebook in (english, chinese):
        notebook["cells"][0]["source"] = notebook["metadata"]["title"] = None
    assert english == chinese


def test_in_chinese_page_and_kernel_speak_it(tmp_path):
    with serving(tmp_path, "MINIMAX_NB_LANGUAGE=zh") as (address, right, _):
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
        with direct.open(f"{address}/?token={right}", timeout=SLOW / 1000) as response:
            html = response.read().decode()
    assert '<html lang="zh">' in html and "<h1" in html
    assert "和小模型聊天" in html and "缓存已修复" in html  # the second is said by load()


def watch_length(element):
    """Keeps the lengths that a text had while it grew; call what is returned to have them."""
    element.evaluate(
        """e => {
            window.lengths = [];
            new MutationObserver(() => window.lengths.push(e.textContent.length))
                .observe(e, {childList: true, characterData: true, subtree: true});
        }"""
    )
    return lambda: element.evaluate("() => [...new Set(window.lengths)]")
