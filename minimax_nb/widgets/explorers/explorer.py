"""What explorers share: values that a reader sets, a picture that follows from them, and slow work beside it.

    class Squares(Explorer):
        title, controls = "Squares", (Control("side", "Side", 3, low=1, high=9),)

        def draw(self):
            return f"<p>{self.values['side'] ** 2}</p>"

        def describe(self):
            return f"A square of {self.values['side'] ** 2}."

`draw` and `describe` say the same, one in HTML and one in plain text. Both run at every change, while the
reader waits, so they must be fast. What takes longer than a tenth of a second belongs into `run`, which a
button starts in a thread. `run` yields texts, which become the status, and results, which are handed to
`keep`. It must not change the explorer itself: after a reset it may still be computing, and then its results
are thrown away.
"""

from collections.abc import Iterator
from threading import Event

from ..controls import Control, quoted
from ..worker import Worker, in_a_line


class Explorer(Worker):
    """`values` by the name of their control, and what follows: `picture` (HTML), the same as `text`, `status`.

    A subclass that takes arguments sets what `draw` needs before it calls `super().__init__()`, because that
    draws.
    """

    title = hint = action = ""  # `action` is the label of the button that starts `run`; without one there is no button
    controls: tuple[Control, ...] = ()

    def __init__(self):
        super().__init__()
        self.reset()

    def draw(self) -> str:
        """The picture as HTML. What comes from a reader must be escaped."""
        raise NotImplementedError

    def describe(self) -> str:
        """The picture in plain text, for pages without widgets."""
        raise NotImplementedError

    def summary(self) -> str:
        """The status after a change: one short line, which screen readers read out."""
        return "ready"

    def run(self) -> Iterator:
        """Slow work: yields texts for the status, and anything else for `keep`."""
        raise NotImplementedError

    def keep(self, result) -> None:
        """Put a result of `run` where `draw` looks."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop all results. `reset` calls it, and so does the start."""

    def about(self) -> list[str]:
        """What stands above a still picture: what it is, the values, and the status if it says something of its own."""
        values = [(control.label, self.values[control.name]) for control in self.controls]
        names = {True: "on", False: "off"}
        settings = "; ".join(f"{label}: {names[v] if isinstance(v, bool) else v}" for label, v in values)
        status = [] if self.status in ("ready", "done") else [f"Status: {self.status}"]
        still = f"{self.title}, a still picture. Run this cell in JupyterLab to change what is shown."
        return [still, f"{settings}.", *status]

    def still(self) -> str:
        """The picture for a page on which nothing can be pressed."""
        return self.picture

    def reset(self) -> None:
        """Back to the start. Work on its way is dropped."""
        with self._lock:
            self._drop()
            self.values = {control.name: control.start for control in self.controls}
            self.forget()
            self._redraw()

    def set(self, name: str, value) -> None:
        """Change a value, and draw. A wrong value is refused: the status says why, and the old one stays."""
        with self._lock:
            control = next((each for each in self.controls if each.name == name), None)
            if why := f"nothing is called {quoted(name)}" if control is None else control.problem(value):
                return self.refuse(why)
            self.values = self.values | {name: control.taken(value)}
            self._redraw(self.status if self.busy else None)

    def start(self) -> None:
        """Begin `run` in a thread."""
        with self._lock:
            if self.busy:
                return self._say("still at work: press Stop first")
            self._begin(self._steps, self._take, self._end)
            self._say("at work...")

    def _steps(self, stop: Event) -> Iterator:
        """The steps of `run`, up to the one during which Stop was pressed."""
        for step in self.run():
            yield step
            if stop.is_set():
                return

    def _take(self, step) -> None:
        if isinstance(step, str):
            self._say(step)
        else:
            self.keep(step)
            self._redraw(self.status)

    def _end(self, problem: Exception | None, stopped: bool) -> None:
        self._redraw(in_a_line(problem) if problem else "stopped" if stopped else "done")

    def _redraw(self, status: str | None = None) -> None:
        try:
            self.picture, self.text = self.draw(), self.describe()
            status = status or self.summary()
        except Exception as error:  # an old picture beside new values would be wrong
            self.picture, self.text, status = "", "", in_a_line(error)
        self._say(status)
