"""Lightning attention, exact in half precision and fast: the operator, and how it gets into a loaded model.

out, state = lightning_attention(q, k, v, slopes(64, layer=0, layers=80))
use_lightning(model)             # "fused" on a CUDA GPU with flash-linear-attention, else "torch"
"""

from ..lazy import names_from

__getattr__, __dir__, __all__ = names_from(
    __name__,
    operator="slopes lightning_attention",
    backends="BACKENDS choose described",
    fused="has_fused",
    layer="use_lightning",
)
