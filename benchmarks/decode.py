"""A decoded token: the model's own forward pass beside the static step, and the floor of the same run.

    python benchmarks/decode.py equal speed talk --json decode.json      # a GPU with 110 GB for `speed` and `talk`
    python benchmarks/decode.py int8 --json int8.json                    # the same GPU; needs torchao
    python benchmarks/decode.py devices --json two.json                  # two GPUs
    python benchmarks/decode.py equal speed talk --toy                   # any machine
    python benchmarks/decode.py demo                                     # the shipped demo, on a CPU too

`equal`: a lightning and a softmax layer at real width, both ways against the same weights in fp32. `speed`: one hybrid
period, step by step from caches of random numbers, and prompts. `ladder`: one lever after another. `talk`: what
`generate` and `Chat` make of it. `int8`: memory, steps and a prompt with the experts as they are, and in int8.
`devices`: the same four layers on one GPU and on two. "today" is the plain path with Transformers' own experts and
norms. Weights are random, from one seed; each part is written as soon as it is measured.
"""

import argparse
import copy
import functools
import gc
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, MiniMaxForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxCache

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from minimax_nb.attention import register  # noqa: E402
from minimax_nb.bench import Case, Clock, Results, building_in, experts_used, random_config  # noqa: E402
from minimax_nb.bench.floor import floor, rates  # noqa: E402
from minimax_nb.bench.measure import change_dtype, filled_cache  # noqa: E402
from minimax_nb.cache import CACHE_ARGUMENT, repair_cache  # noqa: E402
from minimax_nb.chat import Chat  # noqa: E402
from minimax_nb.decode import use_decoding  # noqa: E402
from minimax_nb.decode.dispatch import _state  # noqa: E402
from minimax_nb.decode.graph import Eager  # noqa: E402
from minimax_nb.lightning import use_lightning  # noqa: E402

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
WAYS = ("today", "static")


@torch.inference_mode(False)
def model_of(toy: bool, kinds: list[int], **sizes) -> nn.Module:
    """Layers of these kinds, 1 softmax and 0 lightning, as load() would leave them; random weights."""
    torch.manual_seed(0)
    config = random_config(toy, num_hidden_layers=len(kinds), attn_type_list=kinds, **sizes)
    with building_in(torch.bfloat16 if GPU else torch.float32, DEVICE):
        model = MiniMaxForCausalLM(config).eval()
    if GPU:
        model.set_attn_implementation(register())
    use_lightning(model)
    repair_cache()
    return model


def go(model: nn.Module, way: str) -> None:
    """Compute as it was before this step, or as load() leaves a model now."""
    use_decoding(model, "plain" if way == "today" else "static")
    if not GPU:
        return
    try:
        from minimax_nb import experts, norms

        experts.register()
    except ImportError:
        return
    model.set_experts_implementation("grouped_mm" if way == "today" else experts.NAME)
    norms.use_fused_norms(model, "stock" if way == "today" else "auto")


def next_logits(model: nn.Module, ids: Tensor, cache: MiniMaxCache) -> Tensor:
    return model(ids, **{CACHE_ARGUMENT: cache}, use_cache=True, logits_to_keep=1).logits[:, -1]


def error(got: Tensor, want: Tensor) -> Tensor:
    """Relative, of each row."""
    return (got.double() - want.double()).norm(dim=-1) / want.double().norm(dim=-1)


# ---- the same numbers ----------------------------------------------------------------------------------------------


