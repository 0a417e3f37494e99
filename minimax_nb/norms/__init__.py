"""RMSNorm and MiniMax's scaled residual, one pass over the data each, in a loaded model in inference.

    use_fused_norms(model)               # "fused" on a CUDA GPU with Triton, else "stock"
    use_fused_norms(model, "stock")      # Transformers' own forward passes again

A layer computes h = norm(x), x = alpha * h + beta * f(h), twice. For a residual and the norm after it stock
runs nine operations, most of them in fp32, and each reads and writes all of the data. Here it is two reads
and one write. The sum stays in fp32 until it is normalised, and the result is rounded once, so it is nearer
to float64 than stock's. For 131,072 tokens at the real width, on an H200, a layer's norms and residuals took
25.1 ms in bf16 and take 3.1 (notebooks/results/experts_h200.json).
"""

BACKENDS = ("auto", "fused", "stock")


def use_fused_norms(model, backend: str = "auto") -> str:
    """Let the decoder layers and the last norm of a native model compute with `backend`; return which it is.

    "fused" is used in each call where it can be: values on an NVIDIA GPU in bf16, fp16 or fp32, no gradients
    needed, not under torch.compile, which fuses these operations by itself. Every other call computes what
    stock does, to the bit. Weights and module tree stay. Works under accelerate's hooks and can be called
    again at any time. ValueError for another backend or a model without native layers, RuntimeError for
    "fused" where it cannot run.
    """
    from .layers import set_backend

    return set_backend(model, backend)
