"""What appears on a terminal: progress of work that takes long enough to wonder, quiet, and a conversation.

Progress is drawn on terminals only, and pipes and tests stay silent. A notebook sees single lines, as of a long prompt.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from .errors import UsageMistake
from .language import columns, padded, tr

SHOWN_FROM = 256 << 20  # bytes: about a second of writing
PATIENCE = 2.0  # seconds in which nobody wonders


@contextmanager
def byte_progress(total: int) -> Iterator[Callable[[int], None]]:
    """Yields advance(bytes); draws on stderr when that is a terminal and `total` bytes are many."""
    if total < SHOWN_FROM or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    parts = (tr("writing"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*parts, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(tr("writing"), total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def row_progress(total: int) -> Iterator[Callable[[int, str], None]]:
    """Yields show(rows done, what is measured now); draws on stderr when that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, now: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    parts = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*parts, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda done, now: progress.update(task, completed=done, description=now)


@contextmanager
def token_progress(total: int) -> Iterator[Callable[[int], None]]:
    """Yields show(tokens done), which writes a line to stderr after PATIENCE; it is gone at the end.

    One line that is written over, for terminals and notebooks alike.
    """
    stream, began, written = sys.stderr, time.monotonic(), 0

    def show(done: int) -> None:
        nonlocal written
        spent = time.monotonic() - began
        if spent > PATIENCE and done < total:
            left = {"done": f"{done:,}", "total": f"{total:,}", "left": f"{spent * (total - done) / done:.0f}"}
            line = tr("reading the prompt: {done} of {total} tokens, about {left} s left", **left)
            print("\r" + padded(line, written), end="", file=stream, flush=True)
            written = columns(line)

    try:
        yield show if total and _watched(stream) else lambda done: None
    finally:
        if written:
            print("\r" + " " * written + "\r", end="", file=stream, flush=True)


@contextmanager
def patience(text: str) -> Iterator[None]:
    """Within it, `text` stands on stderr from PATIENCE on, for work that cannot say how far it is."""
    stream, done = sys.stderr, threading.Event()

    def tell() -> None:
        if done.wait(PATIENCE):
            return
        print("\r" + text, end="", file=stream, flush=True)
        done.wait()
        print("\r" + " " * columns(text) + "\r", end="", file=stream, flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    if _watched(stream):
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread.ident:
            thread.join()


def _watched(stream: TextIO | None) -> bool:
    """Whether a person may see it: a terminal, or a notebook."""
    return stream is not None and (stream.isatty() or type(stream).__module__.startswith("ipykernel"))


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


class Console:
    """Lines in, replies out. With a terminal on both sides it looks like a conversation.

    In a pipe nothing but replies goes to stdout, and notes go to stderr. A character that stdout's encoding
    does not have is written as its number. UsageMistake if there is no input.
    """

    def __init__(self):
        if sys.stdin is None:
            raise UsageMistake("there is no input to read messages from: run it in a terminal, or pipe them in")
        self._asking = sys.stdin.isatty()
        self.notes = sys.stdout if sys.stdout.isatty() else sys.stderr
        for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors=errors)

    def greet(self, text: str) -> None:
        if self._asking:
            self.note(text)

    def line(self, prompt: str) -> str | None:
        """What the user types, or None at the end of input; nothing, if they press Ctrl-C a moment too late.

        Bytes that are no UTF-8 arrive as halves of characters, which `Chat` refuses.
        """
        try:
            if self._asking and self.notes is sys.stdout:
                return input(prompt)  # the terminal's own line editing knows the prompt
            if self._asking:
                print(prompt, end="", file=self.notes, flush=True)
            return input()
        except EOFError:
            self.greet("")
            return None
        except KeyboardInterrupt:
            self.note("")
            return ""

    def write(self, piece: str) -> None:
        print(piece, end="", flush=True)

    def note(self, text: str) -> None:
        print(text, file=self.notes, flush=True)
