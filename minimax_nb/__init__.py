"""MiniMax-Text-01 on Hugging Face Transformers: convert its checkpoint, load it, prove it, talk to it."""

from .lazy import names_from

__getattr__, __dir__, __all__ = names_from(
    __name__,
    loading="load",
    chat="Chat",
    checkpoint="patch_checkpoint",
    cache="repair_cache",
    lightning="use_lightning",
    demo="demo_checkpoint",
    plan="plan",
)

from .plan import plan  # noqa: E402, F401  # the function takes the place of the module of this name
