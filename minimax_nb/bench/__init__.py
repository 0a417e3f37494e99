"""What prefill and decoding cost: which cases, their times and memory, what is left above the floor, and the file."""

from ..lazy import names_from

__getattr__, __dir__, __all__ = names_from(
    __name__,
    measure="bench building_in random_config random_model model_for model_facts",
    plan="Case Plan cases planned command",
    clock="Clock experts_used operations sdpa_kernels",
    floor="floor rates",
    results="Results versions",
)
