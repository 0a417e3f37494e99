"""What is measured of a whole model, one part after the other, the more important first.

A part is a function of a `Run` that returns a dict. `measured` calls each, hands on what was found at once, and leaves
out what the time that is left does not suffice for. A part that fails is a row that says how.
"""

import gc
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.decoding.model import next_logits
from benchmarks.decoding.times import decoded, kernels, tidy, used_gpus
from minimax_nb.bench import Clock
from minimax_nb.bench.floor import rates
from minimax_nb.decode import use_decoding
from minimax_nb.decode.dispatch import _state
from minimax_nb.experts.held import size
from minimax_nb.parallel import Ranks
from minimax_nb.pieces import workspace_bytes
from minimax_nb.planner.capacity import GB, Capacity
from minimax_nb.prefill import piece_for, prefill

from .model import DTYPE, GPU, capacity, made, native
from .serving import serve

NEW = 30  # tokens of a reply
MORE = 4  # tokens decoded after a prompt, for the peak of memory
TOGETHER = timedelta(seconds=90)  # that ranks may be apart at the end of a part
# Seconds on one H200, from one hybrid period in bf16 (decode_h200.json): a token of a prompt takes 2.9 us a layer.
PREFILL_S = 2.9e-6
PREPARED_S = 40  # of the first call: Triton compiles the kernels


class Settings(NamedTuple):
    layers: int
    int8: bool
    toy: bool
    until: float  # time.time() at which no part should run any more


class OutOfStep(RuntimeError):
    """The ranks are not all at the same place any more: nothing that they compute together can be measured."""


