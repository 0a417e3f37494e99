"""The whole model, 80 layers and 456 B parameters, on the GPUs of this machine: one command, and no checkpoint.

    python benchmarks/full_model.py --json full.json                    # int8 experts; as many layers as the GPUs hold
    python benchmarks/full_model.py --layers 40 --json full.json        # 240 GB, for 2 x H200
    python benchmarks/full_model.py --dtype bf16 --json full.json       # 8 x H200
    python benchmarks/full_model.py --toy                               # small sizes, any machine: 2 processes, gloo

The weights are random and drawn on the GPUs. Two ways, one after the other: "device_map" puts whole layers on one GPU
after another, "tensor_parallel" gives each GPU a part of every layer (it starts torchrun itself). Of each: memory
beside the plan, a decoded token at batch 1 and 8, prompts of 1k, 16k and 128k, `generate`; of the first a reply through
the server too. Every part is in the file as soon as it is measured. Those that no time is left for are skipped and say
so; `--budget` is in seconds for everything.

How long it may take, estimated from the figures of one hybrid period (notebooks/results). Of these only tensor
parallel on 2 x H200 was run: 2 minutes, of which the first prompt of 128k 48 s (full_model_h200_x2.json).

    2 x H200, 40 layers    4 minutes: whole layers 2, of which the prompt of 128k 20 s; tensor parallel 2
    8 x H100, 80 layers    6 minutes: whole layers 3, of which the prompt of 128k 45 s; tensor parallel 3, of which a
                           minute goes by before eight processes have begun and compiled their kernels
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.full.model import capacity, native  # noqa: E402
from benchmarks.full.parts import MORE, Settings, measured  # noqa: E402
from benchmarks.full.processes import launched, stop  # noqa: E402
from minimax_nb import parallel, plan  # noqa: E402
from minimax_nb.bench import Results  # noqa: E402
from minimax_nb.errors import UsageMistake  # noqa: E402
from minimax_nb.original import LAYERS, PERIOD  # noqa: E402
from minimax_nb.planner.capacity import Capacity  # noqa: E402

WAYS = ("device_map", "tensor_parallel")
LONGEST = 131072 + MORE  # tokens for which there must be room
SPARE = 0.03  # of a GPU's memory, what the default leaves free: so far may the plan be off
SHARE = 0.55  # of the time, what the first of two ways may take
LATE = 20  # seconds after its time at which a way is stopped


def most_layers(gpus: int, memory: float, int8: bool) -> int:
    """The most whole periods that fit both ways with a prompt of 128k. UsageMistake if not one does."""
    period = sum(gpu.weights for gpu in capacity(native(PERIOD), 1, memory, int8).layout.gpus)
    most = min(LAYERS // PERIOD, int(gpus * memory / period) + 1)
    for layers in range(most * PERIOD, 0, -PERIOD):
        machines = [capacity(native(layers), gpus, memory, int8)]
        if gpus in (2, 4, 8):
            machines.append(capacity(native(layers), gpus, memory, int8, parallel.Ranks(0, gpus)))
        if all(fits(machine) for machine in machines):
            return layers
    raise UsageMistake(f"{gpus} x {memory / 1e9:.0f} GB do not hold {PERIOD} layers: try --toy, or --layers")


def fits(machine: Capacity) -> bool:
    """Whether a prompt of 128k fits, and SPARE of the memory stays free. A part's single GPU is filled by us."""
    return machine.spare(LONGEST, 1, static=True) >= SPARE * machine.memory


# ---- one way, in processes of its own ------------------------------------------------------------------------------


def inside(way: str, file: Path, settings: Settings) -> None:
    """This process is a rank of the way, or all of it; rank 0 writes what was found to the file after each part."""
    ranks = parallel.ranks.start() if "RANK" in os.environ else parallel.ALONE
    found = {}

    def tell(name: str, row: dict) -> None:
        if ranks.rank == 0:
            found[name] = row
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(found))
            os.replace(partial, file)
            if row["status"] != "begun":
                print(way, name, {key: value for key, value in row.items() if key != "kernels_us"}, flush=True)

    measured(settings, ranks, tell)


