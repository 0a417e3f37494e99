"""Names that a package hands on from its modules, which are imported when one of the names is first asked for.

    __getattr__, __dir__, __all__ = names_from(__name__, operator="slopes lightning_attention", layer="use_lightning")

So importing a package costs nothing, and nobody needs to know in which of its files a name lives (PEP 562).
"""

import importlib
import importlib.util
from collections.abc import Callable


def names_from(package: str, **modules: str) -> tuple[Callable, Callable, list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package; `modules` maps each of its modules to its names."""
    home = {name: module for module, names in modules.items() for name in names.split()}

    def get(name: str):
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{home[name]}"), name)

    return get, lambda: sorted(home), sorted(home)


def installed(*packages: str) -> bool:
    """Whether all of them could be imported. Nothing is: importing Triton or torchao takes a while."""
    return all(importlib.util.find_spec(name) is not None for name in packages)
