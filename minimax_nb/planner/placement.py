"""Where the parts of a model come to lie, known before a weight is read.

Each GPU gets whole decoder layers, one GPU after another, the embedding on the first and the head on the last.
Transformers cuts by the weights alone. On several GPUs we cut ourselves, by weights and keys (layers.py), so that a
conversation may be longer. What does not fit on the GPUs is left to Transformers, which puts it into CPU memory, then
on disk, and says nothing. Its functions are asked about a model without memory (PyTorch's meta device).

    place(skeleton(config), {0: 80e9, 1: 80e9, "cpu": 200e9})      # {"model.embed_tokens": 0, "model.layers.0": 0, ...}
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageMistake
from ..language import tr
from ..memory import available_memory
from ..pieces import token_bytes
from .layers import cut

if TYPE_CHECKING:
    from transformers import MiniMaxForCausalLM

AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")  # device_map, where Transformers chooses
ENDS = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
OFF_GPU = ("cpu", "disk")
INT8_ROW = 5  # bytes a row besides its values: torchao's Int8Tensor has a scale in fp32 and a zero point in int8


def skeleton(config: dict, dtype: str = "bfloat16", int8_experts: bool = False) -> MiniMaxForCausalLM:
    """The native model of a converted config, of parameters without memory; kept for the next call.

    dtype: "auto" is that of the config. With `int8_experts` each expert is int8 with what torchao keeps beside it
    (torchao 0.18.0, Int8Tensor).
    """
    if dtype == "auto":
        dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    return _skeleton(json.dumps(config, sort_keys=True), dtype, int8_experts)


@lru_cache(maxsize=4)
def _skeleton(config: str, dtype: str, int8_experts: bool) -> MiniMaxForCausalLM:
    import torch
    from transformers import MiniMaxConfig, MiniMaxForCausalLM

    with torch.device("meta"):
        built = MiniMaxConfig(**json.loads(config))
        model = MiniMaxForCausalLM._from_config(built, dtype=getattr(torch, dtype))
        for layer in model.model.layers if int8_experts else ():
            experts = layer.mlp.experts
            for name, weight in dict(experts.named_parameters()).items():
                rows = torch.empty(*weight.shape[:-1], INT8_ROW, dtype=torch.int8)
                setattr(experts, name, torch.nn.Parameter(weight.to(torch.int8), requires_grad=False))
                experts.register_parameter(f"{name}_rows", torch.nn.Parameter(rows, requires_grad=False))
    return model


def place(
    model: MiniMaxForCausalLM, memory: Mapping[int | str, float] | None = None, device_map: str = "auto"
) -> dict[str, int | str]:
    """The device of each decoder layer and of the ENDS: a GPU's number, "cpu" or "disk".

    memory: bytes by device, as Transformers' `max_memory`; None for what is free on this machine.
    """
    from transformers.integrations.accelerate import _get_device_map

    if device_map == "auto" and (balanced := _balanced(model, _of_gpus(memory))):
        return balanced
    memory = None if memory is None else {device: int(size) for device, size in memory.items()}
    with _silent():
        found = _get_device_map(model, device_map, memory, None)
    return spelled_out(found, model.config.num_hidden_layers)


def _balanced(model: MiniMaxForCausalLM, free: Mapping[int, float]) -> dict[str, int] | None:
    """Our own cut of a model over several GPUs; None for fewer, or where the weights do not fit.

    The rotation is on the first layer's GPU, because it is computed before all layers. Tied ends must share a GPU, so
    such a model is left to Transformers.
    """
    if len(free) < 2 or model.config.tie_word_embeddings:
        return None
    embedding, norm, rotation, head = ENDS
    layers = [_bytes(layer) for layer in model.model.layers]
    layers[0] += _bytes(model.model.embed_tokens)
    layers[-1] += _bytes(model.model.norm) + _bytes(model.lm_head)
    config = model.config
    pair = token_bytes(config, model.lm_head.weight.element_size())
    keys = [pair if kind == "full_attention" else 0 for kind in config.layer_types]
    longest = getattr(config, "max_position_embeddings", None) or 2**17
    if (found := cut(layers, keys, list(free.values()), longest)) is None:
        return None
    devices = [list(free)[index] for index in found]
    placed = {embedding: devices[0]} | {f"model.layers.{i}": gpu for i, gpu in enumerate(devices)}
    return placed | {norm: devices[-1], rotation: devices[0], head: devices[-1]}


def _bytes(module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def spelled_out(device_map: Mapping, layers: int) -> dict:
    """A device for each layer and each of the ENDS that a map covers ("" is the whole model).

    A layer of which a part is named otherwise counts as where the last of its parts is.
    """
    found = {}
    for name in (ENDS[0], *(f"model.layers.{i}" for i in range(layers)), *ENDS[1:]):
        keys = [key for key in device_map if key in ("", name) or f"{name}.".startswith(f"{key}.")]
        keys += [key for key in device_map if key.startswith(f"{name}.")]
        if keys:
            found[name] = device_map[max(keys, key=len)]
    return found


def settled(config: dict, dtype: str, device_map, *, offload: bool | str | Path = False, int8_experts: bool = False):
    """The device_map to load with; where Transformers would choose ("auto" and its like), what it chooses.

    UsageMistake where it would leave anything to the CPU and `offload` is False, or to the disk and `offload` is not a
    folder, or where a CPU has too little memory. A map that names those for a module itself is what the user wants.
    """
    if device_map is None or str(device_map) == "cpu":
        _require_memory(sum(weight.nbytes for weight in skeleton(config, dtype, int8_experts).parameters()))
    if not isinstance(device_map, str) or device_map not in AUTOMATIC or not (free := free_gpu_memory()):
        return device_map
    found = place(skeleton(config, dtype, int8_experts), None, device_map)
    away = [name for name, device in found.items() if device in OFF_GPU]
    if away and not offload:
        from ..plan import advice_here

        advice = advice_here(config, dtype, free, int8_experts)
        raise UsageMistake(
            f"{_counted(away, found)} would not be on a GPU, and every token would wait for that. {advice} "
            "To load it nevertheless: offload=True, or --offload"
        )
    on_disk = [name for name in away if found[name] == "disk"]
    if on_disk and offload is True:
        raise UsageMistake(
            f"{_counted(on_disk, found)} would go to the disk, because the CPU's memory is too small as well: "
            'name a folder for their weights in Python, load(path, offload="folder")'
        )
    return found


def _counted(names: list[str], placed: Mapping) -> str:
    """ "25 of 80 layers", or what else it is."""
    layers, of = (sum(".layers." in name for name in some) for some in (names, placed))
    return f"{layers} of {of} layers" if layers else " and ".join(names)


def _require_memory(needed: int) -> None:
    free = available_memory()
    if needed > free:
        raise UsageMistake(
            f"not enough memory: the weights take {needed / 1e9:,.2f} GB in this dtype, {free / 1e9:,.2f} GB are free"
        )


def free_gpu_memory() -> list[int]:
    """Bytes free on each GPU, as Transformers counts them."""
    return [int(size) for size in _of_gpus(None).values()]


def _of_gpus(memory: Mapping | None) -> dict[int, float]:
    from transformers.integrations.accelerate import get_max_memory

    found = get_max_memory() if memory is None else memory
    return {device: size for device, size in found.items() if isinstance(device, int)}


def named(device_map, layers: int) -> str:
    """Each device of a device_map in words, equal ones counted: "NVIDIA H100 x 8, CPU (25 of 80 layers)"."""
    import torch

    is_map = isinstance(device_map, Mapping)
    places = {_place(device) for device in (device_map.values() if is_map else [device_map])}
    spelled = spelled_out(device_map, layers) if is_map else {}
    by_layer = [_place(device) for name, device in spelled.items() if ".layers." in name]
    gpus = Counter(torch.cuda.get_device_name(place) for place in sorted(p for p in places if isinstance(p, int)))
    words = [f"{name} x {count}" if count > 1 else name for name, count in gpus.items()]
    for place in sorted(p for p in places if isinstance(p, str)):
        what = "CPU" if place == "cpu" else place
        if len(places) > 1:
            what += tr(" ({count} of {layers} layers)", count=by_layer.count(place), layers=layers)
        elif place == "cpu":
            threads = torch.get_num_threads()
            what += tr(" ({count} threads)", count=threads) if threads > 1 else tr(" ({count} thread)", count=threads)
        words.append(what)
    return tr(", ").join(words)


def _place(device) -> int | str:
    """A GPU's number, or the name of what is no GPU."""
    if device is None or device in AUTOMATIC:  # which `settled` leaves where there is no GPU
        return "cpu"
    name, _, index = str(device).partition(":")
    return int(index or 0) if name == "cuda" else int(name) if name.isdigit() else name


@contextmanager
def _silent() -> Iterator[None]:
    """Without the warnings that GPUs which are only thought of are not there."""
    loggers = [logging.getLogger(name) for name in ("accelerate", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
