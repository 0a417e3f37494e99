"""Progress on the terminal for work that takes long enough to wonder; silent in notebooks, pipes and tests."""

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
