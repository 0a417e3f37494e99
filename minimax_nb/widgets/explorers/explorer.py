"""What explorers share: values that a reader sets, a picture that follows from them, and slow work beside it.

    class Squares(Explorer):
        title, controls = mark("Squares"), (Control("side", mark("Side"), 3, low=1, high=9),)

        def draw(self):
            return f"<p>{self.values['side'] ** 2}</p>"

        def describe(self):
            return tr("A square of {area}.", area=self.values["side"] ** 2)

`draw` and `describe` say the same, one in HTML and one in plain text. Both run at every change, while the
reader waits, so they must be fast. What takes longer than a tenth of a second belongs into `run`, which a
button starts in a thread. `run` yields texts, which become the status, and results, which are handed to
`keep`. It must not change the explorer itself: after a reset it may still be computing, and then its results
are thrown away.
"""

from collections.abc import Iterator
from threading import Event

from ...language import tr
from ..controls import Control, quoted
from ..worker import DONE, ERROR, OTHER, READY, Worker, in_a_line


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
        """The status after a change: one short line, which screen readers read out; "" for nothing but "ready"."""
        return ""

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
        values = [(tr(control.label), control.shown(self.values[control.name])) for control in self.controls]
        settings = tr("; ").join(tr("{name}: {value}", name=name, value=value) for name, value in values)
        status = [] if self.kind in (READY, DONE) else [tr("Status: {status}", status=self.status)]
        still = tr(
            "{title}, a still picture. Run this cell in JupyterLab to change what is shown.", title=tr(self.title)
        )
        return [still, tr("{settings}.", settings=settings), *status]

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
            if why := _unknown(name) if control is None else control.problem(value):
                return self.refuse(why)
            self.values = self.values | {name: control.taken(value)}
            if self.busy:
                self._redraw(self.status, self.kind)
            else:
                self._redraw()

    def start(self) -> None:
        """Begin `run` in a thread."""
        with self._lock:
            if self.busy:
                return self._say(tr("still at work: press Stop first"))
            self._begin(self._steps, self._take, self._end)
            self._say(tr("at work..."))

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
            self._redraw(self.status, self.kind)

    def _end(self, problem: Exception | None, stopped: bool) -> None:
        if problem:
            self._redraw(tr("error: {why}", why=in_a_line(problem)), ERROR)
        elif stopped:
            self._redraw(tr("stopped"))
        else:
            self._redraw(tr("done"), DONE)

    def _redraw(self, status: str | None = None, kind: str = OTHER) -> None:
        """Draw, and say `status`; without one the summary, or that this is ready."""
        try:
            self.picture, self.text = self.draw(), self.describe()
            status = status or self.summary()
        except Exception as error:  # an old picture beside new values would be wrong
            self.picture = self.text = ""
            return self.refuse(in_a_line(error))
        if status:
            self._say(status, kind)
        else:
            self._say(tr("ready"), READY)


def _unknown(name) -> str:
    return tr("nothing is called {name}", name=quoted(name))