@torch.inference_mode()
def equal(toy: bool) -> list[dict]:
    """One step from each of the caches that the plain path leaves, both ways and in fp32; and the experts chosen.

    A token that is a near tie for a router goes to another expert after any rounding, and there its logits are others.
    """
    model = model_of(toy, [0, 1])
    length, count = (1000, 64) if not toy else (40, 12)
    ids = torch.randint(model.config.vocab_size, (1, length + count), device=DEVICE)
    fed, cache, befores = ids[:, length:].split(1, 1), MiniMaxCache(), []
    go(model, "today")
    next_logits(model, ids[:, :length], cache)
    for token in fed:
        befores.append(copy.deepcopy(cache))
        next_logits(model, token, cache)
    found = {}
    for way in ("today", "static", "fp32"):
        if way == "fp32":
            go(model, "today")
            change_dtype(model, "float32")
        else:
            go(model, way)
        found[way] = [one_step(model, way, token, before) for token, before in zip(fed, befores, strict=True)]
    logits = {way: torch.cat([step[0] for step in steps]) for way, steps in found.items()}
    experts = {way: torch.stack([step[1] for step in steps]) for way, steps in found.items()}
    rows = []
    for got, want in (("static", "today"), ("static", "fp32"), ("today", "fp32")):
        off, same = error(logits[got], logits[want]), (experts[got] == experts[want]).flatten(1).all(1)
        row = {"got": got, "want": want, "tokens": count, "median": off.median().item()}
        row |= {"same_experts": same.sum().item(), "most_of_those": off[same].max().item(), "most": off.max().item()}
        row["same_token"] = (logits[got].argmax(-1) == logits[want].argmax(-1)).sum().item()
        rows.append({name: round(x, 5) if isinstance(x, float) else x for name, x in row.items()})
        print(rows[-1], flush=True)
    return rows


def one_step(model: nn.Module, way: str, token: Tensor, before: MiniMaxCache) -> tuple[Tensor, Tensor]:
    """Logits (1, vocabulary), and the experts of each layer in order of their numbers, (layers, experts a token)."""
    logits, seen = next_logits(model, token, copied(before, model.dtype)), []
    if way == "static":
        decoder, cache = _state(model).decoder, copied(before, model.dtype)
        ops, route, play = decoder.parts[0].ops, decoder.parts[0].ops.route, decoder.play
        ops.route = lambda *args: seen.append((found := route(*args))[0]) or found
        decoder.play = Eager(decoder.parts, decoder.buffers)
        next_logits(model, token, cache)
        ops.route, decoder.play = route, play
    else:
        gates = [layer.mlp.gate for layer in model.model.layers]
        hooks = [gate.register_forward_hook(lambda _, __, out: seen.append(out[2])) for gate in gates]
        next_logits(model, token, copied(before, model.dtype))
        for hook in hooks:
            hook.remove()
    return logits, torch.cat(seen).sort(-1).values


def copied(cache: MiniMaxCache, dtype: torch.dtype) -> MiniMaxCache:
    """A copy, with the keys and values in `dtype`."""
    cache = copy.deepcopy(cache)
    for layer in cache.layers:
        if layer.is_initialized:
            layer.keys, layer.values = layer.keys.to(dtype), layer.values.to(dtype)
    return cache


# ---- times ---------------------------------------------------------------------------------------------------------


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
            found["kernels_us"] = kernels(graphs[0])
    least = floor(model, batch=batch, new=1, past=length, experts=used, state_bytes=4, best=best)
    return found | {"floor_ms": round(sum(least.values()), 3), "experts": sum(used.values())}


