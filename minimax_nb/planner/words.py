"""What a plan says in words: the report, why a model does not fit, and the cheapest change with which it would.

`machine` is a Capacity, `found` a minimax_nb.plan.Plan. Advice names flags of `minimax-nb plan`, or with `in_load`
what `load` takes, which knows no context and no batch. All of it is in the language that is spoken here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..language import mark, padded, tr
from .capacity import GB, RESERVE, Capacity

if TYPE_CHECKING:
    from ..plan import Plan

KEPT = mark("with 1 GB kept for CUDA")
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
            changes.append(_fits("--tp", split, batch))
    int8 = tr('int8 experts, load(path, experts="int8") or --experts int8') if in_load else "--dtype int8"
    if machine.dtype != "int8" and (other := machine.other(dtype="int8")).fits(context, batch):
        changes.append(_fits(int8, other, batch))
    if not in_load and (longest := machine.longest_context(batch)) >= USEFUL:
        changes.append(f"--context {longest}")
    if not in_load and batch > 1 and (most := _largest_batch(machine, context, batch)):
        changes.append(f"--batch {most}")
    if not changes:
        changes = [_more_gpus(machine, context, batch, in_load)]
    return tr("Cheapest change: {changes}.", changes=tr("; or ").join(changes))


def _fits(change: str, machine: Capacity, batch: int) -> str:
    return tr("{change} (fits, up to {tokens} tokens)", change=change, tokens=f"{machine.longest_context(batch):,}")


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
    int8 = tr("int8 experts") if in_load else "--dtype int8"
    changes = [(tr("{count} such GPUs", count=n), {"gpus": n}) for n in _counts(machine, least)]
    changes += [(_of_memory(machine.count, gb), {"memory": gb * GB}) for gb in _growing(machine, weights)]
    for words, change in changes:
        if (larger := other.other(**change)).fits(context, batch):
            return _fits(tr("{machine} with {int8}", machine=words, int8=int8), larger, batch)
    return tr("more or larger GPUs, with {int8}", int8=int8)


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
    what = tr("int8 experts, the rest in bf16") if found.dtype == "int8" else found.dtype
    large = {kind: size for kind, size in found.weights_by_kind_gb.items() if size > found.weights_gb / 1000}
    kinds = tr(", ").join(f"{tr(kind)} {factor * size:,.1f}" for kind, size in large.items())
    batch = tr("{context} tokens, batch {batch}", context=f"{found.context:,}", batch=found.batch)
    rows = [
        (tr("weights"), found.weights_gb, kinds),
        (tr("KV cache"), found.kv_cache_gb, batch),
        (tr("lightning state"), found.lightning_state_gb, tr("in fp32, whatever the length")),
        (tr("workspace"), found.workspace_gb, _busiest(found)),
        (tr("together"), found.total_gb, tr("of {total} GB", total=f"{found.gpus * found.gpu_memory_gb:,.0f}")),
    ]
    title = {"model": name, "dtype": what, "gpus": _of_memory(found.gpus, f"{found.gpu_memory_gb:g}")}
    said = [tr("{model}, {dtype}, on {gpus}, tensor parallel", **title)]
    if not found.tp:
        said = [tr("{model}, {dtype}, on {gpus}", **title)]
    said += [f"  {padded(row, 16)}{factor * size:9,.1f} {unit}   {why}" for row, size, why in rows]
    held = [f"{factor * size:,.1f} {unit}" for size in found.per_gpu_gb]
    return said + _by_gpu(list(zip(layers(found), held, strict=True)))


def _busiest(found: Plan) -> str:
    """At what the workspace is so large."""
    reading = tr("prompts in pieces of {tokens} tokens", tokens=f"{found.piece_tokens:,}")
    if found.piece_tokens >= found.context:
        reading = tr("prompts")
    return tr("at its most, for {reading} and {decoding}", reading=reading, decoding=decoding(found))


def decoding(found: Plan) -> str:
    return tr("static decoding") if found.decoding == "static" else tr("plain decoding")


def layers(found: Plan) -> list[str]:
    """What each GPU has of them."""
    if found.tp:
        return [tr("1/{gpus} of {layers} layers", gpus=found.gpus, layers=n) for n in found.layers_per_gpu]
    return [tr("{layers} layers", layers=n) for n in found.layers_per_gpu]


def _by_gpu(held: list[tuple[str, str]]) -> list[str]:
    """A line for all GPUs that hold as many layers and as much."""
    groups = {}
    for index, same in enumerate(held):
        groups.setdefault(same, []).append(str(index))
    lines = []
    for (layers, size), indexes in groups.items():
        held = {"gpus": tr(", ").join(indexes), "layers": layers, "size": size}
        alike = tr("GPU {gpus}: {layers}, {size} each", **held)
        lines.append("  " + (alike if len(indexes) > 1 else tr("GPU {gpus}: {layers}, {size}", **held)))
    return lines


def verdict(found: Plan, why: str) -> list[str]:
    if not found.fits:
        return [tr("does not fit: {why}. {advice}", why=why, advice=found.advice)]
    longest = tr("the longest context that fits: {tokens} tokens", tokens=f"{found.max_context:,}")
    if found.max_static_context < found.max_context:
        longest += tr("; static decoding, the faster one, up to {tokens}", tokens=f"{found.max_static_context:,}")
    spare = {"spare": size_of(found.spare_gb), "kept": tr(KEPT)}
    return [tr("fits: the fullest GPU has {spare} to spare, {kept}", **spare), longest]


def reason(machine: Capacity, context: int, batch: int) -> str:
    """Why it does not fit."""
    weights, have = sum(gpu.weights for gpu in machine.layout.gpus) / GB, machine.count * machine.memory / GB
    if weights > have:
        return tr("{weights} of weights on {have}", weights=size_of(weights, 0), have=size_of(have, 0))
    if not machine.layout.fits:
        sizes = {"weights": size_of(weights, 0), "have": size_of(have, 0)}
        return tr("{weights} of weights do not fit in whole layers on {have}", **sizes)
    lack = -machine.spare(context, batch, static=False) / GB
    return tr("the fullest GPU lacks {lack}, {kept}", lack=size_of(lack), kept=tr(KEPT))


def gpus(count: int) -> str:
    return tr("{count} GPUs", count=count) if count > 1 else tr("{count} GPU", count=count)


def _of_memory(count: int, gb) -> str:
    return tr("{gpus} of {memory} GB", gpus=gpus(count), memory=gb)


def size_of(gb: float, digits: int = 1) -> str:
    """In GB, or in MB where that reads better."""
    return f"{gb:,.{digits}f} GB" if gb >= 1 else f"{1000 * gb:,.1f} MB"
