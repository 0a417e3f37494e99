"""In the kernel of an English notebook: each figure is drawn a second time, with its words in Chinese.

    show_both("01_installation.ipynb")      # execute.py does that before the first cell

So both languages show one measurement. The second picture comes with the first, as CHINESE; execute.py takes it away.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import nbformat
from chinese import HERE, SHARED, Words, chinese_code, read_strings, said_by_the_package
from IPython import get_ipython
from IPython.core.formatters import BaseFormatter
from minimax_nb.language import speaking
from traitlets import Unicode

CHINESE = "application/vnd.minimax-nb.chinese-png"


def show_both(name: str) -> None:
    """From here on figures of this kernel, which runs the notebook `name`, come in both languages."""
    shell, strings = get_ipython(), read_strings()
    shared = strings.get(SHARED, {})
    cells = [cell for cell in nbformat.read(HERE / name, 4).cells if cell.cell_type == "code"]
    pairs = {cell.source: chinese_code(cell.source, strings.get(cell.id, {}), shared)[1] for cell in cells}
    spoken = []

    def before_a_cell(about) -> None:
        spoken[:0] = pairs.get(about.raw_cell, [])

    def drawn_in_chinese(figure) -> str:
        with in_chinese(figure, Words([*spoken, *said_by_the_package()])):
            return shell.display_formatter.formatters["image/png"](figure)

    class Chinese(BaseFormatter):
        """Not `for_type(Figure)`: matplotlib takes that out of every formatter when it comes."""

        format_type = Unicode(CHINESE)

        def __call__(self, shown):
            module, name = type(shown).__module__, type(shown).__name__
            return drawn_in_chinese(shown) if (module, name) == ("matplotlib.figure", "Figure") else None

    shell.events.register("pre_run_cell", before_a_cell)
    shell.display_formatter.formatters[CHINESE] = Chinese(parent=shell.display_formatter)


@contextmanager
def in_chinese(figure, words: Words) -> Iterator[None]:
    """The words of a figure in Chinese while it is drawn, in a font that has them; afterwards as they were."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter

    from minimax_nb.plots import fonts

    with speaking("zh"):
        family = fonts.settings().get("font.family")
    texts = figure.findobj(Text)
    axes = [axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)]
    ticks = [each.get_major_formatter() for each in axes]
    ticks = [each for each in ticks if isinstance(each, FixedFormatter)]
    before = [(text, text.get_text(), text.get_fontfamily()) for text in texts]
    labels = [(tick, tick.seq) for tick in ticks]
    try:
        for text, said, its_family in before:
            text.set_text(words.text(said))
            if family and "monospace" not in its_family:
                text.set_fontfamily(family)
        for tick, said in labels:
            tick.seq = [words.text(str(each)) for each in said]
        yield
    finally:
        for text, said, its_family in before:
            text.set_text(said)
            text.set_fontfamily(its_family)
        for tick, said in labels:
            tick.seq = said
