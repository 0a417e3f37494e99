"""What appears on a terminal: progress of work that takes long enough to wonder, and quiet where it would disturb.

Progress is drawn on terminals only: notebooks, pipes and tests stay silent.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHOWN_FROM = 256 << 20  # bytes: about a second of writing


@contextmanager
def byte_progress(total: int) -> Iterator[Callable[[int], None]]:
    """Yields advance(bytes); draws on stderr when that is a terminal and `total` bytes are many."""
    if total < SHOWN_FROM or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = ("writing", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("writing", total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def row_progress(total: int) -> Iterator[Callable[[int, str], None]]:
    """Yields show(rows done, what is measured now); draws on stderr when that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, now: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda done, now: progress.update(task, completed=done, description=now)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar, and no report of decay buffers that the original never stored and the model rebuilds."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
