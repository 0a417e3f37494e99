"""Milliseconds of a step and of a prompt, beside the floor of the same run."""

import gc
import statistics
import time

import torch
from torch import Tensor, nn
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from minimax_nb.bench import Case, Clock, experts_used
from minimax_nb.bench.floor import floor, rates
from minimax_nb.bench.measure import filled_cache
from minimax_nb.decode import use_decoding
from minimax_nb.decode.dispatch import _state
from minimax_nb.decode.graph import Eager

from .model import GPU, WAYS, go, model_of, next_logits


@torch.inference_mode()
def speed(toy: bool) -> list[dict]:
    model, rows = model_of(toy, [0] * 7 + [1]), []
    clock, best = Clock(model), rates(model.device, model.dtype)
    long = 131072 if not toy else 600
    rows.append({"what": "rates"} | best)
    for batch, length in ((1, 1024), (1, long), (16, 1024)) if not toy else ((1, 64), (1, long), (4, 64)):
        for way in WAYS:
            go(model, way)
            rows.append({"what": "decode", "way": way, "batch": batch, "context": length})
            rows[-1] |= decoded(model, clock, batch, length, best)
            print({name: value for name, value in rows[-1].items() if name != "kernels_us"}, flush=True)
            tidy(model)
    for length in (4096, long) if not toy else (128,):
        ids = torch.randint(model.config.vocab_size, (1, length), device=model.device)
        for way in WAYS:
            go(model, way)
            call = lambda ids=ids: model(ids, use_cache=True, logits_to_keep=1)  # noqa: E731
            call()
            rows.append(
                {"what": "prefill", "way": way, "tokens": length} | timed(clock, call, 5 if length < 9999 else 3)
            )
            print(rows[-1], flush=True)
    return rows


def decoded(model: nn.Module, clock: Clock, batch: int, length: int, best: dict) -> dict:
    """A step as it is called, the same without the host where it is one graph, and the floor."""
    cache = filled_cache(model, Case(str(model.dtype), "", "fused", "decode", batch, length))
    ids = torch.randint(model.config.vocab_size, (batch, 1), device=model.device)
    with experts_used(model) as used:
        next_logits(model, ids, cache)
    start = time.perf_counter()
    next_logits(model, ids, cache).cpu()
    found = {"first_call_s": round(time.perf_counter() - start, 3)}
    found |= timed(clock, lambda: next_logits(model, ids, cache), 40)
    if GPU and (decoder := _state(model).decoder):
        graphs = [graph for _, graph, *_ in decoder.play.recorded]
        if len(graphs) == 1:
            found["graph_ms"] = timed(clock, graphs[0].replay, 40)["ms"]
            found["kernels_us"] = kernels(graphs[0].replay)
        else:
            found |= over_gpus(decoder.play, ids[:, 0], found["ms"])
    least = floor(model, batch=batch, new=1, past=length, experts=used, state_bytes=4, best=best)
    return found | {"floor_ms": round(sum(least.values()), 3), "experts": sum(used.values())}


@torch.inference_mode()
def int8(toy: bool) -> list[dict]:
    """The static step on the same model, first as it is and then with its experts in int8."""
    from minimax_nb.experts.held import size
    from minimax_nb.experts.int8 import quantise

    model, rows = model_of(toy, [0] * 7 + [1]), []
    clock, best = Clock(model), rates(model.device, model.dtype)
    ids = torch.randint(model.config.vocab_size, (1, 4096 if not toy else 128), device=model.device)
    for form in (str(model.dtype).removeprefix("torch."), "int8"):
        if form == "int8":
            quantise(model)
        weights = sum(size(weight) for weight in model.parameters())
        rows.append({"what": "memory", "experts_in": form, "weights_gb": round(weights / 1e9, 3)})
        if GPU:
            torch.cuda.empty_cache()
            rows[-1]["allocated_gb"] = round(torch.cuda.memory_allocated() / 1e9, 3)
        print(rows[-1], flush=True)
        for batch in (1, 16):
            go(model, "static")
            rows.append({"what": "decode", "experts_in": form, "batch": batch, "context": 1024 if not toy else 64})
            rows[-1] |= decoded(model, clock, batch, rows[-1]["context"], best)
            print({name: value for name, value in rows[-1].items() if name != "kernels_us"}, flush=True)
            tidy(model)
        go(model, "static")
        call = lambda: model(ids, use_cache=True, logits_to_keep=1)  # noqa: E731
        call()
        rows.append({"what": "prefill", "experts_in": form, "tokens": ids.shape[1]} | timed(clock, call, 5))
        print(rows[-1], flush=True)
        tidy(model)
    return rows


