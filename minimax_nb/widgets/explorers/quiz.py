"""A short quiz: questions with options, each of which says at once why it is right or what it overlooks.

    quiz = Quiz("02", read("02", Path("quiz.toml")))
    quiz.set("1", 2)  # the third option of the first question
    print(quiz.status, quiz.words())

An option may be chosen again as often as one likes. In the file, text in `backquotes` is code.
"""

import re
import tomllib
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from .explorer import Explorer

LETTERS = "abc"


class Question(NamedTuple):
    """What is asked, the letter of the right option, and each option as its text and what is said of it."""

    ask: str
    right: str
    a: list[str]
    b: list[str]
    c: list[str]

    def options(self) -> list[tuple[str, str, str]]:
        """Letter, text, and what is said of it: that it is right and why, or what it overlooks."""
        verdict = {letter: "Right." if letter == self.right else "Not quite." for letter in LETTERS}
        return [(x, getattr(self, x)[0], f"{verdict[x]} {getattr(self, x)[1]}") for x in LETTERS]


def read(number: str, path: Path) -> list[Question]:
    """The questions of notebook `number`. FileNotFoundError or KeyError if there are none."""
    if not path.exists():
        raise FileNotFoundError(f"no {path} in the folder in which this runs: start the notebook from its own folder")
    return [Question(**row) for row in tomllib.loads(path.read_text(encoding="utf-8"))[number]]


class Quiz(Explorer):
    hint = "Tab goes from answer to answer, Enter or the space bar chooses. Choose as often as you like."

    def __init__(self, number: str, questions: Sequence[Question]):
        self.title, self.questions = f"Quiz of notebook {number}", questions
        super().__init__()

    def set(self, name: str, value) -> None:
        """Choose an option, counted from 0, of a question, counted from 1. What is said of it becomes the status."""
        with self._lock:
            options = {str(number): question.options() for number, question in self._numbered()}.get(name, [])
            if value not in range(len(options)):
                return self._say(f"error: no option {value} of question {name}")
            letter, _, said = options[value]
            self.values = self.values | {name: value}
            self._redraw(f"{name} {letter}: {plain(said)} {self.count()}")

    def draw(self) -> str:
        return "".join(self._block(*each) for each in self._numbered()) + f"<p>{self.count()}</p>"

    def words(self) -> str:
        lines = []
        for number, question in self._numbered():
            lines += ["", f"{number}. {plain(question.ask)}"]
            for at, (letter, text, said) in enumerate(question.options()):
                chosen = f" <- {plain(said)}" if self.values.get(str(number)) == at else ""
                lines.append(f"   {letter}) {plain(text)}{chosen}")
        return "\n".join([*lines, "", self.count()])

    def folded(self) -> str:
        """The questions for a page on which nothing can be pressed, with the answers folded below each."""
        return "".join(_folded(*each) for each in self._numbered())

    def count(self) -> str:
        """How many questions are answered, and how many of them rightly now."""
        given = [(self.questions[int(name) - 1], value) for name, value in self.values.items()]
        right = sum(LETTERS[value] == question.right for question, value in given)
        return f"{len(given)} of {len(self.questions)} answered, {right} right."

    def _numbered(self) -> list[tuple[int, Question]]:
        return list(enumerate(self.questions, 1))

    def _block(self, number: int, question: Question) -> str:
        buttons, verdict = "", ""
        for at, (letter, text, said) in enumerate(question.options()):
            chosen = self.values.get(str(number)) == at
            buttons += _button(f"{letter}) {text}", number, at, chosen)
            verdict = f"<p><b>{letter}:</b> {code(said)}</p>" if chosen else verdict
        return f"<fieldset><legend>{number}. {code(question.ask)}</legend>{buttons}{verdict}</fieldset>"


def _button(text: str, number: int, at: int, chosen: bool) -> str:
    """The chosen one has a thick frame, and says to a screen reader that it is pressed."""
    style = f"display:block;margin:0.3em 0;padding:0.2em 0.6em;text-align:left;border:{3 if chosen else 1}px solid"
    state = f'data-name="{number}" data-value="{at}" aria-pressed="{"true" if chosen else "false"}"'
    return f'<button type="button" {state} style="{style}">{code(text)}</button>'


def _folded(number: int, question: Question) -> str:
    options = "".join(f"<br>{letter}) {code(text)}" for letter, text, _ in question.options())
    said = "<br>".join(f"{letter}: {code(said)}" for letter, _, said in question.options())
    answer = f"<details><summary>Answer {number}</summary><p>{said}</p></details>"
    return f"<p><b>{number}. {code(question.ask)}</b>{options}</p>{answer}"


def code(text: str) -> str:
    """HTML of a text."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def plain(text: str) -> str:
    return text.replace("`", "")
