"""MiniMax-Text-01 on Hugging Face Transformers: convert its checkpoint, load it, prove it, talk to it."""

import logging

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

# Transformers imports torchao where it is installed, which then warns of parts that are not used here.
_NOISE = ("Failed to load", "Skipping import of cpp extensions", "register_constant")
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).addFilter(lambda record: not any(part in record.getMessage() for part in _NOISE))
