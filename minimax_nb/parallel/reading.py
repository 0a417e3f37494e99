"""A rank's part of the weights, read from the folder by Transformers.

Transformers can split while it reads: a plan names the parameters, and each rank reads its slices from the files and
nothing else. Its own plan leaves the lightning layers whole, 35 GB of the real model on each rank, so they are added to
it here. What happens afterwards is ours. Transformers would wrap each slice in a `DTensor`, which our kernels and the
static step cannot read and torchao's int8 cannot be; here it stays a plain tensor, and layers.py adds what the ranks
computed.
"""

from pathlib import Path
from unittest.mock import patch

from torch import nn

from ..checkpoint.folder import Header
from ..errors import ConfigError, UsageMistake
from ..weights import load_model
from .ranks import ALONE, Ranks, start

QUANTISED = "tp=True cannot split a quantised folder: load the one that it was made from"
WRAP = "transformers.core_model_loading._dtensor_from_local_like"  # of a slice that was read
ATTENTION = "model.layers.*.self_attn."
# Rows of a weight are what it computes, columns what it reads. The heads of qkv_proj lie one after the other, each with
# its q, k and v, so a range of its rows is a range of heads.
PLAN = {
    ATTENTION + "qkv_proj.weight": "colwise",
    ATTENTION + "output_gate.weight": "colwise",
    ATTENTION + "norm.weight": "colwise",
    ATTENTION + "out_proj.weight": "rowwise",
    "model.embed_tokens": "replicate",  # a token reads one row of it, and a split one would need another all-reduce
}


def begin(config: dict, device_map, lightning: str) -> Ranks:
    """Join the others before anything is read; ALONE where torchrun started a single process. See `start`."""
    if device_map not in ("auto", None):
        raise UsageMistake(f"tp=True gives each process a GPU of its own: leave out device_map={device_map!r}")
    if lightning == "stock":
        raise UsageMistake("lightning='stock' cannot be split over ranks, and tp=True splits it: leave out one of them")
    if config.get("quantization_config"):
        raise UsageMistake(QUANTISED)
    ranks = start()
    if ranks.size == 1:
        return ALONE
    require_parts(config, ranks.size)
    return ranks


def require_parts(config: dict, size: int, flag: str = "torchrun --nproc-per-node") -> None:
    """UsageMistake if `size` ranks cannot take equal parts of a model with this (converted) config.

    flag: how the number of ranks is given, for the message.
    """
    parts = {"softmax KV heads": "num_key_value_heads", "heads": "num_attention_heads"}
    parts["values inside an expert"] = "intermediate_size"
    counts = {what: config[key] for what, key in parts.items()}
    fits = [n for n in range(1, counts["softmax KV heads"] + 1) if not any(count % n for count in counts.values())]
    if size in fits:
        return
    what, count = next((what, count) for what, count in counts.items() if count % size)
    may = " or ".join(map(str, fits))
    raise UsageMistake(f"{size} ranks cannot share {count} {what} equally: {flag} {may}")


def load_part(folder: Path, tensors: Header, config: dict, ranks: Ranks, **settings) -> nn.Module:
    """The model of a converted folder with this rank's part of each split parameter, on this rank's device.

    `settings` are those of `load_model`, without a device_map. ConfigError for a Transformers that cannot do it.
    """
    try:
        from transformers.core_model_loading import _dtensor_from_local_like  # noqa: F401
        from transformers.distributed import DistributedConfig
    except ImportError as missing:
        raise ConfigError(f"tp=True needs the Transformers that this kit is tested with: {missing}") from missing
    plan = dict(PLAN)
    if config.get("tie_word_embeddings") or config["vocab_size"] % ranks.size:
        plan["lm_head"] = "replicate"
    split = DistributedConfig(tp_size=ranks.size, tp_plan=plan)
    with patch(WRAP, lambda part, like: part):
        model = load_model(folder, tensors, distributed_config=split, **settings)
    for module in model.modules():
        vars(module).pop("forward", None)  # Transformers' own way to talk to the other ranks
    model.requires_grad_(False)
    _forget_the_plan(model)
    return model


def _forget_the_plan(model: nn.Module) -> None:
    """Transformers must not take the parts for DTensors later, in `generate` for one."""
    del model.config.distributed_config
    for name in ("_mesh_manager", "_device_mesh", "_tp_size", "_fsdp_size", "_is_distributed_loading_by_transformers"):
        vars(model).pop(name, None)
