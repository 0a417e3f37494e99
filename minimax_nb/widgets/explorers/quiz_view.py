"""The quiz as a widget. Where no widgets run, the answers are folded below their questions."""

from html import escape

from .view import ExplorerView


class QuizView(ExplorerView):
    """A widget that asks the questions of a `Quiz`."""

    def as_text(self) -> str:
        """The questions, in plain text."""
        return f"{self._still()} The answers stand in quiz.toml, too.\n{self.explorer.words()}"

    def as_html(self) -> str:
        """Questions and folded answers."""
        return f"<p>{escape(self._still())}</p>{self.explorer.folded()}"

    def _still(self) -> str:
        return f"{self.title}. Run this cell in JupyterLab to choose an answer and be told what it overlooks."
