"""Does llama.cpp compute with a restored adapter, and a restored merged model, what Transformers computes?

The demo gets a random LoRA adapter on every linear layer, experts included (PEFT's all-linear, which gives gate_up_proj
twice the rank). Merged by PEFT, its logits are what llama.cpp should give: of the merged folder, taken back, and of the
demo's own folder with the adapter, taken back. "ranks kept" is the adapter as it would be if each layer kept its own
rank.

llama.cpp's converters and its Python package come from one source package, see benchmarks/against_llama_cpp.py for how
to build it. With the kit, peft and llama-cpp-python in one environment:

    python benchmarks/restored_adapter.py --llama-cpp llama_cpp_python-0.3.36/vendor/llama.cpp --json FILE

Exit code 1 if one of the two is more than twice as far off as the demo without an adapter.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from minimax_nb.bench import Results  # noqa: E402
from minimax_nb.checkpoint import adapter, patch_checkpoint, restore_checkpoint  # noqa: E402
from minimax_nb.demo import demo_checkpoint  # noqa: E402
from minimax_nb.loading import load  # noqa: E402

TEXT = "The mayonnaise needs 3 yolks and 250 ml of oil. My order number is 45108."
# The converter knows tokenizers by a hash, and not the demo's. Here only ids are computed with, so any name will do.
CONVERT = """
import runpy, sys
place, program = sys.argv[1:3]
sys.path[:0] = [place, f"{place}/gguf-py"]
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
del sys.argv[1:3]
runpy.run_path(f"{place}/{program}", run_name="__main__")
"""


def convert(llama_cpp: Path, program: str, *arguments) -> None:
    command = [sys.executable, "-c", CONVERT, llama_cpp, program, "--outtype", "f32", *arguments]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=True, **quiet)


def llama_logits(model: Path, ids: list[int], lora: Path | None = None) -> torch.Tensor:
    """(tokens, vocabulary)"""
    from llama_cpp import Llama

    llama = Llama(str(model), lora_path=lora and str(lora), logits_all=True, n_ctx=256, verbose=False)
    llama.eval(ids)
    return torch.tensor(llama.scores[: len(ids)])


@torch.no_grad()
def logits(model, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]), use_cache=False).logits[0]


def with_random_adapter(model):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)  # for A, which PEFT draws
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def restore_with_its_ranks(lora: Path, dst: Path) -> Path:
    """What restore_checkpoint avoids: the layers keep their ranks, under the one alpha of the config."""
    settings, alike = json.loads((lora / adapter.CONFIG).read_text()), adapter._alike
    adapter._alike = lambda loras: (loras, settings["r"], settings["lora_alpha"])
    try:
        return adapter.restore_adapter(lora, dst, demo_checkpoint())
    finally:
        adapter._alike = alike


def off(got: torch.Tensor, want: torch.Tensor) -> float:
    """Norm of the difference over the norm of what it should be."""
    return float(f"{((got.double() - want.double()).norm() / want.double().norm()).item():.2e}")


def measure(llama_cpp: Path, place: Path) -> dict:
    converted = patch_checkpoint(demo_checkpoint(), place / "converted")
    model, tokenizer = load(converted, dtype="float32", device_map="cpu", quiet=True)
    ids = tokenizer(TEXT)["input_ids"]
    alone = logits(model, ids)
    model = with_random_adapter(model)
    model.save_pretrained(place / "lora")
    model = model.merge_and_unload()
    model.save_pretrained(place / "merged")
    tokenizer.save_pretrained(place / "merged")
    want = logits(model, ids)

    folders = {"demo": demo_checkpoint(), "merged": restore_checkpoint(place / "merged", place / "merged-back")}
    loras = {"adapter": restore_checkpoint(place / "lora", place / "lora-back", original=demo_checkpoint())}
    loras["ranks kept"] = restore_with_its_ranks(place / "lora", place / "lora-ranks")
    for name, folder in folders.items():
        convert(llama_cpp, "convert_hf_to_gguf.py", folder, "--outfile", place / f"{name}.gguf")
    for name, folder in loras.items():
        more = ("--base", demo_checkpoint(), "--outfile", place / f"{name}.gguf")
        convert(llama_cpp, "convert_lora_to_gguf.py", folder, *more)
    demo = place / "demo.gguf"
    found = {"tokens": len(ids), "moved by the adapter": off(want, alone), "demo": off(llama_logits(demo, ids), alone)}
    found["merged"] = off(llama_logits(place / "merged.gguf", ids), want)
    return found | {name: off(llama_logits(demo, ids, place / f"{name}.gguf"), want) for name in loras}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--llama-cpp", type=Path, required=True, help="the folder with convert_hf_to_gguf.py")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    arguments = parser.parse_args()
    command = "python benchmarks/restored_adapter.py --llama-cpp llama_cpp_python/vendor/llama.cpp --json FILE"
    with tempfile.TemporaryDirectory() as place, Results(arguments.json, command) as results:
        found = measure(arguments.llama_cpp.resolve(), Path(place))
        results.found["versions"] |= {name: version(name) for name in ("peft", "llama-cpp-python")}
        results.found |= {"relative error of the logits": found, "complete": True}
        results.save()
    for name, value in found.items():
        print(f"{name:22}{value}")
    return int(max(found["merged"], found["adapter"]) > 2 * found["demo"])


if __name__ == "__main__":
    sys.exit(main())
