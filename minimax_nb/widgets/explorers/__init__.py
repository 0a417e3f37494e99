"""The explorers: change something, and see what follows. One function each, which returns a widget.

The logic of each is a file of its own, tested without a browser and without ipywidgets; `explorer.py` is what they
share. `view.py` copies that state into an anywidget and passes on what the page asks for; `explorer.js` and
`explorer.css` draw it. Functions here import late, so that the logic can be had without the widgets.
"""


def head_memory(tokenizer, model=None):
    """Which tokens of a text still count for its last one, by layer and head: tinted, and in figures.

    Without a model the heads are those of MiniMax-Text-01, by formula; with a native one they are its own, and q and k
    of the text can be looked at too. ValueError for a model without lightning layers.
    """
    from .memory import HeadMemory

    return _explorer(HeadMemory(tokenizer, model))


def expert_view(model, tokenizer):
    """Which experts each token of a message and of the model's reply went to, by layer, and how even their use is.

    ValueError for a model without routers.
    """
    from .experts import Experts

    return _explorer(Experts(model, tokenizer))


def stepper():
    """Softmax attention computed tile by tile, a step at a time: what is held, what is gone, and that it is exact."""
    from .stepper import Stepper

    return _explorer(Stepper())


def quiz(number: str):
    """The questions on notebook `number`, from quiz.toml beside it; what is chosen is explained at once.

    FileNotFoundError if that file is not in the folder in which this runs, KeyError if it does not know the notebook.
    """
    from pathlib import Path

    from .quiz import Quiz, read
    from .quiz_view import QuizView

    return QuizView(Quiz(number, read(number, Path("quiz.toml"))))


def config_explorer(source, folder):
    """Repairs of a conversion as switches: what a half-converted config says, and what the model then computes.

    `source` is an original folder, `folder` what `patch_checkpoint` made of it. For small models: each is held in
    memory. The widget's `.explorer` does the same from code: `.set(name, on)`, `.start()`, `.wait()`, `.measured`.
    """
    from .config import ConfigExplorer

    return _explorer(ConfigExplorer(source, folder))


def _explorer(state):
    from .view import ExplorerView

    return ExplorerView(state)
