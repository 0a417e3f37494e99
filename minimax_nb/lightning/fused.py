"""The fused backend of lightning attention: the kernels of flash-linear-attention, with an fp32 state. CUDA only."""

from functools import cache

import torch
from torch import Tensor

from ..lazy import installed

TUNED = ("chunk_fwd_kernel_h", "chunk_bwd_kernel_dh")  # kernels of which the library has 48 forms to try
RECURRENT = 16  # so many tokens are taken one by one, in one kernel; more in chunks
CHUNK = 64  # tokens a chunk; 128 took 3 % longer on an H200


@cache
def has_fused() -> bool:
    """Whether flash-linear-attention and Triton are installed."""
    return installed("fla", "triton")


@cache
def try_fewer_forms() -> None:
    """Let the library choose among 8 forms of two kernels in place of 48, once in a process.

    Before its first use on a machine it compiles every form, 0.7 s each on an H200's host, once for prompts and once
    more for those that follow others. A chat's second turn stood still for half a minute. How many tokens a program
    takes stays to be chosen; the others have four warps, and two or three stages. These kernels are 1 % of a prompt.
    """
    from fla.ops.common import chunk_h

    for name in TUNED:
        kernel = getattr(chunk_h, name, None)
        while kernel is not None and not hasattr(kernel, "configs"):
            kernel = getattr(kernel, "fn", None)  # the tuner lies within what sets the kernel's flags
        if kernel is not None:
            few = [form for form in kernel.configs if form.num_warps == 4 and form.num_stages in (2, 3)]
            kernel.configs = few or kernel.configs


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor,
    state: Tensor | None,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """As `lightning_attention`, but q, k and v are 0 at pads already."""
    from fla.ops.simple_gla import chunk_simple_gla, fused_recurrent_simple_gla

    try_fewer_forms()
    # The kernels keep states between chunks in the dtype of k, which overflows in fp16; in fp32 they compute in tf32,
    # with as many digits as fp16 and the range of fp32.
    inputs = [x.float() if x.dtype == torch.float16 else x for x in (q, k, v)]
    # One decay for all tokens, or a gate for each: log decay -slope at tokens, 0 at pads. (batch, length, heads)
    decay = {"g_gamma": -slopes} if mask is None else {"g": -slopes * mask[..., None]}
    kernel, more = fused_recurrent_simple_gla, {}
    if q.shape[1] > RECURRENT:
        kernel, more = chunk_simple_gla, {"chunk_size": CHUNK}
    if cu_seqlens is not None:  # the library takes documents in one row
        inputs = [x.flatten(0, 1)[None] for x in inputs]
        out, _ = kernel(*inputs, **decay, scale=1.0, cu_seqlens=cu_seqlens.long(), **more)
        return out.view(q.shape).to(q.dtype), None
    if state is not None:
        state = state.float().contiguous()
    out, state = kernel(*inputs, **decay, scale=1.0, initial_state=state, output_final_state=True, **more)
    return out.to(q.dtype), state
