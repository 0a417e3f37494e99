"""A long prompt in pieces: its time and its memory against one shot, and a million tokens on one GPU.

    python benchmarks/long_prompts.py --json FILE       # one NVIDIA GPU with 120 GB free: 3 minutes
    python benchmarks/long_prompts.py --parts exact,kernels,million --json FILE     # 80 GB are enough
    python benchmarks/long_prompts.py --toy             # small, on any machine; a CPU has no figures of memory

It has four parts, and saves each row when it is measured:

exact     softmax attention of new tokens that follow others, with and without pads, against float64
kernels   the same for one piece at Text-01's width, by each way that attention.py knows: milliseconds
against   one hybrid period at real width (7 lightning layers, 1 softmax layer, random weights in bf16): one shot,
          pieces of some sizes, and the piece that is chosen by itself: milliseconds, GB beside weights and cache
million   a thinner model: the same period with 4 experts a layer instead of 32. A token uses two of them as before,
          so it costs as much, but all weights take 20 GB. Prompts up to 1,000,000 tokens, then some decoded tokens

The first call of each length is timed too, because a user makes just one.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from transformers import MiniMaxForCausalLM  # noqa: E402

from benchmarks.decoding.model import LIGHTNING  # noqa: E402
from minimax_nb import attention, experts  # noqa: E402
from minimax_nb.bench.measure import building_in, random_config, random_model  # noqa: E402
from minimax_nb.bench.results import Results  # noqa: E402
from minimax_nb.cache import CACHE_ARGUMENT, repair_cache  # noqa: E402
from minimax_nb.decode import use_decoding  # noqa: E402
from minimax_nb.errors import UsageMistake  # noqa: E402
from minimax_nb.lightning.layer import use_lightning  # noqa: E402
from minimax_nb.norms import use_fused_norms  # noqa: E402
from minimax_nb.prefill import piece_for, prefill  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
GB = 1e9
REPEATS = 3
DECODED = 32  # tokens after the longest prompt
REAL = {"piece": 24576, "past": 98304, "against": [131072, 32768], "pieces": [8192, 16384]}
REAL |= {"million": [131072, 262144, 524288, 1_000_000]}
TOY = {"piece": 96, "past": 384, "against": [512, 128], "pieces": [256]}
TOY |= {"million": [512, 1024]}


def exact(sizes: dict, toy: bool) -> list[dict]:
    """Relative errors of out, 8 heads of one KV head: bf16 against float64 from the same numbers."""
    new, past = (96, 288) if toy else (2048, 6144)
    found = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        query, key, value = heads_of(2, 8, 1, new, past, dtype)
        real = torch.rand(2, new + past, device=DEVICE) > 0.2
        real[0] = torch.arange(new + past, device=DEVICE) > past // 2
        ways = ways_of(query, key, value, new) | {"padded": partial(attention.padded, query, key, value, real)}
        for name, call in ways.items():
            mask = real if name == "padded" else torch.ones_like(real)
            row = {"way": name, "dtype": str(dtype).removeprefix("torch.")}
            try:
                row["error"] = off(call(), defined(query, key, value, mask))
                row["ok"] = row["error"] < (1e-5 if dtype == torch.float32 else 1e-2)
            except RuntimeError as error:  # a kernel that this machine lacks
                row |= {"ok": None, "why": str(error).partition("\n")[0][:200]}
            found.append(row)
    return found


def kernels(sizes: dict, toy: bool) -> list[dict]:
    """Milliseconds of one piece after others, 64 heads of 8 KV heads; the first call of a way builds its plans."""
    new, past = sizes["piece"], sizes["past"]
    query, key, value = heads_of(1, 64, 8, new, past, DTYPE)
    found = []
    for name, call in ways_of(query, key, value, new).items():
        try:
            found.append({"way": name, "new": new, "past": past} | timed(call))
        except RuntimeError as error:
            found.append({"way": name, "why": str(error).partition("\n")[0][:200]})
    return found


def ways_of(query: Tensor, key: Tensor, value: Tensor, new: int) -> dict[str, Callable]:
    """As attention.py chooses, and each of its ways by name."""
    of_parts = partial(attention.in_parts, query, key, value, None)
    ways = {"chosen": partial(attention.lower_right, query, key, value)}
    if DEVICE == "cpu":
        return ways | {"parts": lambda: of_parts(attention._on_cpu, new)}
    ways["one call"] = partial(attention._corner, query, key, value, None)
    if query.dtype != torch.float32:  # there cuDNN's operator gives NaN and no error; it is not chosen
        ways["parts by cuDNN"] = lambda: of_parts(attention.by_cudnn, new)
    return ways


def heads_of(batch: int, heads: int, kv_heads: int, new: int, past: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(0)
    made = partial(torch.randn, device=DEVICE, generator=generator)
    shapes = [(batch, heads, new, 128)] + 2 * [(batch, kv_heads, past + new, 128)]
    return [made(shape).to(dtype) for shape in shapes]


def defined(query: Tensor, key: Tensor, value: Tensor, real: Tensor) -> Tensor:
    """The definition in float64, a head at a time."""
    new, known, outs = query.shape[2], key.shape[2], []
    seen = torch.ones(new, known, dtype=torch.bool, device=DEVICE).tril(known - new) & real[:, None]
    for head in range(query.shape[1]):
        shared = head * key.shape[1] // query.shape[1]
        scores = query[:, head].double() @ key[:, shared].double().mT / query.shape[3] ** 0.5
        outs.append(scores.masked_fill_(~seen, -torch.inf).softmax(-1).nan_to_num_(0) @ value[:, shared].double())
    return torch.stack(outs, 1) * real[:, None, -new:, None]


def off(got: Tensor, want: Tensor) -> float:
    got, want = got.double(), want.double()
    return float(f"{((got - want).norm() / want.norm()).item():.2e}")


def against(sizes: dict, toy: bool) -> Iterator[dict]:
    """One shot and pieces, of one model in one process."""
    model = prepared(random_model(toy, str(DTYPE).removeprefix("torch.")))
    for length in sizes["against"]:
        ids = torch.randint(model.config.vocab_size, (1, length), device=DEVICE)
        whole, shot = prefill(model, ids, piece=length, progress=False).logits, 0.0
        for piece in [length, None, *(size for size in sizes["pieces"] if size < length)]:
            row = measured(model, ids, piece)
            shot = row["ms"] if piece == length else shot
            row["error_against_one_shot"] = off(prefill(model, ids, piece=piece, progress=False).logits, whole)
            yield row | {"times_one_shot": round(row["ms"] / shot, 4)}


def million(sizes: dict, toy: bool) -> Iterator[dict]:
    """Prompts of growing length in pieces that choose themselves, once each; then some tokens more."""
    few = {"num_local_experts": 4}
    with building_in(DTYPE, DEVICE):
        model = prepared(MiniMaxForCausalLM(random_config(toy, **few)).eval())
    prefill(model, torch.zeros(1, 64, dtype=torch.long, device=DEVICE))  # compiles what can be compiled
    for length in sizes["million"]:
        ids = torch.randint(model.config.vocab_size, (1, length), device=DEVICE)
        row, cache = once(model, ids, None)
        row["tokens_a_second"] = round(1000 * length / row["first_ms"])
        yield row | ({"decoding": decoding(model, cache)} if length == sizes["million"][-1] else {})


def decoding(model: nn.Module, cache) -> dict:
    """Milliseconds a token after the prompt, the first of which takes the cache into buffers of its own."""
    spent, token = [], torch.zeros(1, 1, dtype=torch.long, device=DEVICE)
    tidy()
    for _ in range(DECODED):
        start = now()
        with torch.no_grad():
            logits = model(token, **{CACHE_ARGUMENT: cache}, use_cache=True).logits
        token = logits[:, -1].argmax(-1, True)
        spent.append(1000 * (now() - start))
    row = {"first_ms": round(spent[0], 2), "ms": round(median(spent[1:]), 3), "tokens": DECODED}
    if DEVICE == "cuda":
        row["peak_gb"] = round(torch.cuda.max_memory_allocated() / GB, 3)
    return row


def prepared(model: nn.Module) -> nn.Module:
    """As load() would leave it."""
    repair_cache()
    use_lightning(model, LIGHTNING)
    model.set_attn_implementation(attention.register())
    if use_fused_norms(model) == "fused":
        model.set_experts_implementation(experts.register())
    use_decoding(model, "static")
    return model


def measured(model: nn.Module, ids: Tensor, piece: int | None) -> dict:
    """A first call, which builds plans and is not in the median, and REPEATS more; memory of the last."""
    row = once(model, ids, piece)[0]
    times = []
    for _ in range(REPEATS):
        again = once(model, ids, piece)[0]
        times.append(again["first_ms"])
    return again | {"first_ms": row["first_ms"], "ms": round(median(times), 2), "least_ms": min(times)}


def once(model: nn.Module, ids: Tensor, piece: int | None) -> tuple[dict, object]:
    tidy()
    held = torch.cuda.memory_allocated() if DEVICE == "cuda" else 0
    length, asked = ids.shape[1], "asked" if piece else "chosen"
    piece = piece or piece_for(model, 1, length, length)
    start = now()
    cache = prefill(model, ids, piece=piece, progress=False).cache
    row = {"tokens": length, "piece": piece, "piece_was": asked, "first_ms": round(1000 * (now() - start), 2)}
    kept = sum(state.nbytes for state in cache.linear_cache if isinstance(state, Tensor))
    kept += sum(2 * layer.keys.untyped_storage().nbytes() for layer in cache.layers if layer.get_seq_length())
    row["cache_gb"] = round(kept / GB, 6)
    if DEVICE == "cuda":
        row["weights_gb"] = round(held / GB, 3)
        row["extra_gb"] = round((torch.cuda.max_memory_allocated() - held - kept) / GB, 3)
    return row, cache


def timed(call: Callable) -> dict:
    times = []
    for _ in range(REPEATS + 1):
        start = now()
        call()
        times.append(1000 * (now() - start))
    return {"first_ms": round(times[0], 3), "ms": round(median(times[1:]), 3)}


def now() -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def tidy() -> None:
    gc.collect()
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


PARTS = {"exact": exact, "kernels": kernels, "against": against, "million": million}


@torch.no_grad()
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true", help="small sizes, on any machine")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, with commas between them")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    toy = given.toy or DEVICE == "cpu"
    torch.manual_seed(0)
    parts = "" if given.parts == ",".join(PARTS) else f" --parts {given.parts}"
    command = f"python benchmarks/long_prompts.py{parts}" + " --toy" * toy
    with Results(given.json, command) as results:
        results.found["what"] = "long prompts in pieces" + ", toy size" * toy
        for name in given.parts.split(","):
            start = time.perf_counter()
            try:
                for row in PARTS[name](TOY if toy else REAL, toy):
                    print(name, results.add(name, row), flush=True)
            except (UsageMistake, torch.OutOfMemoryError) as error:
                print(name, results.add(name, {"status": "not run", "why": str(error)[:300]}), flush=True)
            results.found[f"{name}_seconds"] = round(time.perf_counter() - start, 1)
            tidy()
        results.found["complete"] = True
        results.save()


if __name__ == "__main__":
    main()
