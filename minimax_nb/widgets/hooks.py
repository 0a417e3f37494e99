"""Look on while a model computes, without disturbing other threads that use it.

    with watched({model.lm_head: lambda inputs, output: print(output.shape)}):
        model(ids)

A widget's thread and other cells share one model. A hook is on the module and so is called for all of them;
that is why it asks which thread it is in.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import nn


@contextmanager
def watched(modules: Mapping[nn.Module, Callable]) -> Iterator[None]:
    """While it is open, each module's function gets the inputs and the output of every call made by this thread."""
    mine = threading.get_ident()

    def hook(see: Callable) -> Callable:
        return lambda _, inputs, output: see(inputs, output) if threading.get_ident() == mine else None

    with ExitStack() as hooks:
        for module, see in modules.items():
            hooks.enter_context(module.register_forward_hook(hook(see)))
        yield
