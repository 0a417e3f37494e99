"""The figures of the notebooks. Those of benchmarks are in `plots.bench`, those of notebooks 05 and 06 in `lightning` and `decode`."""

from ..lazy import names_from

__getattr__, __dir__, __all__ = names_from(
    __name__, basics="memory rotation parity traps recall next_token tokens STYLES"
)
