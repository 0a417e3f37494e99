"""A decoded token: the model's own forward pass beside the static step, and the floor of the same run.

    python benchmarks/decode.py equal speed talk --json decode.json      # a GPU with 110 GB for `speed` and `talk`
    python benchmarks/decode.py devices --json two.json                  # two GPUs
    python benchmarks/decode.py equal speed talk --toy                   # any machine
    python benchmarks/decode.py demo                                     # the shipped demo, on a CPU too

`equal`: a lightning and a softmax layer at real width, both ways against the same weights in fp32. `speed`: one hybrid
period, step by step from caches of random numbers, and prompts. `talk`: what `generate` and `Chat` make of it.
`devices`: the same four layers on one GPU and on two. "today" is the plain path with Transformers' own experts and
norms. Weights are random, from one seed; each part is written as soon as it is measured.
"""

import argparse
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
from minimax_nb.bench.measure import convert, filled_cache  # noqa: E402
from minimax_nb.cache import CACHE_ARGUMENT, repair_cache  # noqa: E402
from minimax_nb.chat import Chat  # noqa: E402
from minimax_nb.decode import use_decoding  # noqa: E402
from minimax_nb.decode.dispatch import _state  # noqa: E402
from minimax_nb.decode.graph import Eager  # noqa: E402
from minimax_nb.lightning import use_lightning  # noqa: E402

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
WAYS = ("today", "static")


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


def forced(model: nn.Module, prompt: Tensor, fed: Tensor) -> Tensor:
    """Logits (tokens, vocabulary) of the tokens `fed` (1, tokens), one at a time after the prompt."""
    cache = MiniMaxCache()
    next_logits(model, prompt, cache)
    return torch.cat([next_logits(model, token, cache) for token in fed.split(1, 1)])


def choices(model: nn.Module, way: str, prompt: Tensor, fed: Tensor) -> Tensor:
    """Which experts each fed token goes to, (tokens, layers, experts a token), in order of their numbers."""
    seen = []
    if way != "static":
        gates = [layer.mlp.gate for layer in model.model.layers]
        hooks = [gate.register_forward_hook(lambda _, __, out: seen.append(out[2])) for gate in gates]
        forced(model, prompt, fed)
        for hook in hooks:
            hook.remove()
        seen = [index for index in seen if len(index) == 1]
    else:
        cache = MiniMaxCache()
        next_logits(model, prompt, cache)
        next_logits(model, fed[:, :1], cache)  # which records
        decoder = _state(model).decoder
        ops, route = decoder.parts[0].ops, decoder.parts[0].ops.route
        graphs, decoder.play = decoder.play, Eager(decoder.parts, decoder.buffers)
        ops.route = lambda *args: seen.append((found := route(*args))[0]) or found
        for token in fed[:, 1:].split(1, 1):
            next_logits(model, token, cache)
        ops.route, decoder.play = route, graphs
    layers = len(model.model.layers)
    found = torch.cat(seen).sort(-1).values.view(-1, layers, seen[0].shape[1])
    return found[-(fed.shape[1] - 1) :]


@torch.inference_mode()
def equal(toy: bool) -> list[dict]:
    """Both ways against fp32 in the plain path, on tokens fed to all three; how many went to other experts."""
    model, rows = model_of(toy, [0, 1]), []
    vocabulary, (length, count) = model.config.vocab_size, (1000, 200) if not toy else (40, 12)
    prompt, fed = (torch.randint(vocabulary, (1, n), device=DEVICE) for n in (length, count))
    logits, experts = {}, {}
    for way in WAYS:
        go(model, way)
        logits[way] = forced(model, prompt, fed)
        experts[way] = choices(model, way, prompt, fed) if GPU else None
    go(model, "today")
    convert(model, "float32")
    logits["fp32"], experts["fp32"] = forced(model, prompt, fed), choices(model, "fp32", prompt, fed)
    for got, want in (("static", "today"), ("static", "fp32"), ("today", "fp32")):
        found = error(logits[got], logits[want])
        row = {"got": got, "want": want, "tokens": count, "median": found.median().item(), "most": found.max().item()}
        row["same_token"] = (logits[got].argmax(-1) == logits[want].argmax(-1)).double().mean().item()
        if GPU:
            same = (experts[got] == experts[want]).flatten(1).all(1)
            row |= {"same_experts": same.double().mean().item(), "most_with_same_experts": found[1:][same].max().item()}
        rows.append({name: round(x, 5) if isinstance(x, float) else x for name, x in row.items()})
    return rows


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
            print(rows[-1], flush=True)
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
        found["graph_ms"] = timed(clock, lambda: [graph.replay() for graph in graphs], 40)["ms"]
    least = floor(model, batch=batch, new=1, past=length, experts=used, state_bytes=4, best=best)
    return found | {"floor_ms": round(sum(least.values()), 3), "experts": sum(used.values())}


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
    """The shipped demo: 512 greedy tokens both ways, in each dtype; then its speed."""
    from minimax_nb.loading import load

    folder, tokenizer = folder_and_tokenizer()
    rows = []
    for dtype in ("float32", "bfloat16") if GPU else ("float32",):
        model, _ = load(folder, dtype=dtype)
        prompt, count = tokenizer("What is your favourite condiment?", return_tensors="pt").to(model.device), 512
        said = {}
        for way in WAYS:
            go(model, way)
            said[way] = model.generate(**prompt, min_new_tokens=count, max_new_tokens=count, do_sample=False)[0].cpu()
        same = (said["today"] == said["static"]).long().cumprod(0).sum().item() - prompt.input_ids.shape[1]
        rows.append({"what": "greedy tokens", "dtype": dtype, "tokens": count, "equal_up_to": same})
        print(rows[-1], flush=True)
    model, _ = load(folder)
    return rows + talk(toy, model, repeats=6)


def main() -> None:
    parts = {"equal": equal, "speed": speed, "talk": talk, "devices": devices, "demo": demo}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="+", choices=parts)
    parser.add_argument("--toy", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = Results(arguments.json, " ".join(["python benchmarks/decode.py", *arguments.parts]))
    for name in ("rates", "errors", "rows", "complete"):  # of another benchmark
        results.found.pop(name)
    for part in arguments.parts:
        start = time.perf_counter()
        results.found[part] = parts[part](arguments.toy)
        results.found[f"{part}_seconds"] = round(time.perf_counter() - start, 1)
        results.save()
        print(part, results.found[f"{part}_seconds"], "s", *results.found[part], sep="\n  ", flush=True)
        gc.collect()
        if GPU:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
