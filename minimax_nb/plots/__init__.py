"""The figures of the notebooks: of benchmarks in `plots.bench`, of notebooks 05 and 06 in `lightning` and `decode`."""

from ..lazy import names_from

__getattr__, __dir__, __all__ = names_from(
    __name__, basics="memory rotation parity traps recall next_token tokens STYLES"
)
