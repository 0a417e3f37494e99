"""What a plan says in words: the report, why a model does not fit, and the cheapest change with which it would.

`machine` is a Capacity, `found` a minimax_nb.plan.Plan. Advice names flags of `minimax-nb plan`, or with `in_load`
what `load` takes, which knows no context and no batch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .capacity import GB, RESERVE, Capacity

if TYPE_CHECKING:
    from ..plan import Plan

KEPT = "with 1 GB kept for CUDA"
USEFUL = 1024  # tokens of context; a change that allows fewer is no advice


def missing(machine: Capacity, context: int, batch: int) -> float:
    """GB that all GPUs together lack, or else the one that lacks most, because layers are whole."""
    needed = machine.needed(context, batch, static=False)
    total = sum(needed) + machine.count * (RESERVE - machine.memory)
    return max(total, -machine.spare(context, batch, static=False)) / GB


def advice(machine: Capacity, context: int, batch: int, in_load: bool = False) -> str:
    """A sentence or two: the cheapest change first."""
    changes = []
    if not in_load and not machine.tp and machine.count > 1 and machine.shares_equally(machine.count):
        if (split := machine.other(tp=True)).fits(context, batch):
            changes.append(f"--tp (fits, up to {split.longest_context(batch):,} tokens)")
    int8 = 'int8 experts, load(path, experts="int8") or --experts int8' if in_load else "--dtype int8"
    if machine.dtype != "int8" and (other := machine.other(dtype="int8")).fits(context, batch):
        changes.append(f"{int8} (fits, up to {other.longest_context(batch):,} tokens)")
    if not in_load and (longest := machine.longest_context(batch)) >= USEFUL:
        changes.append(f"--context {longest}")
    if not in_load and batch > 1 and (most := _largest_batch(machine, context, batch)):
        changes.append(f"--batch {most}")
    if not changes:
        changes = [_more_gpus(machine, context, batch, in_load)]
    return f"Cheapest change: {'; or '.join(changes)}."


def _largest_batch(machine: Capacity, context: int, batch: int) -> int:
    low, high = 0, batch - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if machine.fits(context, middle) else (low, middle - 1)
    return low


def _more_gpus(machine: Capacity, context: int, batch: int, in_load: bool) -> str:
    """With int8 experts: the least number of such GPUs, or the least memory of so many."""
    other = machine.other(dtype="int8")
    weights = sum(gpu.weights for gpu in other.layout.gpus)
    least = max(machine.count, math.ceil(weights / machine.memory))
    int8 = "int8 experts" if in_load else "--dtype int8"
    changes = [(f"{n} such GPUs", {"gpus": n}) for n in _counts(machine, least)]
    changes += [(f"{gpus(machine.count)} of {gb} GB", {"memory": gb * GB}) for gb in _growing(machine, weights)]
    for words, change in changes:
        if (larger := other.other(**change)).fits(context, batch):
            return f"{words} with {int8} (fits, up to {larger.longest_context(batch):,} tokens)"
    return f"more or larger GPUs, with {int8}"


def _counts(machine: Capacity, least: int) -> list[int]:
    """Numbers of GPUs to try."""
    if machine.tp:
        return [n for n in range(least, machine.config["num_key_value_heads"] + 1) if machine.shares_equally(n)]
    return list(range(least, least + 4))


def _growing(machine: Capacity, weights: int) -> list[int]:
    """GB of one GPU to try, each an eighth more than the one before, up to ten times what the weights need."""
    sizes = [max(machine.memory, weights / machine.count) / GB]
    while sizes[-1] < 10 * weights / machine.count / GB:
        sizes.append(1.125 * sizes[-1])
    return [math.ceil(size) for size in sizes]


def lines(found: Plan, name: str) -> list[str]:
    unit, factor = ("GB", 1) if found.weights_gb >= 1 else ("MB", 1000)
    what = {"int8": "int8 experts, the rest in bf16"}.get(found.dtype, found.dtype)
    large = {kind: size for kind, size in found.weights_by_kind_gb.items() if size > found.weights_gb / 1000}
    kinds = ", ".join(f"{kind} {factor * size:,.1f}" for kind, size in large.items())
    reading = f"prompts in pieces of {found.piece_tokens:,} tokens" if found.piece_tokens < found.context else "prompts"
    rows = [
        ("weights", found.weights_gb, kinds),
        ("KV cache", found.kv_cache_gb, f"{found.context:,} tokens, batch {found.batch}"),
        ("lightning state", found.lightning_state_gb, "in fp32, whatever the length"),
        ("workspace", found.workspace_gb, f"at its most, for {reading} and {found.decoding} decoding"),
        ("together", found.total_gb, f"of {found.gpus * found.gpu_memory_gb:,.0f} GB"),
    ]
    split = ", tensor parallel" if found.tp else ""
    said = [f"{name}, {what}, on {gpus(found.gpus)} of {found.gpu_memory_gb:g} GB{split}"]
    said += [f"  {row:16}{factor * size:9,.1f} {unit}   {why}" for row, size, why in rows]
    held = [f"{factor * size:,.1f} {unit}" for size in found.per_gpu_gb]
    layers = [f"1/{found.gpus} of {n} layers" if found.tp else f"{n} layers" for n in found.layers_per_gpu]
    return said + _by_gpu(list(zip(layers, held, strict=True)))


def _by_gpu(held: list[tuple[str, str]]) -> list[str]:
    """A line for all GPUs that hold as many layers and as much."""
    groups = {}
    for index, same in enumerate(held):
        groups.setdefault(same, []).append(str(index))
    return [
        f"  GPU {', '.join(indexes)}: {layers}, {size}" + (" each" if len(indexes) > 1 else "")
        for (layers, size), indexes in groups.items()
    ]


def verdict(found: Plan, why: str) -> list[str]:
    if not found.fits:
        return [f"does not fit: {why}. {found.advice}"]
    longest = f"the longest context that fits: {found.max_context:,} tokens"
    if found.max_static_context < found.max_context:
        longest += f"; static decoding, the faster one, up to {found.max_static_context:,}"
    return [f"fits: the fullest GPU has {size_of(found.spare_gb)} to spare, {KEPT}", longest]


def reason(machine: Capacity, context: int, batch: int) -> str:
    """Why it does not fit."""
    weights, have = sum(gpu.weights for gpu in machine.layout.gpus) / GB, machine.count * machine.memory / GB
    if weights > have:
        return f"{size_of(weights, 0)} of weights on {size_of(have, 0)}"
    if not machine.layout.fits:
        return f"{size_of(weights, 0)} of weights do not fit in whole layers on {size_of(have, 0)}"
    lack = -machine.spare(context, batch, static=False) / GB
    return f"the fullest GPU lacks {size_of(lack)}, {KEPT}"


def gpus(count: int) -> str:
    return f"{count} GPU{'s' if count > 1 else ''}"


def size_of(gb: float, digits: int = 1) -> str:
    """In GB, or in MB where that reads better."""
    return f"{gb:,.{digits}f} GB" if gb >= 1 else f"{1000 * gb:,.1f} MB"
