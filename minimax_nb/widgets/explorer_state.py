"""The logic that explorers share: values that controls set, a picture drawn from them, and slow work beside it.

    class Squares(Explorer):
        title, controls = "Squares", (Control("side", "Side", 3, low=1, high=9),)

        def draw(self):
            return f"<p>{self.values['side'] ** 2}</p>"

        def words(self):
            return f"A square of {self.values['side'] ** 2}."

`draw` and `words` say the same, in HTML and in plain text, and are fast: they run at every change. What takes longer
than a tenth of a second goes into `run`, which a button starts in a thread. It yields words for the status; between two
of them Stop is obeyed. Nothing raises for what a reader does: `status` says what is going on or went wrong.
"""

import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Control(NamedTuple):
    """One value. A bool is a switch, a text a text field, one of `options` a list, a number with two ends a slider."""

    name: str
    label: str
    start: bool | int | float | str
    low: float | None = None
    high: float | None = None
    step: float = 1
    options: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        if isinstance(self.start, bool):
            return "switch"
        if self.options:
            return "list"
        return "text" if isinstance(self.start, str) else "slider" if self.high is not None else "number"

    def problem(self, value) -> str:
        """Why `value` cannot be taken, or nothing."""
        if self.kind in ("slider", "number"):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            high = float("inf") if self.high is None else self.high
            if not (number and self.low <= value <= high and (value == int(value) or self.step % 1)):
                ends = f"from {self.low:g} on" if self.high is None else f"from {self.low:g} to {self.high:g}"
                return f"{self.label} is {'empty' if value is None else value}: give a number {ends}"
        elif not isinstance(value, type(self.start)) or (self.options and value not in self.options):
            return f"{self.label} cannot be {value!r}"
        return ""


class Explorer:
    """What an explorer shows: `values`, `picture` (HTML), `status`, `busy`. `changed` is called after each change."""

    title = hint = action = ""  # `action` is the label of the button for `run`; without one there is no button
    controls: tuple[Control, ...] = ()

    def __init__(self):
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.changed: Callable[[], None] = lambda: None
        self.reset()

    def draw(self) -> str:
        """The picture as HTML. What comes from a reader must be escaped."""
        raise NotImplementedError

    def words(self) -> str:
        """The picture in plain text, for pages without widgets."""
        raise NotImplementedError

    def run(self) -> Iterator[str]:
        """Slow work: yields words for the status, and leaves what it found where `draw` looks."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what `run` has found: called by `reset`."""

    @property
    def busy(self) -> bool:
        return self._thread is not None

    def reset(self) -> None:
        """Back to the start. Work on its way is left to end by itself, unseen."""
        with self._lock:
            self._stop.set()
            self._thread, self.values = None, {control.name: control.start for control in self.controls}
            self.picture = ""
            self.forget()
            self._redraw("ready")

    def set(self, name: str, value) -> None:
        """Change a value and draw. A wrong one is told in the status and not taken."""
        with self._lock:
            control = next((each for each in self.controls if each.name == name), None)
            if why := f"nothing is called {name}" if control is None else control.problem(value):
                return self._say(f"error: {why}")
            if control.kind == "slider" and not control.step % 1:
                value = int(value)
            self.values = self.values | {name: value}
            self._redraw(self.status if self.busy else "ready")

    def start(self) -> None:
        """Begin `run` in a thread."""
        with self._lock:
            if self.busy:
                return self._say("still at work: press Stop first")
            self._stop, thread = threading.Event(), threading.Thread(target=self._work, daemon=True)
            self._thread = thread
            self._say("at work...")
            thread.start()

    def stop(self) -> None:
        """End `run` at its next step."""
        with self._lock:
            if self.busy:
                self._stop.set()
                self._say("stopping...")

    def wait(self, timeout: float | None = None) -> None:
        """Until `run` has ended, or `timeout` seconds have passed."""
        if thread := self._thread:
            thread.join(timeout)

    def _work(self) -> None:
        thread, stop = threading.current_thread(), self._stop
        said = "done"
        try:
            for words in self.run():
                with self._lock:
                    if thread is not self._thread:  # reset: nobody looks any more
                        return
                    if stop.is_set():
                        said = "stopped"
                        break
                    self._say(words)
        except Exception as error:  # it goes where the reader looks: a thread's own would be lost
            said = f"error: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        with self._lock:
            if thread is self._thread:
                self._thread = None
                self._redraw(said)

    def _redraw(self, status: str) -> None:
        try:
            self.picture = self.draw()
        except Exception as error:
            status = f"error: {type(error).__name__}: {error}"
        self._say(status)

    def _say(self, status: str) -> None:
        self.status = status
        self.changed()
