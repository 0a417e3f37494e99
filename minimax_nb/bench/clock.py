"""Milliseconds of a model's call, whole and by kind of layer; which experts and which attention kernel it used.

On one GPU time is taken between CUDA events, on several after waiting for all of them, on a CPU with
perf_counter. Hooks are on a model only while its call is split, so whole times are those of the bare model.

    Clock(model).measure(lambda: model(ids), repeats=5)     # {"ms": 41.2, ..., "kinds": {"lightning": 9.1, ...}}
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend
from torch.nn.attention.bias import CausalBias
from torch.profiler import ProfilerActivity, profile, record_function
from transformers.models.minimax.modeling_minimax import (
    MiniMaxAttention,
    MiniMaxLightningAttention,
    MiniMaxSparseMoeBlock,
    MiniMaxTopKRouter,
)

from .. import attention

KINDS = ("lightning", "softmax", "experts", "rest")  # rest: norms, residuals, embedding, head, and Python
CLASSES = dict(zip(KINDS, (MiniMaxLightningAttention, MiniMaxAttention, MiniMaxSparseMoeBlock), strict=False))
WHOLE = "minimax_nb: the whole call"
SLOW = 1000  # milliseconds; a call beyond it is repeated 3 times at most


class Clock:
    """Times calls that run on the devices of `model`, or on `device`."""

    def __init__(self, model: nn.Module, device: torch.device | None = None):
        devices = {device} if device else {p.device for p in model.parameters() if p.device.type != "meta"}
        self.model = model
        self.on_gpu = any(device.type == "cuda" for device in devices)
        self.events = self.on_gpu and len(devices) == 1

    def measure(self, call: Callable, repeats: int) -> dict:
        """Median, least and most milliseconds of `repeats` calls, and of some more the median of each kind of layer."""
        first = self.time(call)
        repeats, splits = (repeats, min(repeats, 3)) if first < SLOW else (min(repeats, 3), 1)
        whole = [first, *(self.time(call) for _ in range(repeats - 1))]
        parts = [self.split(call) for _ in range(splits)]
        found = {"ms": median(whole), "least_ms": min(whole), "most_ms": max(whole)}
        kinds = {kind: round(median(part[kind] for part in parts), 4) for kind in KINDS}
        return {name: round(ms, 4) for name, ms in found.items()} | {"repeats": repeats, "kinds": kinds}

    def time(self, call: Callable) -> float:
        start = self.now()
        call()
        return self.between(start, self.now())

    def split(self, call: Callable) -> dict[str, float]:
        """Milliseconds of one call by kind of layer; their sum is the whole."""
        marks, spent = [], dict.fromkeys(KINDS, 0.0)
        with ExitStack() as hooks:
            for module in self.model.modules():
                if kind := kind_of(module):
                    mark = lambda *_, kind=kind: marks.append((kind, self.now()))  # noqa: E731
                    hooks.enter_context(module.register_forward_pre_hook(mark))
                    hooks.enter_context(module.register_forward_hook(mark))
            whole = self.time(call)
        for (kind, start), (_, end) in zip(marks[::2], marks[1::2], strict=True):
            spent[kind] += self.between(start, end)
        return spent | {"rest": whole - sum(spent.values())}

    def now(self):
        if self.events:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        for index in range(torch.cuda.device_count() if self.on_gpu else 0):
            torch.cuda.synchronize(index)
        return time.perf_counter()

    def between(self, start, end) -> float:
        if not self.events:
            return 1000 * (end - start)
        end.synchronize()
        return start.elapsed_time(end)


def kind_of(module: nn.Module) -> str | None:
    return next((kind for kind, cls in CLASSES.items() if isinstance(module, cls)), None)


def operations(call: Callable) -> tuple[list[tuple[str, float, float]], float]:
    """What one call asks PyTorch for: (name, start, end) in milliseconds from its beginning, and those of the whole.

    Operations that others ask for in their turn are left out. A profiler watches, so the times are longer than without.
    On a GPU an operation ends when it is asked for, not when it is done.
    """
    with _without_stderr(), profile(activities=[ProfilerActivity.CPU]) as seen, record_function(WHOLE):
        call()
    events = seen.events()
    (whole,) = [event.time_range for event in events if event.name == WHOLE]
    asked = [e for e in events if e.name.startswith("aten::") and not _within(e, "aten::")]
    spans = [(e.name.removeprefix("aten::"), e.time_range.start, e.time_range.end) for e in asked]
    found = [(name, (start - whole.start) / 1000, (end - whole.start) / 1000) for name, start, end in spans]
    return sorted(found, key=lambda span: span[1]), whole.elapsed_us() / 1000


def _within(event, prefix: str) -> bool:
    """Whether an event was asked for by one whose name begins so."""
    while (event := event.cpu_parent) is not None:
        if event.name.startswith(prefix):
            return True
    return False


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Without the lines that the profiler's library writes to the process's standard error at start and end."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def experts_used(model: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """Within it, the most different experts that each layer's router chose in a call, router -> count."""
    counts = {}

    def count(router, _, output):
        counts[router] = max(counts.get(router, 0), output[2].unique().numel())

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, MiniMaxTopKRouter):
                hooks.enter_context(module.register_forward_hook(count))
        yield counts


@contextmanager
def sdpa_kernels() -> Iterator[set[str]]:
    """Within it, the names of the kernels that PyTorch's attention picks: "flash_attention", "cudnn_attention", ..."""
    real, by_cudnn, names = F.scaled_dot_product_attention, attention.by_cudnn, set()

    def watched(query, key, value, *args, **kwargs):
        try:  # the choice that PyTorch makes itself; a private name, so it may be gone one day
            if args and isinstance(args[0], CausalBias):
                names.add("flash_attention" if attention.knows_corners(query, key, value) else "another")
            else:
                names.add(SDPBackend(torch._fused_sdp_choice(query, key, value, *args, **kwargs)).name.lower())
        except (AttributeError, RuntimeError, TypeError, ValueError):
            names.add("unknown")
        return real(query, key, value, *args, **kwargs)

    def noted(*args):
        names.add("cudnn_attention")
        return by_cudnn(*args)

    with patch.object(F, "scaled_dot_product_attention", watched), patch.object(attention, "by_cudnn", noted):
        yield names
