"""PyTorch's softmax attention for prompts of any length: no mask in memory, and cuDNN's kernel where it pays.

    model.set_attn_implementation(register())

Transformers' "sdpa" makes a mask of (new tokens, all tokens) where tokens follow others in a cache, and where there
are pads. With a mask it also repeats keys and values for each head. For 16,384 tokens that follow a million, at
Text-01's width in bf16, that is 16 GB and 34 GB. Neither is needed. Without pads the mask is the lower right corner of
a causal attention, which needs no tensor (`lower_right`). And a row without its pads is such a corner again (`padded`).

On a Hopper GPU PyTorch prefers cuDNN's kernel, which is the fastest for a long prompt. But cuDNN builds a plan for
each shape that it has not met, on the CPU, and while decoding each token is a new shape. So a short query goes to
PyTorch's other kernels, which need no plan. The figures are in notebooks/results/sdpa_kernels_h200.json, made by
benchmarks/sdpa_kernels.py. A piece of 24,576 tokens after 98,304 took 153 ms in parts by cuDNN, and 273 ms in one call
without it (an H200, notebooks/results/long_prompts_h200.json).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends import cuda
from torch.nn.attention import SDPBackend
from torch.nn.attention.bias import causal_lower_right

NAME = "sdpa_by_length"
LONG = 65536  # new tokens from which cuDNN saves more than its plans cost, one for each GPU with a softmax layer
LONG_PIECE = 16384  # the same for a piece that follows others: its plans serve the next ones
PAIRS = 1 << 24  # of tokens, over all rows, up to which a mask is made: 16 MB of bool
AGREES = 0.02  # relative error in half precision, beyond which cuDNN's sums are not trusted


def register() -> str:
    """Make NAME an attention implementation of Transformers, and return it."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, sdpa_by_length)
    AttentionMaskInterface.register(NAME, mask_by_length)
    return NAME


def mask_by_length(batch_size: int, q_length: int, kv_length: int, **kwargs) -> Tensor | None:
    """The mask for `sdpa_by_length`: None if plainly causal, (batch, kv_length) where only pads are to be left out.

    Where it is small, or anything else, it is Transformers' own for sdpa. Arguments are those of its mask functions.
    """
    from transformers.masking_utils import causal_mask_function, prepare_padding_mask, sdpa_mask
    from transformers.utils import is_tracing

    mask, offset = kwargs.get("attention_mask"), kwargs.get("q_offset", 0)
    plain = kwargs.get("mask_function", causal_mask_function) is causal_mask_function
    plain = plain and kwargs.get("allow_is_causal_skip", True) and kwargs.get("local_size") is None
    at_end = not isinstance(offset, Tensor) and offset + q_length == kv_length
    if plain and at_end and not is_tracing(mask):
        mask = prepare_padding_mask(mask, kv_length, kwargs.get("kv_offset", 0))
        if mask is None or bool(mask.all()):
            return None
        if batch_size * q_length * kv_length > PAIRS:
            return mask[:, :kv_length]
    return sdpa_mask(batch_size=batch_size, q_length=q_length, kv_length=kv_length, **kwargs)


