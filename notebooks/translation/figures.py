"""In the kernel of an English notebook: each figure, and each still picture of a widget, comes in Chinese as well.

    show_both("01_installation.ipynb")      # execute.py does that before the first cell

So both languages show one measurement. The Chinese data come with the English ones, as CHINESE; execute.py takes them
away. A figure is drawn again with its words replaced, and a widget again in the other language.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import nbformat
from IPython import get_ipython
from IPython.core.formatters import BaseFormatter
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter
from traitlets import Unicode

from minimax_nb.language import speaking
from minimax_nb.plots import fonts
from minimax_nb.widgets.explorers.explorer import Explorer
from minimax_nb.widgets.page import Page

from .code import SHARED, chinese_code, read_strings
from .outputs import Spoken, Words
from .sections import HERE

CHINESE = "application/vnd.minimax-nb.chinese+json"


def show_both(name: str) -> None:
    """From here on figures of this kernel, which runs the notebook `name`, come in both languages."""
    shell, strings = get_ipython(), read_strings(HERE / "zh" / "strings.toml")
    shared = strings.get(SHARED, {})
    cells = [cell for cell in nbformat.read(HERE / name, 4).cells if cell.cell_type == "code"]
    pairs = {cell.source: chinese_code(cell.source, strings.get(cell.id, {}), shared)[1] for cell in cells}
    spoken, words = Spoken(), Words([])

    def before_a_cell(about) -> None:
        nonlocal words
        if about.raw_cell in pairs:
            words = spoken.words(about.raw_cell, pairs[about.raw_cell])

    def drawn_in_chinese(figure) -> dict[str, str]:
        with in_chinese(figure, words):
            return {"image/png": shell.display_formatter.formatters["image/png"](figure)}

    class Chinese(BaseFormatter):
        """Not `for_type(Figure)`: matplotlib takes that out of every formatter when it comes."""

        format_type = Unicode(CHINESE)

        def __call__(self, shown):
            return drawn_in_chinese(shown) if isinstance(shown, Figure) else None

    shown_in_english = Page._ipython_display_

    def shown_in_both(page: Page) -> None:
        shown_in_english(page)
        display({CHINESE: still_in_chinese(page), "text/plain": ""}, raw=True)

    Page._ipython_display_ = shown_in_both
    shell.events.register("pre_run_cell", before_a_cell)
    shell.display_formatter.formatters[CHINESE] = Chinese(parent=shell.display_formatter)


@contextmanager
def in_chinese(figure, words: Words) -> Iterator[None]:
    """The words of a figure in Chinese while it is drawn, in a font that has them; afterwards as they were."""
    with speaking("zh"):
        family = fonts.settings().get("font.family")
    before = [(text, text.get_text(), text.get_fontfamily()) for text in figure.findobj(Text)]
    axes = [axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)]
    ticks = {each for each in (axis.get_major_formatter() for axis in axes) if isinstance(each, FuncFormatter)}
    labels = {tick: tick.func for tick in ticks}  # what set_xticks makes of a list of labels
    try:
        for text, said, its_family in before:
            text.set_text(words.label(said))
            if family and "monospace" not in its_family:
                text.set_fontfamily(family)
        for tick, said in labels.items():
            tick.func = lambda value, at, said=said: words.label(str(said(value, at)))
        yield
    finally:
        for text, said, its_family in before:
            text.set_text(said)
            text.set_fontfamily(its_family)
        for tick, said in labels.items():
            tick.func = said


def still_in_chinese(page: Page) -> dict[str, str]:
    """What stands for a widget where none runs, with the state that it has now."""
    worker = page._worker
    before = vars(worker).copy()
    with speaking("zh"):
        if isinstance(worker, Explorer):
            worker.picture, worker.text = worker.draw(), worker.describe()
            worker.status = worker.summary() or worker.status
        still = {"text/html": page.as_html(), "text/plain": page.as_text()}
    vars(worker).update(before)
    return still
