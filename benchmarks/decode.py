"""A decoded token: the model's own forward pass beside the static step, and the floor of the same run.

    python benchmarks/decode.py equal speed talk --json decode.json      # a GPU with 110 GB for `speed` and `talk`
    python benchmarks/decode.py int8 --json int8.json                    # a GPU with 110 GB, half a minute
    python benchmarks/decode.py devices --json two.json                  # two GPUs
    python benchmarks/decode.py equal speed talk --toy                   # any machine
    python benchmarks/decode.py demo                                     # the shipped demo, on a CPU too

`equal`: a lightning and a softmax layer at real width, both ways against the same weights in fp32. `speed`: one hybrid
period, step by step from caches of random numbers, and prompts. `int8`: the static step of the same model, in bf16 and
then with int8 experts. `ladder`: one lever after another. `talk`: what `generate` and `Chat` make of it. `devices`: the
same four layers on one GPU and on two. "today" is the plain path with Transformers' own experts and norms. Weights are
random, from one seed; each part is written as soon as it is measured.
"""

import argparse
import gc
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.decoding.calls import demo, talk  # noqa: E402
from benchmarks.decoding.same import equal  # noqa: E402
from benchmarks.decoding.times import devices, int8, ladder, speed  # noqa: E402
from minimax_nb.bench import Results  # noqa: E402

PARTS = {"equal": equal, "speed": speed, "int8": int8, "talk": talk, "ladder": ladder, "devices": devices, "demo": demo}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--toy", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with Results(arguments.json, " ".join(["python benchmarks/decode.py", *arguments.parts])) as results:
        for part in arguments.parts:
            start = time.perf_counter()
            results.found[part] = PARTS[part](arguments.toy)
            results.found[f"{part}_seconds"] = round(time.perf_counter() - start, 1)
            results.save()
            print(part, results.found[f"{part}_seconds"], "s", flush=True)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        results.found["complete"] = True
        results.save()


if __name__ == "__main__":
    main()