@torch.inference_mode()
def devices(toy: bool) -> list[dict]:
    """Two lightning layers and two softmax layers, on one GPU and cut in the middle."""
    from accelerate import dispatch_model

    model, rows = model_of(toy, [0, 1, 0, 1]), []
    best = rates(model.device, model.dtype)
    for count in (1, 2) if torch.cuda.device_count() > 1 else (1,):
        if count == 2:
            half = {f"model.layers.{i}": i // 2 for i in range(4)}
            ends = {"model.embed_tokens": 0, "model.rotary_emb": 0, "model.norm": 1, "lm_head": 1}
            dispatch_model(model, half | ends)
        for way in WAYS:
            go(model, way)
            row = {"what": "decode", "gpus": count, "way": way, "batch": 1, "context": 1024 if not toy else 64}
            clock = Clock(model)
            clock.events = False  # as it must be on two
            rows.append(row | decoded(model, clock, 1, row["context"], best))
            print(rows[-1], flush=True)
    return rows


@torch.inference_mode()
def ladder(toy: bool) -> list[dict]:
    """Batch 1 on a short context, one lever after another: what each takes off a step of the plain path."""
    model, rows = model_of(toy, [0] * 7 + [1]), []
    clock, best, length = Clock(model), rates(model.device, model.dtype), 1024 if not toy else 64
    ids = torch.randint(model.config.vocab_size, (1, 1), device=model.device)
    levers = {
        "Transformers' experts and norms": ("grouped_mm", "stock", "plain"),
        "each expert read once": ("minimax_nb", "stock", "plain"),
        "norms in one pass": ("minimax_nb", "auto", "plain"),
        "static step, launched kernel by kernel": ("minimax_nb", "auto", "static"),
        "static step, one graph": ("minimax_nb", "auto", "static"),
    }
    for name, (experts_by, norms_by, decoding) in levers.items():
        if GPU:
            from minimax_nb import experts, norms

            experts.register()
            model.set_experts_implementation(experts_by)
            norms.use_fused_norms(model, norms_by)
        use_decoding(model, decoding)
        cache = filled_cache(model, Case(str(model.dtype), "", "fused", "decode", 1, length))
        with experts_used(model) as used:
            next_logits(model, ids, cache)
        next_logits(model, ids, cache)
        if decoding == "static" and name.endswith("kernel by kernel"):
            decoder = _state(model).decoder
            decoder.play = Eager(decoder.parts, decoder.buffers)
        least = floor(model, batch=1, new=1, past=length, experts=used, state_bytes=4, best=best)
        rows.append({"lever": name} | timed(clock, lambda cache=cache: next_logits(model, ids, cache), 40))
        rows[-1] |= {"launches": launches(model, ids, cache), "floor_ms": round(sum(least.values()), 3)}
        print(rows[-1], flush=True)
        tidy(model)
    return rows


def over_gpus(play, ids: Tensor, step_ms: float) -> dict:
    """Of a step whose layers lie on several GPUs: the graph of each alone, and what a step takes beside them."""
    each = []
    for device, graph, *_ in play.recorded:
        with torch.cuda.device(device):
            each.append(timed(Clock(nn.Module(), device), graph.replay, 20)["ms"])
    found = {"graph_ms": round(sum(each), 3), "graph_ms_each": each, "between_ms": round(step_ms - sum(each), 3)}
    return found | {"kernels_us": kernels(lambda: play(ids))}


def kernels(call, repeats: int = 5) -> dict[str, list]:
    """Of one step: how often each kernel runs, and its microseconds in all, on all GPUs of this process."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(repeats):
            call()
        for index in used_gpus():
            torch.cuda.synchronize(index)
    found = {
        row.key[:60]: [row.count // repeats, round(row.device_time_total / repeats, 1)] for row in seen.key_averages()
    }
    return dict(sorted(found.items(), key=lambda pair: -pair[1][1]))


def used_gpus() -> list[int]:
    """Those on which this process has tensors: to touch another would take half a GB there."""
    return [index for index in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(index)]


def launches(model: nn.Module, ids: Tensor, cache: MiniMaxCache) -> int:
    """What the host asks for in one step: kernels and graphs on a GPU, operations of PyTorch on a CPU."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if GPU else [])]) as seen:
        next_logits(model, ids, cache)
    asked = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaMemsetAsync")
    rows = seen.key_averages()
    if not GPU:
        return sum(row.count for row in rows if row.key.startswith("aten::"))
    return sum(row.count for row in rows if row.key.startswith(asked))


def timed(clock: Clock, call, repeats: int) -> dict:
    times = [clock.time(call) for _ in range(repeats)]
    found = {"ms": statistics.median(times), "least_ms": min(times), "most_ms": max(times)}
    return {name: round(ms, 3) for name, ms in found.items()}


def tidy(model: nn.Module) -> None:
    """Free the buffers before the next case takes its own."""
    use_decoding(model, "plain")
    gc.collect()
    if GPU:
        torch.cuda.empty_cache()
