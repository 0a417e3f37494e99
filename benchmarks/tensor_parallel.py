"""Tensor parallel: two GPUs against one, in one command that starts torchrun itself.

    python benchmarks/tensor_parallel.py equal speed ends --json tensor_parallel.json     # two GPUs, about 8 minutes
    python benchmarks/tensor_parallel.py equal speed ends --toy                           # any machine, with gloo

`equal`: a small random folder through load(), with tp=True and without: logits of a prompt and of single tokens after
it by both ways of decoding, against one process in fp32, and a greedy text. `speed`: one hybrid period at real width
with random weights made on the devices: a decoded token at batch 1, 4 and 16, a prompt of 4,096, all-reduces alone. A
GPU with less than 110 GB gets 16 experts a layer in place of 32, in both runs: a token reads two of them. `ends`: the
seconds that a run takes to end after its last line, with graphs recorded, and after a rank has failed.

Each part is written as soon as it is measured. A run that does not end is stopped after `--patience` seconds, and is a
row that says so. `--gpus N` takes another number of ranks.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import MiniMaxConfig, MiniMaxForCausalLM

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.decoding.model import GPU, LIGHTNING, go, next_logits  # noqa: E402
from benchmarks.decoding.same import error  # noqa: E402
from benchmarks.decoding.times import decoded, tidy, timed  # noqa: E402
from benchmarks.full.processes import launched, stop  # noqa: E402
from minimax_nb import parallel  # noqa: E402
from minimax_nb.attention import register  # noqa: E402
from minimax_nb.bench import Clock, Results, building_in, random_config  # noqa: E402
from minimax_nb.bench.floor import rates  # noqa: E402
from minimax_nb.bench.measure import NEEDS, TOY  # noqa: E402
from minimax_nb.cache import CACHE_ARGUMENT, repair_cache  # noqa: E402
from minimax_nb.checkpoint import patch_checkpoint  # noqa: E402
from minimax_nb.decode import plainly  # noqa: E402
from minimax_nb.lightning import use_lightning  # noqa: E402
from minimax_nb.lightning.layer import lightning_layers  # noqa: E402
from minimax_nb.loading import load  # noqa: E402
from minimax_nb.original import original_config  # noqa: E402
from minimax_nb.parallel import Ranks  # noqa: E402

REPEATS = 10
FAILING = ROOT / "tests" / "parallel_failing.py"
SMALL = {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64, "rotary_dim": 32}
SMALL |= {"num_local_experts": 8, "intermediate_size": 512, "num_hidden_layers": 8}


# ---- what a process computes ---------------------------------------------------------------------------------------


def equal(folder: Path, ranks: Ranks, toy: bool) -> dict:
    """Logits, (tokens, vocabulary) in float64, and greedy token ids, by dtype and way of decoding."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        model, _ = load(folder / "converted", dtype=dtype, tp=ranks.size > 1)
        ids = torch.arange(3, 3 + 80, device=model.device)[None]
        for way in ("static", "plain"):
            with plainly(model) if way == "plain" else torch.no_grad():
                logits = forced(model, ids)
                ends = {"do_sample": False, "max_new_tokens": 40, "pad_token_id": 0, "eos_token_id": None}
                text = model.generate(ids[:, :64], attention_mask=torch.ones_like(ids[:, :64]), **ends)[0, 64:]
            found[f"{dtype} {way}"] = {"logits": logits.double().cpu(), "text": text.tolist()}
    return found


@torch.no_grad()
def forced(model: nn.Module, ids: Tensor) -> Tensor:
    """Logits after the 64th token and each of the tokens that follow, one by one."""
    out = model(ids[:, :64], use_cache=True)
    found, cache = [out.logits[0, -1]], out[CACHE_ARGUMENT]
    found += [next_logits(model, token, cache)[0] for token in ids[:, 64:].split(1, 1)]
    return torch.stack(found)