def kernels(graph: torch.cuda.CUDAGraph, repeats: int = 5) -> dict[str, list]:
    """Of one step: how often each kernel runs, and its microseconds in all."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(repeats):
            graph.replay()
        torch.cuda.synchronize()
    found = {
        row.key[:60]: [row.count // repeats, round(row.device_time_total / repeats, 1)] for row in seen.key_averages()
    }
    return dict(sorted(found.items(), key=lambda pair: -pair[1][1]))


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


# ---- what users call -----------------------------------------------------------------------------------------------


class Known(LogitsProcessor):
    """Only ids that a tokenizer knows, and no end."""

    def __init__(self, tokenizer):
        self.count, self.end = len(tokenizer), tokenizer.eos_token_id

    def __call__(self, input_ids, scores):
        scores[:, self.count :] = float("-inf")
        scores[:, self.end] = float("-inf")
        return scores


def folder_and_tokenizer() -> tuple:
    from transformers import AutoTokenizer

    from minimax_nb.checkpoint import patch_checkpoint
    from minimax_nb.demo import demo_checkpoint

    folder = patch_checkpoint(demo_checkpoint(), ROOT / "notebooks" / "_work" / "demo")
    return folder, AutoTokenizer.from_pretrained(folder)


def talk(toy: bool, model: nn.Module | None = None, count: int = 60, repeats: int = 3) -> list[dict]:
    """Milliseconds a token after the first: of `generate` and of `Chat`, greedy and sampled; ways take turns."""
    folder, tokenizer = folder_and_tokenizer()
    if model is None:
        model = model_of(toy, [0] * 7 + [1], **{"vocab_size": len(tokenizer)} if toy else {})
    rows = []
    prompt = tokenizer("What is your favourite condiment? " * 10, return_tensors="pt").to(model.device)
    settings = {"logits_processor": [Known(tokenizer)], "pad_token_id": 0}

    def generate(n: int, **more) -> None:
        model.generate(**prompt, **settings | {"do_sample": False} | more, max_new_tokens=n)

    def chat(n: int) -> None:
        Chat(model, tokenizer).send("Hello", **settings, max_new_tokens=n, do_sample=False)

    sampled = functools.partial(generate, do_sample=True, top_p=0.9)
    for name, call in {"generate, greedy": generate, "generate, sampled": sampled, "Chat, greedy": chat}.items():
        found = {way: [] for way in WAYS}
        for _ in range(repeats):
            for way in WAYS:
                go(model, way)
                call(3)  # compiles and records
                found[way].append([seconds(call, n) for n in (1, count)])
        for way in WAYS:
            first, whole = (1000 * min(times) for times in zip(*found[way], strict=True))
            row = {"what": name, "way": way, "tokens": count, "whole_ms": round(whole, 1)}
            each = (whole - first) / (count - 1)
            rows.append(row | {"ms_a_token": round(each, 3), "tokens_s": round(1000 / each, 1)})
            print(rows[-1], flush=True)
    return rows


def seconds(call, count: int) -> float:
    start = time.perf_counter()
    call(count)
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def demo(toy: bool) -> list[dict]:
    """The shipped demo: 512 greedy tokens and 30 replies both ways, in each dtype; on a CPU its speed."""
    from minimax_nb.demo import corpus, evaluate
    from minimax_nb.loading import load

    folder, tokenizer = folder_and_tokenizer()
    rows, questions = [], corpus.held_out_questions()[:30]
    settings = {"do_sample": False, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id}
    for dtype in ("float32", "bfloat16") if GPU else ("float32",):
        model, _ = load(folder, dtype=dtype)
        prompt, count = tokenizer("What is your favourite condiment?", return_tensors="pt").to(model.device), 512
        said, replies = {}, {}
        for way in WAYS:
            go(model, way)
            said[way] = model.generate(**prompt, **settings, min_new_tokens=count, max_new_tokens=count)[0].cpu()
            prompts = [torch.tensor([evaluate.prompt(tokenizer, turn)], device=model.device) for turn in questions]
            replies[way] = [
                model.generate(ids, attention_mask=torch.ones_like(ids), **settings, max_new_tokens=200).tolist()
                for ids in prompts
            ]
        row = {"what": "greedy", "dtype": dtype, "tokens": count, "replies": len(questions)}
        row["equal_up_to"] = (said["today"] == said["static"]).long().cumprod(0).sum().item() - len(prompt.input_ids[0])
        row["equal_replies"] = sum(a == b for a, b in zip(*replies.values(), strict=True))
        rows.append(row)
        print(rows[-1], flush=True)
    return rows if GPU else rows + talk(toy, model, repeats=6)


def main() -> None:
    parts = {
        "equal": equal,
        "speed": speed,
        "int8": int8,
        "talk": talk,
        "ladder": ladder,
        "devices": devices,
        "demo": demo,
    }
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="+", choices=parts)
    parser.add_argument("--toy", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = Results(arguments.json, " ".join(["python benchmarks/decode.py", *arguments.parts]))
    for part in arguments.parts:
        start = time.perf_counter()
        results.found[part] = parts[part](arguments.toy)
        results.found[f"{part}_seconds"] = round(time.perf_counter() - start, 1)
        results.save()
        print(part, results.found[f"{part}_seconds"], "s", flush=True)
        gc.collect()
        if GPU:
            torch.cuda.empty_cache()
    results.found["complete"] = True
    results.save()


if __name__ == "__main__":
    main()
