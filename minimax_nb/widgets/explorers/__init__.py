"""The explorers: change something, and see what follows. One function each, which returns a widget.

The logic of each is a file of its own, tested without a browser and without ipywidgets. `explorer.py` holds
what they share, and `view.py` copies that state into a widget, which `explorer.js` and `explorer.css` draw.
The functions here import late, so that the logic can be had where ipywidgets is not installed.
"""


def head_memory(tokenizer, model=None):
    """How much of each token of a text is left for the last one, by layer and head: tinted, and in figures.

    Without a model the heads are those of MiniMax-Text-01, computed from the formula of their decay. With a
    native model they are its own, and the products q k of the text can be looked at too. ValueError for a
    model without lightning layers.
    """
    from .memory import HeadMemory

    return _widget(HeadMemory(tokenizer, model))


def expert_view(model, tokenizer):
    """Which experts each token of a message and of the model's reply went to, by layer, and how even their use is.

    ValueError for a model without routers.
    """
    from .experts import Experts

    return _widget(Experts(model, tokenizer))


def stepper():
    """Softmax attention computed tile by tile, a step at a time: what is held, what is gone, and that it is exact."""
    from .stepper import Stepper

    return _widget(Stepper())


def planner():
    """What each GPU would hold of MiniMax-Text-01: GPUs, their memory, dtype, context and batch can be set."""
    from .planner import Planner

    return _widget(Planner())


def quiz(number: str):
    """The questions on notebook `number`, from the quiz.toml beside it. Each choice is explained at once.

    In Chinese they are those of quiz.zh.toml; without that file they stay English, and a line says so.
    FileNotFoundError if that file is not in the folder in which this runs, KeyError if it does not know the
    notebook.
    """
    from pathlib import Path

    from .quiz import Quiz, read, spoken

    file = spoken(Path("quiz.toml"))
    return _widget(Quiz(number, read(number, file), file.name))


def config_explorer(source, folder):
    """The repairs of a conversion as switches: what a half-converted config says, and what the model then computes.

    `source` is an original folder, `folder` what `patch_checkpoint` made of it. For small models only,
    because each combination is loaded into memory. The widget's `.explorer` does the same from code:
    `.set(name, on)`, `.start()`, `.wait()`, `.measured`, and `.text` for what is shown.
    """
    from .config import ConfigExplorer

    return _widget(ConfigExplorer(source, folder))


def _widget(explorer):
    from .view import ExplorerView

    return ExplorerView(explorer)
