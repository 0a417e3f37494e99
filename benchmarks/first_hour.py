"""What the first hour with the real model costs, measured on stand-ins: right headers, right sizes, zeros, no disk.

Converts a folder with the shapes of the whole model (80 layers, 912 GB apparent). On a machine with GPUs it
instead loads one hybrid period at real width (8 layers, 96 GB) over all of them, and generates. Zeros in a
sparse file are read at the speed of memory: a real disk takes longer. No figure of time or memory here
depends on the values but one: which experts a token goes to. Prints one JSON object.

    python benchmarks/first_hour.py [WORKDIR]    # 2 GB of disk; GPUs of 120 GB together
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import convert_sparse as sparse
import torch

from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.demo import demo_checkpoint
from minimax_nb.lightning import has_fused, use_lightning
from minimax_nb.loading import load

PROMPT, NEW = 1024, 32  # tokens
LONG = 16384


def convert_the_whole() -> None:
    sparse.SHARDS, sparse.LAYERS = 414, 80
    sparse.main()


def period_folder(place: Path) -> tuple[Path, int]:
    """A converted folder of one hybrid period, all zeros, and the bytes of its weights."""
    size = sparse.write_sparse(place / "original")
    for file in [*demo_checkpoint().glob("tokenizer*"), *demo_checkpoint().glob("*.jinja")]:
        shutil.copy(file, place / "original")  # any tokenizer will do: token ids are drawn at random
    return patch_checkpoint(place / "original", place / "converted"), size


def load_a_period(place: Path) -> dict:
    """Seconds to load, GB on each GPU, ms a token, and what a long prompt does under each attention."""
    folder, size = period_folder(place)
    start = time.perf_counter()
    model, _ = load(folder)
    result = {"weights_bytes": size, "load_seconds": round(time.perf_counter() - start, 1)}
    gpus = range(torch.cuda.device_count())
    result["layers_on_gpu"] = [sum(".layers." in k and v == i for k, v in model.hf_device_map.items()) for i in gpus]
    result["gpu_bytes"] = [torch.cuda.memory_allocated(i) for i in gpus]
    result["gpu_peak_bytes_while_loading"] = [torch.cuda.max_memory_allocated(i) for i in gpus]
    backends = ("stock", "torch", "fused") if has_fused() else ("stock", "torch")
    result["decode_ms_a_token"] = {name: round(decode_ms(model, name), 1) for name in backends}
    return result | {f"{name}_{LONG}_tokens": long_prompt(model, name) for name in ("sdpa", "eager")}


def decode_ms(model, lightning: str) -> float:
    """Batch 1: the time of NEW more tokens than one, after a run to warm up."""
    use_lightning(model, lightning)
    ids, seconds = torch.randint(5, 290, (1, PROMPT), device=model.device), {}
    for new in (NEW + 1, 1, NEW + 1):
        start = time.perf_counter()
        model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False).tolist()
        seconds[new] = time.perf_counter() - start
    return 1000 * (seconds[NEW + 1] - seconds[1]) / NEW


@torch.no_grad()
def long_prompt(model, attention: str) -> str:
    model.set_attn_implementation(attention)
    try:
        model(torch.randint(5, 290, (1, LONG), device=model.device), logits_to_keep=1)
    except torch.OutOfMemoryError as error:
        return str(error).split(" GPU ")[0]
    return "fits"


def main() -> None:
    if not torch.cuda.is_available():
        convert_the_whole()
        return
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as place:
        result = load_a_period(Path(place))
    result["device"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(json.dumps(result | {"torch": torch.__version__}, indent=2))


if __name__ == "__main__":
    main()
