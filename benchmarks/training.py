"""A training step: lightning layers of this package against Transformers' own, and packed rows against padded ones.

    python benchmarks/training.py --json notebooks/results/training_cpu.json     # the demo, on a CPU
    python benchmarks/training.py --gpu --json training_h200.json                # 2 layers at real width, bf16, LoRA
    python benchmarks/training.py --gpu --toy                                    # the same code at toy size, on a CPU

Ways take turns in each round, so that a busy machine slows all of them alike; the median of the rounds counts, and the
ratio is the median of the ratios of a round. On a CPU the processor's time is noted too, which others' work does not
lengthen as much. --gpu needs peft and 81 GB, and takes two minutes on an H200, most of them to compile kernels.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from random import Random
from unittest import mock

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.decoding.times import kernels  # noqa: E402
from minimax_nb.bench.results import Results  # noqa: E402
from minimax_nb.demo import corpus  # noqa: E402

ROWS, LENGTH = 8, 512
LORA = ["qkv_proj", "output_gate", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj"]


def step(model, batch: dict) -> float:
    """One forward and backward pass; its loss."""
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    model.zero_grad(set_to_none=True)
    return loss.item()


def timed(model, batch: dict) -> dict:
    """Seconds of a step, of the clock and of the processor, and the peak of memory on a GPU."""
    gpu = model.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    began, processor = time.perf_counter(), time.process_time()
    loss = step(model, batch)  # .item() waits for the GPU
    found = {"s": time.perf_counter() - began, "processor_s": time.process_time() - processor, "loss": loss}
    return found | ({"peak_gb": torch.cuda.max_memory_allocated() / 1e9} if gpu else {})


def compare(results: Results, what: str, ways: dict, tokens: int, rounds: int) -> None:
    """Run `ways`, a name and a call each, in turns; a row for each with its ratio to the first."""
    for call in ways.values():
        call()
    runs = [{name: call() for name, call in ways.items()} for _ in range(rounds)]
    first = next(iter(ways))
    for name in ways:
        row = {"what": what, "way": name, "tokens": tokens, "rounds": rounds}
        row |= {key: round(statistics.median(run[name][key] for run in runs), 5) for key in runs[0][name]}
        row["tokens_s"] = round(tokens / row["s"])
        for key, times in (("s", "times_as_fast"), ("processor_s", "times_as_fast_by_processor")):
            row[times] = round(statistics.median(run[first][key] / run[name][key] for run in runs), 3)
        results.add("rows", row)
        print(row)


def switched(model, backend: str, batch: dict):
    from minimax_nb.lightning import use_lightning

    def call() -> dict:
        use_lightning(model, backend)
        return timed(model, batch)

    return call


def without_attention(model, batch: dict):
    """The same step with v in place of the lightning layers' attention: the rest, which no attention makes faster."""
    from minimax_nb.lightning import layer, use_lightning

    def gated_v(qkv, gate, weight, state, rows):
        v = qkv.unflatten(-1, (len(rows.slopes), 3, -1))[..., 2, :].flatten(2)
        return v * weight * torch.sigmoid(gate), state

    def call() -> dict:
        use_lightning(model, "torch")
        with mock.patch.object(layer, "attend_norm_gate", gated_v):
            return timed(model, batch)

    return call


def dialogues(tokenizer, tokens: int) -> list[dict]:
    """Kitchen conversations of one to four turns, about so many tokens together."""
    rows, number = [], 0
    while sum(len(row["input_ids"]) for row in rows) < tokens:
        rng, messages = Random(number), []
        for turn, _ in zip(corpus.conversation(rng), range(rng.randint(1, 4)), strict=False):
            messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.reply}]
        ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False).input_ids
        rows.append({"input_ids": ids, "labels": ids})
        number += 1
    return rows


def on_cpu(results: Results, rounds: int) -> None:
    """The demo: stock against torch, and padded rows against packed ones."""
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening

    from minimax_nb.checkpoint import patch_checkpoint
    from minimax_nb.demo import demo_checkpoint
    from minimax_nb.loading import load

    folder = patch_checkpoint(demo_checkpoint(), Path("notebooks/_work/demo"))
    model, tokenizer = load(folder, device_map="cpu", quiet=True)
    model.train()
    ids = torch.randint(10, model.config.vocab_size, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    ways = {name: switched(model, name, batch) for name in ("stock", "torch")}
    ways["no lightning attention"] = without_attention(model, batch)
    compare(results, f"{ROWS} rows of {LENGTH}", ways, ids.numel(), rounds)

    rows = dialogues(tokenizer, ROWS * LENGTH // 2)
    tokenizer.padding_side = "right"
    padded, packed = DataCollatorForSeq2Seq(tokenizer)(rows), DataCollatorWithFlattening()(rows)
    results.found["padding"] = round(1 - packed["input_ids"].numel() / padded["input_ids"].numel(), 4)
    ways = {name: switched(model, "torch", dict(b)) for name, b in (("padded", padded), ("packed", packed))}
    compare(results, f"{len(rows)} dialogues", ways, packed["input_ids"].numel(), rounds)


def on_gpu(results: Results, rounds: int, toy: bool) -> None:
    """One lightning and one softmax layer at real width, bf16, LoRA on all attention: fused against stock."""
    from peft import LoraConfig, get_peft_model
    from transformers import MiniMaxConfig, MiniMaxForCausalLM

    from minimax_nb.config import patch_config
    from minimax_nb.demo.model import SIZES
    from minimax_nb.lightning import use_lightning
    from minimax_nb.original import original_config

    config = original_config(**(SIZES if toy else {}) | {"num_hidden_layers": 2, "attn_type_list": [0, 1]})
    device = "cuda" if torch.cuda.is_available() and not toy else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = MiniMaxForCausalLM(MiniMaxConfig(**patch_config(config)))
        torch.set_default_dtype(torch.float32)
    fast = use_lightning(model, "fused" if device == "cuda" else "auto")
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=LORA)).train()
    for length in (128, 256) if toy else (4096, 16384):
        ids = torch.randint(10, config["vocab_size"], (1, length), device=device)
        batch = {"input_ids": ids, "labels": ids}
        ways = {name: switched(model, name, batch) for name in dict.fromkeys(("stock", "torch", fast))}
        ways["no lightning attention"] = without_attention(model, batch)
        what = f"LoRA, bf16, 1 + 1 layers, 1 row of {length}"
        compare(results, what, ways, length, rounds)
        if device == "cuda":
            results.add("where", {"what": what, "way": fast, "kernels_us": kernels(ways[fast], 3)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gpu", action="store_true", help="real width on a GPU instead of the demo on a CPU")
    parser.add_argument("--toy", action="store_true", help="with --gpu: small sizes, on a CPU")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file of the results")
    arguments = parser.parse_args()
    with Results(arguments.json, command=" ".join(["python benchmarks/training.py", *sys.argv[1:]])) as results:
        if arguments.gpu:
            on_gpu(results, arguments.rounds, arguments.toy)
        else:
            on_cpu(results, arguments.rounds)
        results.found["complete"] = True
        results.save()


if __name__ == "__main__":
    main()