def sdpa_by_length(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Transformers' sdpa; query: (batch, heads, new tokens, head_dim), the rest as there.

    attention_mask may also be (batch, all tokens), False at pads.
    """
    from transformers.integrations import sdpa_attention

    new, known = query.shape[2], key.shape[2]
    if attention_mask is not None and attention_mask.ndim == 2:
        return padded(query, key, value, attention_mask, scaling).transpose(1, 2).contiguous(), None
    if attention_mask is None and 1 < new < known:
        if not dropout:
            return lower_right(query, key, value, scaling).transpose(1, 2).contiguous(), None
        attention_mask = torch.ones(new, known, dtype=torch.bool, device=query.device).tril(known - new)
    with _cudnn(new >= LONG):
        how = {"dropout": dropout, "scaling": scaling, **kwargs}
        return sdpa_attention.sdpa_attention_forward(module, query, key, value, attention_mask, **how)


def padded(query: Tensor, key: Tensor, value: Tensor, real: Tensor, scale: float | None = None) -> Tensor:
    """As `lower_right` for rows with pads. real: (batch, all tokens), False at pads, wherever they stand.

    A row at a time, without its pads; their out is 0. Where its tokens stand together, nothing is copied.
    """
    new, out = query.shape[2], torch.zeros_like(query)
    for row, (old, now) in enumerate(zip(real, real[:, -new:], strict=True)):
        seen, asking = _places(old), _places(now)
        if asking is not None:
            alone = slice(row, row + 1)
            parts = query[alone][:, :, asking], key[alone][:, :, seen], value[alone][:, :, seen]
            out[row][:, asking] = lower_right(*parts, scale)[0]
    return out


def lower_right(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Causal attention of the last tokens of a row to all of them, without a mask in memory.

    query: (batch, heads, new, head_dim). key, value: (batch, KV heads, all, head_dim), the new tokens at the end.
    Returns out, like query.
    """
    new, known = query.shape[2], key.shape[2]
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    if not needs_gradient:
        if new >= LONG_PIECE and known > new and _cudnn_holds(query, key):
            return in_parts(query, key, value, scale, by_cudnn, new)  # of one shape, so of one plan
        if query.device.type == "cpu":
            return in_parts(query, key, value, scale, _on_cpu, known)
    with _cudnn(new == known and new >= LONG):
        if query.is_cuda:
            return _corner(query, key, value, scale)
        outs, past = [], known - new
        size = max(1, PAIRS // known)  # so many new tokens at a time, for here a mask is made
        for start in range(0, new, size):
            stop = min(start + size, new)
            seen = slice(0, past + stop)
            outs.append(_corner(query[:, :, start:stop], key[:, :, seen], value[:, :, seen], scale))
        return torch.cat(outs, 2)


def in_parts(query: Tensor, key: Tensor, value: Tensor, scale: float | None, attend: Callable, size: int) -> Tensor:
    """`lower_right` as a sum over parts of the keys: the new tokens' own, and those before in parts of `size`.

    attend(query, key, value, causal, scale) gives for one part its out, and the logarithm of the sum of exp(score),
    (batch, heads, new). These logarithms say how much of the whole a part is (arXiv 2205.14135, section 3.1).
    """
    past = key.shape[2] - query.shape[2]
    out, sums = attend(query, key[:, :, past:], value[:, :, past:], True, scale)
    total = out.to(sums.dtype)
    for start in range(0, past, size):
        part = slice(start, min(start + size, past))
        out, more = attend(query, key[:, :, part], value[:, :, part], False, scale)
        both = torch.logaddexp(sums, more)
        total.mul_((sums - both).exp_()[..., None]).addcmul_(out, (more - both).exp_()[..., None])
        sums = both
    return total.to(query.dtype)


# What PyTorch's operators give of one part


def _on_cpu(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> tuple:
    operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return operator(query, key, value, 0.0, causal, scale=scale)


def by_cudnn(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> tuple:
    operator = torch.ops.aten._scaled_dot_product_cudnn_attention
    out, sums, *_ = operator(query, key, value, None, True, 0.0, causal, False, scale=scale)
    return out, sums.squeeze(-1) if sums.ndim == 4 else sums


def _corner(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """In one call, or one for each KV head where the kernel wants as many of them as heads."""
    kv_heads, corner = key.shape[1], causal_lower_right(query.shape[2], key.shape[2])
    grouped = query.shape[1] != kv_heads
    if not grouped or not query.is_cuda or knows_corners(query, key, value):
        return F.scaled_dot_product_attention(query, key, value, corner, scale=scale, enable_gqa=grouped)
    outs = []
    for part, head in zip(query.chunk(kv_heads, 1), range(kv_heads), strict=True):
        shared = (x[:, head : head + 1].expand(-1, part.shape[1], -1, -1) for x in (key, value))
        outs.append(F.scaled_dot_product_attention(part, *shared, corner, scale=scale))
    return torch.cat(outs, 1)


def knows_corners(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether FlashAttention can run, which knows groups of heads and the lower right corner."""
    return cuda.can_use_flash_attention(cuda.SDPAParams(query, key, value, None, 0.0, False, True))


def _cudnn_holds(query: Tensor, key: Tensor) -> bool:
    """Whether cuDNN is what PyTorch takes for a long prompt here, and its parts were seen to add up."""
    if not query.is_cuda:
        return False
    as_long = query[:, : key.shape[1]]  # the choice depends on sizes alone
    choice = torch._fused_sdp_choice(query, as_long, as_long, None, 0.0, True, enable_gqa=True)
    if choice != SDPBackend.CUDNN_ATTENTION.value:  # SDPBackend(choice) is equal to a member, but never is one
        return False
    return _adds_up(query.device, query.dtype, query.shape[1], key.shape[1], query.shape[3])


@cache
@torch.inference_mode()
def _adds_up(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int) -> bool:
    """Compare the parts with one call of another kernel, once in a process, on 128 tokens that follow 320."""
    generator = torch.Generator(device).manual_seed(0)
    made = partial(torch.randn, device=device, dtype=dtype, generator=generator)
    query = made(1, heads, 128, head_dim)
    key, value = made(2, 1, kv_heads, 448, head_dim)
    try:
        with _cudnn(False):
            want = _corner(query, key, value, None).float()
        got = in_parts(query, key, value, None, by_cudnn, 128).float()
    except RuntimeError:  # no plan for this GPU or these sizes, an operator that has changed
        return False
    return bool((got - want).norm() <= AGREES * want.norm())


@contextmanager
def _cudnn(allowed: bool) -> Iterator[None]:
    """Within it PyTorch may pick cuDNN's kernel only if `allowed`, and if it might before."""
    before = cuda.cudnn_sdp_enabled()
    cuda.enable_cudnn_sdp(before and allowed)
    try:
        yield
    finally:
        cuda.enable_cudnn_sdp(before)


def _places(real: Tensor) -> slice | Tensor | None:
    """Where a row's tokens are: a slice if they stand together, else their indices; None if there are none."""
    found = real.nonzero()[:, 0]
    if not len(found):
        return None
    first, last = found[[0, -1]].tolist()
    return slice(first, last + 1) if last - first + 1 == len(found) else found
