"""The time below which a forward pass cannot go: what must be read and computed, at the best rates of this device.

    best = rates(torch.device("cuda"), torch.bfloat16)
    floor(model, batch=1, new=1, past=4096, experts=used, state_bytes=4, best=best)     # {"lightning": 0.51, ...}

Weights, keys, values and states are read once, and only of the experts that were chosen; activations are
free. Each kind of layer takes as long as its bytes or its operations, whichever is more, one kind after
another.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..experts.held import size
from .clock import KINDS, Clock, kind_of


def rates(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """What this device reached just now: bytes/s of reading memory, operations/s of a matrix product in `dtype`.

    The best of ten: with them a floor is what nothing on this device goes below.
    """
    clock, gpu = Clock(nn.Module(), device), device.type == "cuda"
    values = torch.ones(10**9 if gpu else 2**26, device=device)  # fp32; beyond any cache
    side = 8192 if gpu else 1024
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    read = min(clock.time(values.sum) for _ in range(10))
    multiply = min(clock.time(lambda: F.linear(a, b)) for _ in range(10))
    return {"read_bytes_s": 1000 * values.nbytes / read, "matrix_ops_s": 1000 * 2 * side**3 / multiply}


def floor(
    model: nn.Module,
    *,
    batch: int,
    new: int,
    past: int,
    experts: dict[nn.Module, int],
    state_bytes: int,
    best: dict[str, float],
) -> dict[str, float]:
    """Milliseconds by kind of layer, for `batch` sequences of `new` tokens on a cache of `past`.

    experts: how many each router chose (clock.experts_used). state_bytes: of one number in a lightning state.
    """
    total, counted = {kind: [0, 0] for kind in KINDS}, set()
    for module in model.modules():
        if kind := kind_of(module):
            found = _WORK[kind](module, batch, new, past, experts, state_bytes)
            total[kind] = [a + b for a, b in zip(total[kind], found, strict=True)]
            counted.update(module.parameters())
    counted.add(model.model.embed_tokens.weight)  # of which a few rows are read
    rest = sum(weight.nbytes for weight in model.parameters() if weight not in counted)
    total["rest"] = [rest, 2 * batch * model.lm_head.weight.numel()]  # the head sees one token a sequence
    speeds = best["read_bytes_s"], best["matrix_ops_s"]
    found = {}
    for kind, amounts in total.items():
        seconds = max(amount / speed for amount, speed in zip(amounts, speeds, strict=True))
        found[kind] = round(1000 * seconds, 4)
    return found


# (bytes, operations) of one layer


def _lightning(layer, batch, new, past, experts, state_bytes) -> tuple[float, float]:
    """A state is updated and read out for each token: 4 operations for each of its numbers."""
    weights, state = _weights(layer), layer.num_attention_heads * layer.head_dim**2
    moved = batch * state * state_bytes * (2 if past else 1)  # written, and read if there was one
    return _item(layer) * weights + moved, batch * new * (2 * weights + 4 * state)


def _softmax(layer, batch, new, past, experts, state_bytes) -> tuple[float, float]:
    """4 operations for each number of a head and each pair of tokens that see each other."""
    weights, pairs = _weights(layer), new * past + new * (new + 1) / 2
    kept = 2 * batch * (past + new) * layer.config.num_key_value_heads * layer.head_dim
    width = layer.config.num_attention_heads * layer.head_dim
    return _item(layer) * (weights + kept), batch * (2 * new * weights + 4 * pairs * width)


def _experts(layer, batch, new, past, experts, state_bytes) -> tuple[float, float]:
    each = _weights(layer.experts) // layer.experts.num_experts
    bytes_each = sum(size(weight) for weight in layer.experts.parameters()) // layer.experts.num_experts
    gate, used = layer.gate.weight.numel(), experts[layer.gate]
    return layer.gate.weight.nbytes + used * bytes_each, 2 * batch * new * (gate + layer.top_k * each)


_WORK = {"lightning": _lightning, "softmax": _softmax, "experts": _experts}


def _weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _item(module: nn.Module) -> int:
    return next(module.parameters()).itemsize
