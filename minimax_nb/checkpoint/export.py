"""The way back: a native MiniMax model, as trained or fine-tuned with Transformers, to MiniMax's original format.

What `patch_checkpoint` does is undone: q and k rows return to their original order, experts to one tensor each, the
config to the original's keys. Slopes and decay tables are not weights and are left out. Engines that read the original
format (vLLM up to 0.23, llama.cpp) need this folder, not the converted one.
"""

import json
import shutil
from pathlib import Path

from torch import Tensor

from ..errors import UsageMistake
from ..experts.held import has_int8
from ..original import DECAY_BUFFERS
from .folder import INDEX
from .shards import shard_names, unpermute
from .staging import one_writer, temporary_folder


def export_checkpoint(model, config: dict, tokenizer, dst: Path, shards: int = 2) -> Path:
    """Write `dst`: config.json (the original config, as given), sharded weights, the tokenizer's files."""
    from safetensors.torch import save_file

    weights, weight_map = original_weights(model, config), {}
    with one_writer(dst), temporary_folder(dst) as partial:
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_tokenizer(tokenizer, partial)
        for file, names in zip(shard_names(shards), split_evenly(weights, shards), strict=True):
            save_file({name: weights[name] for name in names}, partial / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": weight_map}
        (partial / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
        shutil.rmtree(dst, ignore_errors=True)  # an earlier export
    return dst


def original_weights(model, config: dict) -> dict[str, Tensor]:
    """The model's weights under the original names and in the original row order, on the CPU.

    UsageMistake for int8 experts: the original format has none, and what rounding took does not come back.
    """
    if has_int8(model):
        raise UsageMistake(
            "the experts of this model are int8, and MiniMax's format has no int8: "
            'load the unquantised folder, without experts="int8", and export that'
        )
    found = {}
    for name, tensor in model.state_dict().items():
        tensor, name = tensor.detach().cpu(), name.replace(".mlp.", ".block_sparse_moe.")
        if name.endswith(DECAY_BUFFERS):
            continue
        if name.endswith((".q_proj.weight", ".k_proj.weight")):
            tensor = unpermute(tensor, config["head_dim"], config["rotary_dim"])
        if ".experts." in name:
            found |= experts(name, tensor)
        else:
            found[name] = tensor.contiguous()
    return found


def experts(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A native expert tensor as one per expert: w1 is the gate, w3 the up and w2 the down projection."""
    prefix, _, projection = name.rpartition(".")
    parts = {"w2": tensor}
    if projection == "gate_up_proj":
        parts = dict(zip(("w1", "w3"), tensor.chunk(2, 1), strict=True))
    return {f"{prefix}.{i}.{w}.weight": part[i].clone() for w, part in parts.items() for i in range(len(tensor))}


def save_tokenizer(tokenizer, folder: Path) -> None:
    """tokenizer.json and its config, as MiniMax publishes them: no pad token, and the class GPT2Tokenizer.

    Transformers 5 reads tokenizer.json wrong under that name; `patch_checkpoint` writes another (tokenizer_check.py).
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "GPT2Tokenizer"}
    settings = {key: settings[key] for key in settings if key not in ("backend", "model_max_length")}
    path.write_text(json.dumps(settings, indent=2) + "\n")


def split_evenly(weights: dict[str, Tensor], shards: int) -> list[list[str]]:
    """Names in order, cut into runs of about equal bytes."""
    total, sofar, runs = sum(w.nbytes for w in weights.values()), 0, [[] for _ in range(shards)]
    for name, tensor in weights.items():
        runs[min(shards - 1, sofar * shards // total)].append(name)
        sofar += tensor.nbytes
    return runs
