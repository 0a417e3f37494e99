"""The playground: a chat in the page, with the sampling settings beside it and what each token could have been."""


def playground(model, tokenizer, system: str | None = None):
    """A chat with `model` whose replies stream into the page, and the sampling settings beside it.

    `system` is the system prompt at the start and after a reset. Replies are written by a thread, so other
    cells can run meanwhile. The widget's `.playground` does the same from code: `.send(text)`, `.wait()`,
    `.messages`, and `.look(3)`, `.candidates` for what else a token could have been. ValueError if the
    tokenizer has no chat template.
    """
    from .state import Playground
    from .view import PlaygroundView

    return PlaygroundView(Playground(model, tokenizer, system))