def followed(way: str, given: argparse.Namespace, settings: Settings, results: Results) -> None:
    """Run a way, and copy what it has found into the results whenever there is more."""
    start, ranks = time.time(), given.gpus if way == "tensor_parallel" else 1
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "found.json"
        told = ["--inside", json.dumps([way, str(file), settings._asdict()])]
        run = launched(__file__, told, ranks, given.gpus if torch.cuda.is_available() else None)
        wrong, seen = "", None
        try:
            while run.poll() is None and not wrong:
                time.sleep(0.5)
                if time.time() > settings.until + LATE:
                    wrong = f"stopped {LATE} s after its time"
                seen = taken(file, way, results, seen)
        finally:
            stop(run)
        taken(file, way, results, seen)
    row = results.found.setdefault(way, {})
    if wrong or run.returncode:
        row["wrong"] = wrong or f"exit code {run.returncode}: its last words are in what this command printed"
    row["seconds"] = round(time.time() - start, 1)
    results.save()


def taken(file: Path, way: str, results: Results, seen: float | None) -> float | None:
    """Save what stands in a way's file if it was written after `seen`; when it was written."""
    written = file.stat().st_mtime_ns if file.exists() else None
    if written != seen:
        results.found[way] = json.loads(file.read_text())
        results.save()
    return written


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, help=f"a multiple of {PERIOD}; as many as fit if not given")
    parser.add_argument("--dtype", choices=("int8", "bf16"), default="int8", help="of the experts; the rest is bf16")
    parser.add_argument("--ways", default=",".join(WAYS), help="which, with a comma between them")
    parser.add_argument("--gpus", type=int, help="all of them if not given; on a CPU the number of processes, 2")
    parser.add_argument("--budget", type=float, default=540, help="seconds for everything")
    parser.add_argument("--toy", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.inside:
        way, file, settings = given.inside
        inside(way, Path(file), Settings(**settings))
        return 0
    start = time.time()
    seen = torch.cuda.device_count()
    given.gpus = min(given.gpus or seen, seen) if seen else given.gpus or 2
    ways = given.ways.split(",")
    if unknown := set(ways) - set(WAYS):
        parser.error(f"--ways: {unknown.pop()!r} is none of {', '.join(WAYS)}")
    if not (seen or given.toy):
        parser.error("the real size needs NVIDIA GPUs: add --toy")
    memory = min([torch.cuda.get_device_properties(i).total_memory for i in range(given.gpus) if seen], default=10**12)
    try:
        layers = given.layers or (PERIOD if given.toy else most_layers(given.gpus, memory, given.dtype == "int8"))
    except UsageMistake as mistake:
        parser.error(str(mistake))
    command = " ".join(["python benchmarks/full_model.py", *(sys.argv[1:] if arguments is None else arguments)])
    with Results(given.json, command) as results:
        results.found |= described(given, layers, memory)
        results.save()
        for index, way in enumerate(ways):
            if way == "tensor_parallel" and given.gpus == 1:
                results.found[way] = {"status": "skipped", "why": "one GPU"}
                continue
            last = index == len(ways) - 1
            until = start + given.budget * (1 if last else SHARE)
            followed(way, given, Settings(layers, given.dtype == "int8", given.toy, until), results)
        results.found |= {"seconds": round(time.time() - start, 1), "complete": True}
        results.save()
    return int(any("wrong" in results.found[way] for way in ways))


def described(given: argparse.Namespace, layers: int, memory: float) -> dict:
    """What is measured, and the plan for it as `minimax-nb plan` makes it, of whole layers and a context of 128k."""
    devices = [torch.cuda.get_device_name(i) for i in range(given.gpus)] if torch.cuda.is_available() else ["CPU"]
    found = {"what": "the whole model, random weights", "devices": devices, "gpus": given.gpus, "toy": given.toy}
    found |= {"layers": layers, "of_layers": LAYERS, "dtype": given.dtype, "budget_s": given.budget}
    with tempfile.TemporaryDirectory() as scratch:
        config = native(layers, given.toy)
        (Path(scratch) / "config.json").write_text(json.dumps(config))
        planned = plan(scratch, gpus=given.gpus, gpu_memory=memory / 1e9, dtype=given.dtype, context=LONGEST)
    return found | {"plan": planned.to_json()}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started is ended too
    sys.exit(main())
