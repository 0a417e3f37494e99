"""PyTorch's softmax attention, kept from cuDNN where that costs more than it saves.

On a Hopper GPU PyTorch prefers cuDNN's kernel, which is the fastest for a long prompt. But cuDNN builds a plan for each
shape that it has not met, on the CPU, and while decoding each token is a new shape. So a short query goes to PyTorch's
other kernels, which need no plan. Elsewhere nothing changes: without cuDNN's kernel PyTorch chooses as before. The
figures are in notebooks/results/sdpa_kernels_h200.json, made by benchmarks/sdpa_kernels.py.

    model.set_attn_implementation(register())
"""

import torch
from torch.backends import cuda

NAME = "sdpa_by_length"
LONG = 65536  # new tokens from which cuDNN saves more than its plans cost, one for each GPU that holds a softmax layer


def register() -> str:
    """Make NAME an attention implementation of Transformers, and return it. Masks are those of "sdpa"."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, sdpa_by_length)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def sdpa_by_length(module: torch.nn.Module, query: torch.Tensor, *args, **kwargs):
    """Transformers' sdpa; query: (batch, heads, new tokens, head_dim), the rest as there."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    allowed = cuda.cudnn_sdp_enabled()
    cuda.enable_cudnn_sdp(allowed and query.shape[2] >= LONG)
    try:
        return sdpa_attention_forward(module, query, *args, **kwargs)
    finally:
        cuda.enable_cudnn_sdp(allowed)
