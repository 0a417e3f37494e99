"""The memory that generating takes on each GPU, measured, beside what the planner says.

A folder of zeros with the shapes of one hybrid period at real width (8 layers, 96 GB in bf16) is loaded by `load` over
all GPUs, in bf16 and, where `load` knows them, with int8 experts. Then prompts of several lengths and batches are read
and a few tokens decoded. After each the peak of every GPU (torch.cuda.max_memory_allocated) is compared with the
planner's arithmetic for the layers which that GPU holds. No figure depends on the values of the weights.

    python benchmarks/plan_memory.py --json notebooks/results/plan_memory.json [--place FOLDER]
    python benchmarks/plan_memory.py --toy        # the demo, to try the script; on a CPU nothing is measured

It needs GPUs with 110 GB together, and 2 GB of disk. On one H200 it took two minutes.
"""

import argparse
import gc
import inspect
import sys
import tempfile
from pathlib import Path

import first_hour
import torch

from minimax_nb.bench.results import Results
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.checkpoint.folder import read_config
from minimax_nb.decode.dispatch import _state
from minimax_nb.demo import demo_checkpoint
from minimax_nb.loading import load
from minimax_nb.planner.capacity import GB, RESERVE, Capacity

CASES = ((1, 1024), (1, 16384), (1, 131072), (1, 524288), (16, 1024), (16, 16384))  # batch, tokens of the prompt
TOY = ((1, 64), (1, 2000), (4, 64))
NEW = 4  # tokens decoded
GPUS = range(torch.cuda.device_count())


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--json", type=Path, help="a file for the results")
    options.add_argument("--place", type=Path, help="where the folder of zeros goes; a temporary folder if not given")
    options.add_argument("--toy", action="store_true", help="the demo in place of it")
    chosen = options.parse_args()
    if not GPUS and not chosen.toy:
        print("plan_memory.py measures GPUs and there is none: --toy runs it without measuring", file=sys.stderr)
        return 2
    with (
        tempfile.TemporaryDirectory(dir=chosen.place) as place,
        Results(chosen.json, "python benchmarks/plan_memory.py") as results,
    ):
        folder = toy_folder(Path(place)) if chosen.toy else first_hour.period_folder(Path(place))[0]
        kinds = ["bf16", "int8"] if "experts" in inspect.signature(load).parameters else ["bf16"]
        for kind in kinds:
            for row in rows_of(folder, kind, TOY if chosen.toy else CASES):
                results.add("rows", row)
                print(row, flush=True)
        results.found["complete"] = True
        results.save()
    if not GPUS:
        print("nothing was measured: that needs a GPU", file=sys.stderr)
    return 0


def toy_folder(place: Path) -> Path:
    return patch_checkpoint(demo_checkpoint(), place / "converted")


def rows_of(folder: Path, kind: str, cases: tuple):
    """A row for loading, then one for each case."""
    reset()
    free = min([torch.cuda.mem_get_info(i)[0] for i in GPUS], default=10**12)  # by which load() places the layers
    machine = Capacity(read_config(folder), max(1, len(GPUS)), free + RESERVE, kind)
    model, _ = load(folder, **({"experts": "int8"} if kind == "int8" else {}))
    layers = [gpu.layers for gpu in machine.layout.gpus]
    yield {"dtype": kind, "what": "loading", "layers": layers} | compared(machine.loading())
    yield {"dtype": kind, "what": "weights", "layers": layers} | compared(
        [g.weights for g in machine.layout.gpus], held
    )
    for batch, length in cases:
        context = length + NEW
        static = machine.fits(context, batch, static=True)
        row = {"dtype": kind, "what": "generate", "batch": batch, "tokens": length, "static": static}
        row["piece"] = machine.piece(context, batch)
        reset()
        try:
            generate(model, batch, length)
        except torch.OutOfMemoryError as error:
            yield row | {"status": "out of memory", "why": str(error).partition("\n")[0]}
            continue
        yield row | compared(machine.needed(context, batch, static))
        _state(model).decoder = None  # its buffers


def generate(model, batch: int, length: int) -> None:
    ids = torch.randint(5, 290, (batch, length), device=model.device)
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)


def held() -> list[int]:
    return [torch.cuda.memory_allocated(i) for i in GPUS]


def peaks() -> list[int]:
    return [torch.cuda.max_memory_allocated(i) for i in GPUS]


def compared(planned: list[int], measure=peaks) -> dict:
    """Of each GPU what was planned and measured, and how far apart their sums are."""
    found, gb = measure(), lambda sizes: [round(size / GB, 3) for size in sizes]
    off = round(100 * (sum(planned) / sum(found) - 1), 2) if found else None
    return {"status": "ok", "planned_gb": gb(planned), "measured_gb": gb(found), "percent_off": off}


def reset() -> None:
    gc.collect()
    for index in GPUS:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(index)


if __name__ == "__main__":
    sys.exit(main())
