"""Which kernel should PyTorch's attention take? One softmax layer of MiniMax-Text-01's width, whole, on a GPU.

    python benchmarks/sdpa_kernels.py --json FILE
    python benchmarks/sdpa_kernels.py --toy             # small, on any machine

cuDNN builds a plan for each shape that it meets for the first time. So a prompt is timed twice, as the first
of its length and again, and decoding is timed as it is: the cache grows with every token. "avoiding" is cuDNN
with TORCH_CUDNN_SDPA_AVOID_RECOMPILE=1 (https://github.com/pytorch/pytorch/pull/155958), in a process of its
own.
"""

import argparse
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.models.minimax.modeling_minimax import MiniMaxAttention, MiniMaxCache, MiniMaxRotaryEmbedding

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from minimax_nb.attention import register  # noqa: E402
from minimax_nb.bench.clock import Clock, sdpa_kernels  # noqa: E402
from minimax_nb.bench.measure import building_in, random_config  # noqa: E402
from minimax_nb.bench.results import Results  # noqa: E402
from minimax_nb.cache import CACHE_ARGUMENT  # noqa: E402
from minimax_nb.hardware import flash_attention_status  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
AVOIDING = "TORCH_CUDNN_SDPA_AVOID_RECOMPILE"
FORMS = {
    "as published": ("sdpa", nullcontext),
    "by length": (register(), nullcontext),
    "flash": ("sdpa", lambda: sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])),
    "flash_attention_2": ("flash_attention_2", nullcontext),
}
STEPS = 20


class Layer:
    """One softmax layer, and what it is called with."""

    def __init__(self, toy: bool):
        self.config = random_config(toy)
        with building_in(DTYPE, DEVICE):
            self.attention = MiniMaxAttention(self.config, layer_idx=0)
        self.rotary = MiniMaxRotaryEmbedding(self.config).to(DEVICE)
        self.clock, self.fresh = Clock(nn.Module(), torch.device(DEVICE)), count(1)

    def __call__(self, batch: int, new: int, past: int = 0, cache=None, mask=None):
        x = torch.randn(batch, new, self.config.hidden_size, device=DEVICE, dtype=DTYPE)
        angles = self.rotary(x, torch.arange(past, past + new, device=DEVICE)[None])
        return self.clock.time(lambda: self.attention(x, angles, mask, **{CACHE_ARGUMENT: cache}))

    def prefill(self, length: int) -> dict:
        """Milliseconds of the first call of a length, of three lengths that no call had, and of the last again."""
        self(1, 16)
        sizes = [length + 8 * next(self.fresh) for _ in range(3)]
        first, again = [self(1, size) for size in sizes], [self(1, sizes[-1]) for _ in range(5)]
        return {"first_ms": round(median(first), 3), "again_ms": round(median(again), 3)}

    def decode(self, batch: int, past: int, masked: bool) -> dict:
        """Milliseconds of each of some steps, the first one left out, and of a second layer in the same steps."""
        caches, steps = [self.cache(batch, past), self.cache(batch, past)], []
        for at in range(past, past + STEPS + 1):
            mask = torch.ones(batch, 1, 1, at + 1, dtype=torch.bool, device=DEVICE) if masked else None
            if masked:
                mask[0, ..., :5] = False
            steps.append([self(batch, 1, at, cache, mask) for cache in caches])
        first, second = zip(*steps[1:], strict=True)
        found = {"ms": median(first), "least_ms": min(first), "most_ms": max(first), "second_layer_ms": median(second)}
        return {name: round(value, 3) for name, value in found.items()}

    def cache(self, batch: int, past: int) -> MiniMaxCache:
        """Random keys and values of `past` tokens."""
        cache, size = MiniMaxCache(), (batch, self.config.num_key_value_heads, past, self.config.head_dim)
        cache.update(*(torch.randn(size, device=DEVICE, dtype=DTYPE) for _ in range(2)), 0)
        return cache


def rows(toy: bool, forms: list[str]):
    layer = Layer(toy)
    lengths = [64, 128] if toy else [1024, 4096, 16384, 32768, 65536, 131072]
    kept = [64] if toy else [1024, 16384, 131072]
    for form in forms:
        attention, kernels = FORMS[form]
        layer.config._attn_implementation = attention
        cases = [("prefill", 1, n, False, lambda n=n: layer.prefill(n)) for n in lengths]
        for batch, masked in ((1, False), (16, False), (16, True)):
            if not (masked and attention == "flash_attention_2"):
                for n in kept[: 3 if batch == 1 else 2]:
                    call = lambda b=batch, n=n, m=masked: layer.decode(b, n, m)  # noqa: E731
                    cases.append(("decode", batch, n, masked, call))
        for what, batch, length, masked, measure in cases:
            row = {"form": form, "what": what, "batch": batch, "length": length, "masked": masked}
            with torch.inference_mode(), kernels(), sdpa_kernels() as picked:
                try:
                    row |= measure()
                except RuntimeError as error:
                    row["problem"] = str(error).partition("\n")[0][:200]
            yield row | {"kernel": ", ".join(sorted(picked)) or attention}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--avoiding", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.avoiding:
        for row in rows(arguments.toy, ["as published"]):
            print(json.dumps(row | {"form": "avoiding"}), flush=True)
        return
    with Results(arguments.json, "python benchmarks/sdpa_kernels.py") as results:
        results.found |= {"what": "one softmax layer, by kernel of PyTorch's attention", "dtype": str(DTYPE)[6:]}
        forms = [form for form in FORMS if form != "flash_attention_2" or flash_attention_status(DTYPE).runs]
        for row in rows(arguments.toy, forms):
            print(json.dumps(results.add("rows", row)), flush=True)
        for row in rows_of_another_process(arguments.toy):
            print(json.dumps(results.add("rows", row)), flush=True)
        results.found["complete"] = True
        results.save()


def rows_of_another_process(toy: bool) -> list[dict]:
    """Those of "avoiding", which PyTorch decides when it is imported."""
    command = [sys.executable, __file__, "--avoiding", *["--toy"] * toy]
    done = subprocess.run(command, env=os.environ | {AVOIDING: "1"}, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


if __name__ == "__main__":
    main()