class Together:
    """What the ranks tell each other beside the model: over gloo, so that it works when a kernel hangs."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self.group = dist.new_group(backend="gloo", timeout=TOGETHER) if ranks.size > 1 else None

    def all(self, where: str, value) -> list:
        """What each rank says, in their order. OutOfStep if one does not come, or is elsewhere."""
        if not self.group:
            return [value]
        found = [None] * self.ranks.size
        try:
            dist.all_gather_object(found, (where, value), group=self.group)
        except RuntimeError as error:
            raise OutOfStep(f"a rank did not come to {where!r}: {error}") from error
        if places := {place for place, _ in found} - {where}:
            raise OutOfStep(f"this rank is at {where!r}, another at {places.pop()!r}")
        return [said for _, said in found]


class Run:
    """One model, and what is measured with it."""

    def __init__(self, settings: Settings, ranks: Ranks):
        self.settings, self.ranks = settings, ranks
        self.together = Together(ranks)
        self.config = native(settings.layers, settings.toy)
        self.here = [ranks.device()] if GPU and ranks.size > 1 else list(range(torch.cuda.device_count()))
        device = torch.device("cuda", self.here[0]) if GPU else torch.device("cpu")
        self.best = rates(device, DTYPE)  # before the weights, for it needs 4 GB
        tidy_memory()
        start = time.perf_counter()
        self.model = made(self.config, int8=settings.int8, ranks=ranks)
        self.wait()
        self.filled_s = time.perf_counter() - start
        self.clock = Clock(self.model)
        self.machine = self._machine()

    def _machine(self) -> Capacity:
        memory = min([torch.cuda.get_device_properties(i).total_memory for i in self.here], default=10**12)
        backend = next(m.lightning_backend for m in self.model.modules() if hasattr(m, "lightning_backend"))
        how = {"lightning": backend}
        return capacity(self.config, max(1, len(self.here)), memory, self.settings.int8, self.ranks, **how)

    def wait(self) -> None:
        for index in self.here:
            torch.cuda.synchronize(index)

    def ids(self, batch: int, length: int) -> torch.Tensor:
        """Token ids (batch, length), the same on all ranks."""
        drawn = torch.randint(self.config["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(3))
        return drawn.to(self.model.device)

    def compared(self, planned: list[int], measure: Callable = torch.cuda.max_memory_allocated) -> dict:
        """GB of each GPU, planned and measured, and how far apart their sums are in percent."""
        both = [round(each / GB, 3) for each in planned], [round(measure(i) / GB, 3) for i in self.here]
        planned, found = (sum(lists, []) for lists in zip(*self.together.all("memory", both), strict=True))
        row = {"planned_gb": planned, "measured_gb": found}
        return row | ({"percent_off": round(100 * (sum(planned) / sum(found) - 1), 2)} if found else {})


# ---- the parts -----------------------------------------------------------------------------------------------------


def weights(run: Run) -> dict:
    held = sum(size(weight) for weight in run.model.parameters())
    parameters = sum(weight.numel() for weight in run.model.parameters())
    found = {"filled_s": round(run.filled_s, 1), "parameters_here": parameters, "weights_here_gb": round(held / GB, 3)}
    found["layers_planned"] = [gpu.layers for gpu in run.machine.layout.gpus]
    placed = getattr(run.model, "hf_device_map", {})
    found["layers_found"] = [sum(".layers." in name and at == i for name, at in placed.items()) for i in run.here]
    found["rates"] = run.best
    return found | run.compared([gpu.weights for gpu in run.machine.layout.gpus], torch.cuda.memory_allocated)


def decode(run: Run, batch: int) -> dict:
    """A step at context 1k, the graph alone, the floor, and the kernels by name; of rank 0."""
    length = 64 if run.settings.toy else 1024
    row = {"batch": batch, "context": length} | decoded(run.model, run.clock, batch, length, run.best)
    row["decoding"] = "static" if _state(run.model).decoder else "plain"
    return row | {"tokens_s": round(1000 * batch / row["ms"], 2)}


def prompt(run: Run, length: int, repeats: int) -> dict:
    """Milliseconds of a prompt, the first call and then the median of `repeats`; memory then, and while decoding."""
    ids, times = run.ids(1, length), []
    piece = piece_for(run.model, 1, length, length)
    row = {"tokens": length, "piece": piece}
    for _ in range(repeats + 1):
        cache = None
        tidy_memory()
        run.wait()
        start = time.perf_counter()
        cache = prefill(run.model, ids, piece=piece, progress=False).cache
        run.wait()
        times.append(1000 * (time.perf_counter() - start))
    ms = median(times[1:] or times)
    row |= {"first_ms": round(times[0], 1), "ms": round(ms, 1), "repeats": repeats}
    row["tokens_s"] = round(1000 * length / ms, 1)
    row["memory_of_prefill"] = run.compared(of_prefill(run.machine, length, piece))
    for _ in range(MORE):
        next_logits(run.model, ids[:, :1], cache)
    run.wait()
    static = bool((decoder := _state(run.model).decoder) and decoder.buffers)
    row |= {"decoding": "static" if static else "plain"}
    row["memory_of_both"] = run.compared(run.machine.needed(length + MORE, 1, static, piece))
    return row


def of_prefill(machine: Capacity, length: int, piece: int) -> list[int]:
    """Bytes on each GPU at the busiest moment of a prompt, of which nothing is decoded yet."""
    reading = workspace_bytes(machine.config, 1, piece, length, 2, **machine.how)
    return [machine.kept(gpu, length, 1) + reading for gpu in machine.layout.gpus]


def where(run: Run, length: int) -> dict:
    """The kernels of one prompt: how often each runs, and its microseconds."""
    ids = run.ids(1, length)
    call = partial(prefill, run.model, ids, progress=False)
    found = kernels(call, 1) if GPU else {}
    return {"tokens": length, "kernels_us": dict(list(found.items())[:25])}


def generated(run: Run) -> dict:
    """`generate`, greedily: milliseconds a token after the first."""
    ids = run.ids(1, 64)
    settings = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0, "eos_token_id": None}

    def timed_text(count: int) -> tuple[float, list[int]]:
        start = time.perf_counter()
        text = run.model.generate(ids, **settings, max_new_tokens=count)[0, 64:].tolist()
        return time.perf_counter() - start, text

    timed_text(3)
    (first, _), (whole, text) = timed_text(1), timed_text(NEW)
    each = 1000 * (whole - first) / (NEW - 1)
    row = {"tokens": len(text), "first_ms": round(1000 * first, 1), "whole_ms": round(1000 * whole, 1)}
    row |= {"ms_a_token": round(each, 2), "tokens_s": round(1000 / each, 2)}
    return row | {"same_on_all_ranks": len({tuple(each) for each in run.together.all("text", text)}) == 1}


# ---- one after the other -------------------------------------------------------------------------------------------


class Part(NamedTuple):
    name: str
    call: Callable[[Run], dict]
    seconds: float = 5  # about what it may take


def parts(settings: Settings, ranks: int) -> list[Part]:
    """All of them, the more important first."""
    short, middle, long = (48, 300, 700) if settings.toy else (1024, 16384, 131072)
    token = 0 if settings.toy else settings.layers * PREFILL_S / (0.7 * ranks if ranks > 1 else 1)
    ready = 0 if settings.toy else PREPARED_S
    found = [
        Part("weights", weights),
        Part("decode_1", partial(decode, batch=1), ready),
        Part("prefill_1k", partial(prompt, length=short, repeats=3), ready + 5 * short * token),
        Part("decode_8", partial(decode, batch=8), 10),
        Part("prefill_16k", partial(prompt, length=middle, repeats=2), 5 + 3 * middle * token),
        Part("generate", generated, 10),
    ]
    if ranks == 1:
        found.append(Part("serve", lambda run: serve(run.model, NEW), 15))
    found.append(Part("prefill_128k", partial(prompt, length=long, repeats=0), 5 + 1.3 * long * token))
    return [*found, Part("prefill_16k_kernels", partial(where, length=middle), 5 + 3 * middle * token)]


def measured(settings: Settings, ranks: Ranks, tell: Callable[[str, dict], None]) -> None:
    """Make the model and measure its parts. `tell` is given the name of each and its row, on every rank."""
    start = time.perf_counter()
    try:
        run = Run(settings, ranks)
    except Exception as error:
        tell("made", {"status": "error", "why": f"{type(error).__name__}: {str(error)[:300]}"})
        raise
    tell("made", {"status": "ok", "seconds": round(time.perf_counter() - start, 1)})
    for part in parts(settings, ranks.size):
        left = run.together.all(part.name, settings.until - time.time())[0]  # rank 0's clock
        if left < part.seconds:
            tell(part.name, {"status": "skipped", "why": f"about {part.seconds:.0f} s, and {left:.0f} s were left"})
            continue
        tell(part.name, {"status": "begun"})  # which stays there if it does not end
        try:
            tell(part.name, one(run, part))
        except OutOfStep as error:
            tell(part.name, {"status": "error", "why": str(error)})
            raise
        again(run.model)


def one(run: Run, part: Part) -> dict:
    """The row of a part. OutOfStep if the ranks do not come together after it."""
    start = time.perf_counter()
    torch.manual_seed(0)  # all ranks draw the same tokens
    try:
        with torch.no_grad():
            row, wrong = part.call(run), ""
    except OutOfStep:
        raise
    except Exception as error:  # whatever it is, the other parts are measured
        row, wrong = {}, f"{type(error).__name__}: {str(error)[:300]}"
        print(f"rank {run.ranks.rank}, {part.name}: {wrong}", file=sys.stderr, flush=True)
    seconds = round(time.perf_counter() - start, 1)
    said = [text for text in run.together.all(f"the end of {part.name}", wrong) if text]
    row = {"why": said[0]} if said else row
    return row | {"status": "error" if said else "ok", "seconds": seconds}


def again(model: nn.Module) -> None:
    """Free what a part took, and decode statically again."""
    tidy(model)
    use_decoding(model, "static")


def tidy_memory() -> None:
    """Free what is unused, and let the peaks of all GPUs begin anew."""
    if not GPU:
        return
    gc.collect()
    torch.cuda.empty_cache()
    for index in used_gpus():
        torch.cuda.reset_peak_memory_stats(index)
