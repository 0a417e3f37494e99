"""A widget's page in Chromium without Jupyter: its own script and styles, and the Python object answering behind it.

    with opened(chromium, view) as page:
        page.get_by_role("button", name="Reset").click()

`window.free`, where a test sets it to a promise, is a kernel that is busy until then. Nothing but the page is served.
"""

import importlib.util
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright
from test_browser import FLAGS, SLOW

from minimax_nb.plots import fonts

LIGHT = ""
DARK = """:root {
  --jp-layout-color1: #111; --jp-ui-font-color1: #fff; --jp-ui-font-color2: #ccc; --jp-brand-color1: #42a5f5;
  --jp-border-color0: #9e9e9e; --jp-border-color1: #757575; --jp-border-color2: #616161; background: #111;
}"""
# A reader of Chinese has a font for it; a machine that only runs tests takes that of the figures.
CHINESE = """@font-face { font-family: chinese; src: url("font.otf"); font-display: block; }
:root { --jp-ui-font-family: chinese, sans-serif; }"""
PAGE = """\
<!doctype html><meta charset="utf-8"><title>widget</title><style>STYLES</style>
<body><div data-mmnb-still="ID">STILL</div><div id="here"></div>EXTRA<script type="module">
import widget from "./widget.js";
const state = await kernel(null), listeners = {};
const fire = (event) => (listeners[event] ?? []).forEach((call) => call());
const take = (news) => {
  const changed = Object.keys(news).filter((name) => JSON.stringify(news[name]) !== JSON.stringify(state[name]));
  Object.assign(state, news);
  changed.forEach((name) => fire(`change:${name}`));
  if (changed.length) fire("change");
};
const model = {
  get: (name) => state[name],
  on: (event, call) => (listeners[event] ??= []).push(call),
  off: (event, call) => (listeners[event] = listeners[event].filter((each) => each !== call)),
  send: async (asked) => {
    await window.free;
    take(await kernel(asked));
    fire("msg:custom");
  },
};
const away = widget.render({ model, el: document.getElementById("here") });
window.away = () => (away(), document.getElementById("here").replaceChildren());
setInterval(async () => take(await kernel(null)), 100);
</script>"""


@contextmanager
def opened(chromium: str, view, width: int = 1000, theme: str = LIGHT, extra: str = ""):
    """The page of `view`, `width` pixels wide, below its still picture; `extra` is HTML that stands there too."""
    names = [
        name for name in view.trait_names(sync=True) if not name.startswith("_") and name not in ("layout", "tabbable")
    ]
    parts = {"STYLES": theme + view._css, "ID": view.still, "STILL": view.as_html(), "EXTRA": extra}
    page_html = PAGE
    for name, part in parts.items():
        page_html = page_html.replace(name, part, 1)
    files = {"": (page_html, "text/html"), "widget.js": (view._esm, "text/javascript")}

    def kernel(asked: dict | None) -> dict:
        if asked:
            view._handle_custom_msg(asked, [])
        return {name: getattr(view, name) for name in names}

    def serve(route):
        name = route.request.url.rpartition("/")[2]
        if name == "font.otf":
            route.fulfill(path=Path(importlib.util.find_spec(fonts.PACKAGE).origin).with_name(fonts.FILE))
        elif name in files:
            body, kind = files[name]
            route.fulfill(body=body, content_type=f"{kind}; charset=utf-8")
        else:
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(SLOW)
        page.expose_function("kernel", kernel)
        page.route("**/*", serve)
        page.goto("http://widget.test/")
        yield page
        browser.close()
