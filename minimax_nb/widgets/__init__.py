"""The widgets of the notebooks: one function each, which returns a widget.

    from minimax_nb.widgets import playground

    playground(model, tokenizer)

`playground/` and `explorers/` hold them. The files beside those two are what they share: `worker` runs slow
work in a thread, `controls` checks what a reader sets, `page` puts script and styles together, `markup`,
`tokens` and `hooks` draw tables, draw tokens, and look on while a model computes.
"""

from .explorers import config_explorer, expert_view, head_memory, planner, quiz, stepper
from .playground import playground  # the function takes the place of the package of this name, which stays importable

__all__ = ["config_explorer", "expert_view", "head_memory", "planner", "playground", "quiz", "stepper"]
