"""What all widgets share: a page made of two files, messages that are checked, and a still picture where no page runs.

    class View(Page):
        _esm, _css = sources(Path(__file__).with_name("explorer"))
        actions = {"set": ("name", "value"), "stop": ()}

A page only draws and asks. All that it shows is in traits. All that it sends is {"do": one of `actions`,
...}, with the arguments that stand there. It sends one thing at a time and waits until it is told that this
one was heard.
"""

import re
import secrets
from collections.abc import Mapping
from pathlib import Path

import anywidget
from IPython.display import display
from traitlets import Dict, Unicode

from ..language import speaking, tag, tr
from .worker import Worker, in_a_line

SHARED = Path(__file__).with_name("page")
VIEW = "application/vnd.jupyter.widget-view+json"
SAID = re.compile(r'\btr\(\s*"([^"]+)"')  # a text that a script says to the reader; it is written as one string


def sources(name: Path) -> tuple[str, str]:
    """JavaScript and styles of a page: page.js and page.css, then its own, `name` with .js and .css."""
    both = SHARED, name
    script, styles = (
        "\n".join(each.with_suffix(kind).read_text(encoding="utf-8") for each in both) for kind in (".js", ".css")
    )
    return script, styles


class Page(anywidget.AnyWidget):
    """A widget that draws a Worker, in its language. A subclass says what may be asked of it, and has `draw`,
    `as_text`, `as_html`, and, where needed, `labels`.
    """

    actions: Mapping[str, tuple[str, ...]] = {}  # methods of the Worker, and the arguments that come with each
    still = Unicode().tag(sync=True)  # by which the page finds its still picture
    language = Unicode().tag(sync=True)  # for its attribute `lang`
    words = Dict().tag(sync=True)  # what its script says: English -> the language of the worker

    def __init__(self, worker: Worker):
        with speaking(worker.language):
            words = {text: tr(text) for text in SAID.findall(self._esm)}
            super().__init__(still=secrets.token_hex(8), language=tag(), words=words, **self.labels(worker))
        self._worker = worker
        self.on_msg(lambda _, message, __: self._hear(message))
        worker.changed = self.draw
        self.draw()

    def labels(self, worker: Worker) -> dict:
        """Traits that are set once: titles and what controls are called."""
        return {}

    def draw(self) -> None:
        """Copy the Worker's state into the traits."""
        raise NotImplementedError

    def _hear(self, message) -> None:
        """Do what the page asks. Whatever comes, the status says what was wrong with it, and the page may go on."""
        try:
            action = message.get("do") if isinstance(message, dict) else None
            names = self.actions.get(action) if isinstance(action, str) else None
            if names is None or any(name not in message for name in names):
                with speaking(self._worker.language):
                    self._worker.refuse(tr("the page asked for something unknown: run this cell again"))
            else:
                getattr(self._worker, action)(*(message[name] for name in names))
        except Exception as error:  # the reader is told: a notebook shows no exception of a callback
            self._worker.refuse(in_a_line(error))
        finally:
            self.send({"heard": True})

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        with speaking(self._worker.language):
            html = self.as_html() if tag() == "en" else f'<div lang="{tag()}">{self.as_html()}</div>'
            return data | {"text/plain": self.as_text(), "text/html": html}, metadata

    def _ipython_display_(self) -> None:
        """Two outputs, the still picture and the page; the page hides the picture while it runs.

        In one output they would exclude each other. nbconvert takes the page wherever it was executed, and a
        page in a file is empty or dead, because no kernel stands behind it.
        """
        data, metadata = self._repr_mimebundle_()
        still = f'<div data-mmnb-still="{self.still}">{data["text/html"]}</div>'
        display({"text/html": still, "text/plain": data["text/plain"]}, raw=True)
        with speaking(self._worker.language):
            instead = tr("The widget itself runs in JupyterLab.")
        display({VIEW: data[VIEW], "text/plain": instead}, metadata=metadata, raw=True)
