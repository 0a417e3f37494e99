"""Which backend computes lightning attention: the one asked for, or the fastest that runs on this machine, and why.

"fused" is flash-linear-attention and two kernels of this package, on a CUDA GPU; "torch" is plain PyTorch and runs
everywhere; "stock" is Transformers' own. That the packages of "fused" are installed does not mean that they run: a
compiler may be missing, or Triton may not know the GPU. So their kernels are run once, and compared.
"""

from functools import cache
from typing import NamedTuple

from ..language import mark, tr
from ..terminal import patience
from .fused import has_fused

BACKENDS = ("auto", "fused", "torch", "stock")
EVERYWHERE = "'torch' runs everywhere"


class Sizes(NamedTuple):
    """What the kernels of a model are compiled for; dtype by its name, such as "bfloat16"."""

    heads: int
    head_dim: int
    dtype: str


class Kind(NamedTuple):
    """What kind of rows is trained on: each has kernels of its own."""

    gated: bool  # with pads, at which the decay stands still
    packed: bool  # with documents that begin within them
    short: bool  # RECURRENT tokens at most


def choose(backend: str, on_gpu: bool, sizes: Sizes | None = None) -> str:
    """The backend asked for, "auto" decided. ValueError if unknown, RuntimeError if it cannot run here."""
    if backend not in BACKENDS:
        raise ValueError(f"lightning backend {backend!r} is not one of {', '.join(map(repr, BACKENDS))}")
    if backend in ("torch", "stock"):
        return backend
    fault = why_not_fused(on_gpu, sizes)
    if backend == "fused" and fault:
        raise RuntimeError(f"the fused lightning kernels cannot run here: {fault}; {EVERYWHERE}")
    return "torch" if fault else "fused"


def why_not_fused(on_gpu: bool, sizes: Sizes | None = None) -> str:
    """The reason why "fused" cannot run, or "". With `sizes` its kernels are run, once in a process."""
    import torch

    if not (on_gpu and torch.cuda.is_available()):
        return mark("they need a CUDA GPU")
    if not has_fused():
        return mark("flash-linear-attention is missing, pip install -e '.[fast]'")
    return _fault(sizes) if sizes else ""


def _said_to_compile():
    """Within it, a line says so if it takes long."""
    return patience(tr("trying the lightning kernels: this machine compiles them once, for about a minute"))


@cache
def _fault(sizes: Sizes) -> str:
    """What the kernels raise, or that they compute something else than plain PyTorch; "" if neither."""
    from .proof import largest_error

    try:
        with _said_to_compile():
            error = largest_error(*sizes)
    except Exception as problem:  # whatever a compiler or a driver raises: the model can run without them
        return f"they fail on this machine ({type(problem).__name__}: {str(problem).strip()[:200]})"
    return "" if error < 0.02 else f"they are {error:.0%} off on this machine"


@cache
def trains(sizes: Sizes, kind: Kind) -> bool:
    """Whether the fused kernels have the gradients of plain PyTorch, tried once in a process; if not, a line says so.

    On Hopper with Triton 3.4 to 3.7.0 flash-linear-attention refuses those of gated rows, which Triton compiles wrongly
    there (its issue 640).
    """
    from .proof import gradient_error

    try:
        with _said_to_compile():
            error = gradient_error(*sizes, *kind)
        fault = "" if error < 0.05 else f"their gradients are {error:.0%} off"
    except Exception as problem:  # as in _fault
        fault = f"{type(problem).__name__}: {str(problem).strip()[:200]}"
    if fault:
        rows = "packed rows" if kind.packed else "rows with pads" if kind.gated else "whole rows"
        print(f"{rows} are trained with plain PyTorch's lightning attention: the fused kernels fail here ({fault})")
    return not fault


def described(backend: str, fault: str = "") -> str:
    """The backend in words for the line that load() prints; `fault` is why "fused" was not taken on a GPU."""
    said = tr("{backend} lightning attention", backend=backend)
    if backend in ("fused", "torch"):
        said = tr("{backend} lightning attention, fp32 state", backend=backend)
    return said + (f" ({tr(fault)})" if fault else "")
