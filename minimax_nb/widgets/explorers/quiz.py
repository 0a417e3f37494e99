"""A short quiz: questions with options, each of which says at once why it is right or what it overlooks.

    quiz = Quiz("02", read("02", Path("quiz.toml")))
    quiz.set("1", 2)  # the third option of the first question
    print(quiz.status, quiz.text)

An option may be chosen again as often as one likes. In the file, text in `backquotes` is code.
"""

import logging
import re
import tomllib
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from ...language import current, mark, sentences, tr
from ..controls import quoted
from .explorer import Explorer

LETTERS = "abc"
RIGHT, WRONG = mark("Right."), mark("Not quite.")
MARKS = {RIGHT: ("✓", "#009e73"), WRONG: ("✗", "#d55e00")}  # a mark beside the word, since a colour is not enough


class Option(NamedTuple):
    """One answer: its letter, its text, RIGHT or WRONG, and the reason."""

    letter: str
    text: str
    verdict: str
    reason: str


class Question(NamedTuple):
    """As quiz.toml has it: what is asked, the letter of the right option, and text and reason of each option."""

    ask: str
    right: str
    a: list[str]
    b: list[str]
    c: list[str]

    def options(self) -> list[Option]:
        return [
            Option(letter, text, RIGHT if letter == self.right else WRONG, reason)
            for letter, (text, reason) in zip(LETTERS, (self.a, self.b, self.c), strict=True)
        ]


def read(number: str, path: Path) -> list[Question]:
    """The questions of notebook `number`. FileNotFoundError or KeyError if there are none."""
    if not path.exists():
        raise FileNotFoundError(f"no {path} in the folder in which this runs: start the notebook from its own folder")
    rows = tomllib.loads(path.read_text(encoding="utf-8"))[number]
    return [Question(**{name: row[name] for name in Question._fields}) for row in rows]


def spoken(path: Path) -> Path:
    """quiz.zh.toml beside quiz.toml where Chinese is spoken; quiz.toml itself and a line where there is none."""
    if current() == "en":
        return path
    there = path.with_suffix(f".{current()}.toml")
    if there.exists() or not path.exists():
        return there if there.exists() else path
    logging.getLogger("minimax_nb").warning("no %s beside %s: its questions are in English", there.name, path)
    return path


class Quiz(Explorer):
    """`values` maps the number of each answered question, as text, to the chosen option, counted from 0."""

    hint = mark("Tab goes from answer to answer, Enter or the space bar chooses. Choose as often as you like.")

    def __init__(self, number: str, questions: Sequence[Question], file: str = "quiz.toml"):
        self.title = tr("Quiz of notebook {number}", number=number)
        self._file = file
        self._questions = {str(at): question for at, question in enumerate(questions, 1)}
        super().__init__()

    def set(self, name: str, value: int) -> None:
        """Choose option `value`, counted from 0, of question `name`, counted from 1. The status explains the choice."""
        with self._lock:
            question = self._questions.get(name) if isinstance(name, str) else None
            if question is None or type(value) is not int or value not in range(len(LETTERS)):
                why = tr("no option {option} of question {question}", option=quoted(value), question=quoted(name))
                return self.refuse(why)
            option = question.options()[value]
            self.values = self.values | {name: value}
            self._redraw(f"{name} {option.letter}: {sentences(_explained(option, plain), self.count())}")

    def draw(self) -> str:
        return "".join(self._block(*each) for each in self._questions.items()) + f"<p>{self.count()}</p>"

    def describe(self) -> str:
        lines = []
        for number, question in self._questions.items():
            lines += ["", f"{number}. {plain(question.ask)}"]
            for at, option in enumerate(question.options()):
                chosen = f" <- {_explained(option, plain)}" if self.values.get(number) == at else ""
                lines.append(f"   {option.letter}) {plain(option.text)}{chosen}")
        return "\n".join([*lines, "", self.count(), tr("The answers stand in {file}, too.", file=self._file)])

    def about(self) -> list[str]:
        return [
            tr(
                "{title}. Run this cell in JupyterLab to choose an answer and be told what it overlooks.",
                title=self.title,
            )
        ]

    def still(self) -> str:
        """The questions, with the answers folded below each."""
        return "".join(_folded(*each) for each in self._questions.items())

    def count(self) -> str:
        """How many questions are answered, and how many of them rightly now."""
        chosen = [self._questions[number].options()[at] for number, at in self.values.items()]
        right = sum(option.verdict == RIGHT for option in chosen)
        counts = {"count": len(chosen), "total": len(self._questions), "right": right}
        return tr("{count} of {total} answered, {right} right.", **counts)

    def _block(self, number: str, question: Question) -> str:
        """A group, not a fieldset: the frame of one breaks where its legend is longer than a line."""
        buttons, reason = "", ""
        for at, option in enumerate(question.options()):
            chosen = self.values.get(number) == at
            buttons += _button(number, at, option, chosen)
            if chosen:
                reason = f"<p>{_verdict(option)} {code(option.reason)}</p>"
        name = escape(f"{number}. {plain(question.ask)}")
        ask = f"<p><b>{number}. {code(question.ask)}</b></p>"
        return f'<div role="group" aria-label="{name}" class="mmnb-question">{ask}{buttons}{reason}</div>'


def _button(number: str, at: int, option: Option, chosen: bool) -> str:
    """The chosen one has a thick frame and its mark, and says to a screen reader that it is pressed."""
    tick, colour = MARKS[option.verdict]
    border = f"3px solid {colour}" if chosen else "1px solid"
    style = f"display:block;margin:0.3em 0;padding:0.2em 0.6em;text-align:left;border:{border}"
    state = f'data-name="{number}" data-value="{at}" aria-pressed="{"true" if chosen else "false"}"'
    sign = f'<span aria-hidden="true">{tick} </span>' if chosen else ""
    return f'<button type="button" {state} style="{style}">{sign}{option.letter}) {code(option.text)}</button>'


def _verdict(option: Option) -> str:
    tick, colour = MARKS[option.verdict]
    frame = f"border-left:3px solid {colour};padding-left:0.4em"
    return f'<b style="{frame}"><span aria-hidden="true">{tick}</span> {option.letter}: {tr(option.verdict)}</b>'


def _folded(number: str, question: Question) -> str:
    options = "".join(f"<br>{option.letter}) {code(option.text)}" for option in question.options())
    reasons = "<br>".join(f"{each.letter}: {_explained(each, code)}" for each in question.options())
    summary = tr("Answer {number}", number=number)
    answer = f"<details><summary>{summary}</summary><p>{reasons}</p></details>"
    return f"<p><b>{number}. {code(question.ask)}</b>{options}</p>{answer}"


def _explained(option: Option, drawn: Callable[[str], str]) -> str:
    return sentences(tr(option.verdict), drawn(option.reason))


def code(text: str) -> str:
    """HTML of a text in which backquotes mark code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def plain(text: str) -> str:
    return text.replace("`", "")
