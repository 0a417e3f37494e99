"""The figures of the notebooks.

Of benchmarks in `plots.bench`, of notebooks 05 to 07 in `lightning`, `decode` and `scaling`.
"""

from ..lazy import names_from

__getattr__, __dir__, __all__ = names_from(
    __name__, basics="memory rotation parity traps recall next_token tokens STYLES"
)
