"""The logic that explorers share: values that controls set, a picture drawn from them, and slow work beside it.

    class Squares(Explorer):
        title, controls = "Squares", (Control("side", "Side", 3, low=1, high=9),)

        def draw(self):
            return f"<p>{self.values['side'] ** 2}</p>"

        def words(self):
            return f"A square of {self.values['side'] ** 2}."

`draw` and `words` say the same, in HTML and in plain text, and are fast: they run at every change, where the reader
waits for them. What takes longer than a tenth of a second goes into `run`, which a button starts in a thread. It yields
words for the status, and what it finds, which is given to `keep`; between two of them Stop is obeyed. Nothing raises
for what a reader does: `status` says what is going on or went wrong.

`run` shares the explorer with everyone else. It takes `self.values` once, at its start, and changes nothing itself:
after a reset it may still be computing, and then what it finds is dropped.
"""

import threading
from collections.abc import Callable, Iterator

from ..controls import Control


class Explorer:
    """What an explorer shows: `values`, `picture` (HTML) and the same as `text`, `status`, `busy`.

    `changed` is called after each change, from any thread and one call at a time. A subclass that takes arguments sets
    what `draw` needs before it calls `super().__init__()`, which draws.
    """

    title = hint = action = ""  # `action` is the label of the button for `run`; without one there is no button
    controls: tuple[Control, ...] = ()

    def __init__(self):
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self.changed: Callable[[], None] = lambda: None
        self.reset()

    def draw(self) -> str:
        """The picture as HTML. What comes from a reader must be escaped."""
        raise NotImplementedError

    def words(self) -> str:
        """The picture in plain text, for pages without widgets."""
        raise NotImplementedError

    def told(self) -> str:
        """The status after a change, in a line: screen readers read it out."""
        return "ready"

    def run(self) -> Iterator:
        """Slow work: yields texts for the status, and anything else for `keep`."""
        raise NotImplementedError

    def keep(self, found) -> None:
        """Put what `run` has found where `draw` looks."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what was kept: called by `reset`, and at the start."""

    @property
    def busy(self) -> bool:
        return self._thread is not None

    def reset(self) -> None:
        """Back to the start. Work on its way ends by itself at its next step, unseen."""
        with self._lock:
            self._thread, self.values = None, {control.name: control.start for control in self.controls}
            self.forget()
            self._redraw()

    def set(self, name: str, value) -> None:
        """Change a value and draw. A wrong one is told in the status and not taken."""
        with self._lock:
            control = next((each for each in self.controls if each.name == name), None)
            if why := f"nothing is called {name}" if control is None else control.problem(value):
                return self._say(f"error: {why}")
            self.values = self.values | {name: int(value) if control.whole else value}
            self._redraw(self.status if self.busy else None)

    def start(self) -> None:
        """Begin `run` in a thread."""
        with self._lock:
            if self.busy:
                return self._say("still at work: press Stop first")
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._work, args=(self._stop,), daemon=True)
            self._say("at work...")
            self._thread.start()

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

    def _work(self, stop: threading.Event) -> None:
        said = "done"
        try:
            for news in self.run():
                with self._lock:
                    if threading.current_thread() is not self._thread:  # reset: nobody looks any more
                        return
                    if isinstance(news, str):
                        self._say(news)
                    else:
                        self.keep(news)
                        self._redraw(self.status)
                    if stop.is_set():
                        said = "stopped"
                        break
        except Exception as error:  # it goes where the reader looks: a thread's own would be lost
            said = _trouble(error)
        with self._lock:
            if threading.current_thread() is self._thread:
                self._thread = None
                self._redraw(said)

    def _redraw(self, status: str | None = None) -> None:
        try:
            self.picture, self.text = self.draw(), self.words()
            status = status or self.told()
        except Exception as error:  # an old picture beside new values would be wrong
            self.picture, self.text, status = "", "", _trouble(error)
        self._say(status)

    def _say(self, status: str) -> None:
        self.status = status
        self.changed()


def _trouble(error: Exception) -> str:
    return f"error: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
