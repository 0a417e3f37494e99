"""Slow work beside a page that stays usable: one thread, one line of status, Stop. Base of playground and explorers.

    class Counter(Worker):
        def start(self):
            with self._lock:
                self._begin(lambda stop: iter("abc"), each=self._say, end=lambda error, stopped: self._say("done"))

Here is what all of them promise. A call returns at once, because only `wait` waits. Nothing is raised for
what a reader does, because a reader looks at the page: `status` says what is going on, or what went wrong.
And work that was dropped, by a reset or by a new chat, changes nothing any more, even if it still runs.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple

from ..language import current, speaking, tr

READY, DONE, ERROR, OTHER = "ready", "done", "error", "other"  # kinds of status


class Job(NamedTuple):
    """Work on its way. `stop` is set when a reader presses Stop; the work looks at it when it can."""

    thread: threading.Thread
    stop: threading.Event


class SpokenLock:
    """A lock that a thread may take again, and whose holder speaks one language, whoever it is."""

    def __init__(self, language: str):
        self._lock, self._language = threading.RLock(), language
        self._held: list[AbstractContextManager] = []

    def __enter__(self) -> None:
        self._lock.acquire()
        self._held.append(speaking(self._language))
        self._held[-1].__enter__()

    def __exit__(self, *problem) -> None:
        self._held.pop().__exit__(*problem)
        self._lock.release()


class Worker:
    """State with a `status` and at most one piece of work at a time.

    `changed` is called after each change, from any thread. The lock is held meanwhile, so calls never
    overlap. All of it speaks the language in which it was made, in threads and after a change of language too.
    `kind` says of what kind the status is, because its words depend on the language.
    """

    def __init__(self):
        self.language = current()
        self._lock = SpokenLock(self.language)
        self._job: Job | None = None
        self.status, self.kind = "", OTHER
        self.changed: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        return self._job is not None

    def stop(self) -> None:
        """Ask the work to end early. It does so at its next step, and what it has found by then is kept."""
        with self._lock:
            if self._job:
                self._job.stop.set()
                self._say(tr("stopping..."))

    def wait(self, timeout: float | None = None) -> None:
        """Until the work has ended, or `timeout` seconds have passed."""
        if job := self._job:
            job.thread.join(timeout)

    def refuse(self, why: str) -> None:
        """Say in the status why something was not done."""
        with self._lock:
            self._say(tr("error: {why}", why=why), ERROR)

    def _begin(
        self,
        work: Callable[[threading.Event], Iterable],
        each: Callable[[object], None],
        end: Callable[[Exception | None, bool], None],
    ) -> None:
        """Start a thread that goes through `work(stop)`. The caller holds the lock, and nothing else is at work.

        Both callbacks are called with the lock held, and not for work that was dropped: `each` with every
        step, `end` with the exception that ended the work, or None, and with whether Stop was pressed.
        """
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(work, stop, each, end), daemon=True)
        thread.start()  # it waits for the lock before it touches anything
        self._job = Job(thread, stop)

    def _drop(self) -> None:
        """Let go of the work. It is told to end, and whatever it still finds is thrown away."""
        if self._job:
            self._job.stop.set()
            self._job = None

    def _run(self, work, stop, each, end) -> None:
        problem = None
        try:
            with speaking(self.language):
                for step in work(stop):
                    with self._lock:
                        if self._dropped(stop):
                            return
                        each(step)
        except Exception as error:  # the reader is told: what a thread raises, nobody would see
            problem = error
        with self._lock:
            if not self._dropped(stop):
                self._job = None
                end(problem, stop.is_set())

    def _dropped(self, stop: threading.Event) -> bool:
        """Whether the work with this `stop` is no longer the current one."""
        return self._job is None or self._job.stop is not stop

    def _say(self, status: str, kind: str = OTHER) -> None:
        self.status = status.encode("utf-8", "replace").decode()  # half a character could not be sent to the page
        self.kind = kind
        self.changed()


def in_a_line(error: Exception) -> str:
    """An exception for a status. Its type is left out for a ValueError: those are written to be read."""
    first_line = str(error).strip().partition("\n")[0]
    return first_line if isinstance(error, ValueError) else f"{type(error).__name__}: {first_line}"
