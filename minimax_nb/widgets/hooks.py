"""Looking on while a model computes, without being in the way of other threads that use it.

    with watched({model.lm_head: lambda inputs, output: print(output.shape)}):
        model(ids)

A widget's thread and other cells share one model: hooks are on the module for all, so they ask who calls.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import nn


@contextmanager
def watched(modules: Mapping[nn.Module, Callable]) -> Iterator[None]:
    """Within it, each module's function is called with its inputs and its output, for calls of this thread alone."""
    mine = threading.get_ident()

    def hook(see: Callable) -> Callable:
        return lambda _, inputs, output: see(inputs, output) if threading.get_ident() == mine else None

    with ExitStack() as hooks:
        for module, see in modules.items():
            hooks.enter_context(module.register_forward_hook(hook(see)))
        yield