@torch.inference_mode()
def speed(folder: Path, ranks: Ranks, toy: bool) -> dict:
    experts = 32 if not GPU or torch.cuda.mem_get_info()[1] > NEEDS else 16
    model = random_part(ranks, toy, {} if toy else {"num_local_experts": experts})
    go(model, "static")
    clock, best, rows = Clock(model), rates(model.device, model.dtype), []
    held = sum(weight.nbytes for weight in model.parameters())
    found = {"rates": best, "experts_a_layer": model.config.num_local_experts, "weights_gb": round(held / 1e9, 3)}
    for batch in (1, 4, 16) if not toy else (1, 4):
        rows.append({"what": "decode", "batch": batch, "context": 1024 if not toy else 64})
        rows[-1] |= decoded(model, clock, batch, rows[-1]["context"], best)
        tidy(model)
        go(model, "static")
    length = 4096 if not toy else 128
    ids = torch.randint(model.config.vocab_size, (1, length), device=model.device)
    for _ in range(2):
        model(ids, use_cache=True, logits_to_keep=1)
    call = lambda: model(ids, use_cache=True, logits_to_keep=1)  # noqa: E731
    rows.append({"what": "prefill", "tokens": length} | timed(clock, call, 7))
    if ranks.size > 1:
        hidden = model.config.hidden_size
        for name, values in {"one token, fp32": hidden + 1, f"{length} tokens, fp32": length * (hidden + 1)}.items():
            x = torch.ones(values, device=model.device)
            rows.append({"what": f"{REPEATS} all-reduces", "of": name, "bytes": x.nbytes} | timed(clock, alone(x), 20))
    if GPU:
        found["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    next_logits(model, *one_more(model))  # a graph is there when the process ends
    return found | {"rows": rows}


def one_more(model: nn.Module) -> tuple:
    out = model(torch.ones(1, 8, dtype=torch.long, device=model.device), use_cache=True)
    return torch.ones(1, 1, dtype=torch.long, device=model.device), out[CACHE_ARGUMENT]


def alone(x: Tensor):
    """A function that adds up x over the ranks REPEATS times, by one graph on a GPU."""

    def call() -> None:
        for _ in range(REPEATS):
            dist.all_reduce(x)

    if not GPU:
        return call
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        call()
    return graph.replay


@torch.inference_mode(False)
def random_part(ranks: Ranks, toy: bool, sizes: dict) -> nn.Module:
    """One hybrid period as load() leaves it, with this rank's part of random weights."""
    torch.manual_seed(0)  # what all ranks have must be the same on all, and comes in the same order
    whole = random_config(toy, **sizes)
    config = random_config(toy, **sizes)
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"):
        setattr(config, name, getattr(whole, name) // ranks.size)
    device = torch.device("cuda", torch.cuda.current_device()) if GPU else torch.device("cpu")
    with building_in(torch.bfloat16 if GPU else torch.float32, device):
        model = MiniMaxForCausalLM(config).eval()
        model.model.embed_tokens = nn.Embedding(whole.vocab_size, whole.hidden_size)
    config.vocab_size = whole.vocab_size
    if GPU:
        model.set_attn_implementation(register())
    repair_cache()
    use_lightning(model, LIGHTNING)
    if ranks.size > 1:
        for layer in lightning_layers(model):
            layer.num_attention_heads = whole.num_attention_heads
            layer.slope_rate = layer.get_slope_rate(device)
        parallel.split(model.requires_grad_(False), ranks)
        for name, weight in model.named_parameters():
            if name.endswith(("norm.weight", "mlp.gate.weight", "embed_tokens.weight")):
                dist.broadcast(weight, 0)
    return model


# ---- the runs ------------------------------------------------------------------------------------------------------


def started(part: str, ranks: int, folder: Path, toy: bool, patience: int, script: Path = Path(__file__)) -> dict:
    """Run `part` in so many processes. What rank 0 found, and "wrong" or the seconds it took to end."""
    file = folder / "found.pt"
    file.unlink(missing_ok=True)
    arguments = [part, "--rank-of", str(folder), *(["--toy"] if toy else [])]
    run = launched(str(script), arguments, ranks, ranks if GPU else None)  # alone, load() would take all GPUs
    try:
        code = run.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        return {"wrong": f"did not end within {patience} s"}
    finally:
        stop(run)
    ended = time.time()
    found = torch.load(file, weights_only=False) if file.exists() else {}
    if code:
        found["wrong"] = f"exit code {code}"
    return found | ({"seconds_to_end": round(ended - found.pop("at"), 1)} if "at" in found else {})


def rank_of(part: str, folder: Path, toy: bool) -> None:
    """This process is a rank, or alone."""
    ranks = parallel.ranks.start() if "RANK" in os.environ else parallel.ALONE
    found = {"equal": equal, "speed": speed}[part](folder, ranks, toy)
    if ranks.rank == 0:
        torch.save(found | {"at": time.time()}, folder / "found.pt")


def write_folder(folder: Path, toy: bool) -> None:
    """A random checkpoint at FOLDER/converted, with the demo's tokenizer."""
    from transformers import AutoTokenizer

    from minimax_nb.config import patch_config
    from minimax_nb.demo import demo_checkpoint
    from minimax_nb.demo.train import export

    torch.manual_seed(0)
    config = original_config(**(TOY if toy else SMALL) | {"num_hidden_layers": 8, "vocab_size": 1536})
    model = MiniMaxForCausalLM(MiniMaxConfig(**patch_config(config)))
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    tokenizer = AutoTokenizer.from_pretrained(patch_checkpoint(demo_checkpoint(), folder / "demo"))
    export(model, config, tokenizer, folder / "original")
    patch_checkpoint(folder / "original", folder / "converted")


def compared(one: dict, many: dict) -> list[dict]:
    """Each dtype and way of both runs against one process in fp32 by the model's own forward pass."""
    want, rows = one["float32 plain"], []
    for name in ("float32 static", "float32 plain", "bfloat16 static", "bfloat16 plain"):
        row = {"what": name}
        for run, found in (("one", one[name]), ("split", many[name])):
            off = error(found["logits"], want["logits"])
            row[run] = {"median": round(off.median().item(), 7), "most": round(off.max().item(), 7)}
            row[run]["same_token"] = (found["logits"].argmax(-1) == want["logits"].argmax(-1)).sum().item()
        pairs = zip(one[name]["text"], many[name]["text"], strict=True)
        row["same_text_up_to"] = next((i for i, (a, b) in enumerate(pairs) if a != b), len(want["text"]))
        rows.append(row | {"tokens": len(want["logits"])})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="+", choices=("equal", "speed", "ends"))
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--toy", action="store_true", help="small sizes")
    parser.add_argument("--patience", type=int, default=240, help="seconds for a run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rank-of", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank_of:
        return rank_of(given.parts[0], given.rank_of, given.toy)
    toy = ["--toy"] if given.toy else []
    results = Results(given.json, " ".join(["python benchmarks/tensor_parallel.py", *given.parts, *toy]))
    for name in ("rates", "errors", "rows", "complete"):  # of another benchmark
        results.found.pop(name, None)
    results.found |= {"ranks": given.gpus, "toy": given.toy}
    with tempfile.TemporaryDirectory() as scratch:
        for part in given.parts:
            start = time.perf_counter()
            results.found[part] = measured(part, given, Path(scratch))
            results.found[f"{part}_seconds"] = round(time.perf_counter() - start, 1)
            results.save()
            print(json.dumps({part: results.found[part]}, indent=1), flush=True)


def measured(part: str, given: argparse.Namespace, folder: Path) -> dict:
    if part == "ends":
        start = time.time()
        failed = started(part, given.gpus, folder, given.toy, given.patience, FAILING)
        said = failed.get("wrong", "exit code 0, as if nothing had happened")
        return {"a_rank_fails": said, "whole_seconds": round(time.time() - start, 1)}
    if part == "equal":
        write_folder(folder, given.toy)
    one, many = (started(part, n, folder, given.toy, given.patience) for n in (1, given.gpus))
    if part == "speed" or "wrong" in one or "wrong" in many:
        return {"one": one, "split": many} if part == "speed" else {"one": one.get("wrong"), "split": many.get("wrong")}
    return {"rows": compared(one, many), "seconds_to_end": many["seconds_to_end"]}


if __name__ == "__main__":
    main()
