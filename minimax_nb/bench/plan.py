"""What a benchmark measures, and in which order: the base of each list first, then one implementation varied at a time.

plan = planned(None, toy=True, given={"lengths": "64,256"})
cases(plan)         # [Case(dtype="float32", attention="sdpa", ...), ...]
"""

import shlex
from pathlib import Path
from typing import NamedTuple

import torch

from ..attention import NAME
from ..dtypes import SHORT, full_name
from ..errors import UsageMistake
from ..lightning.backends import BACKENDS
from ..lightning.fused import has_fused

CHOICES = {
    "attention": (NAME, "sdpa", "eager", *(f"flash_attention_{n}" for n in (2, 3, 4)), "flex_attention"),
    "lightning": tuple(name for name in BACKENDS if name != "auto"),
}


class Case(NamedTuple):
    """One row to measure. `length`: tokens of the prompt, or already in the cache when decoding."""

    dtype: str
    attention: str
    lightning: str
    what: str
    batch: int
    length: int


class Plan(NamedTuple):
    """What to vary; the first of each list is the base."""

    lengths: list[int]
    batches: list[int]
    attention: list[str]
    lightning: list[str]
    dtypes: list[str]
    repeats: int


def default_plan(small: bool) -> Plan:
    """What this machine can run; short lengths if `small`."""
    gpu = torch.cuda.is_available()
    half = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    fused = ["fused"] if gpu and has_fused() else []
    lengths = [64, 256, 1024] if small else [1024, 4096, 16384, 65536, 131072]
    attention = [*[NAME] * gpu, "sdpa", "eager", "flash_attention_2"]  # without a GPU, NAME and sdpa are one
    return Plan(
        lengths=lengths,
        batches=[1, 4 if small else 16],
        attention=attention,
        lightning=[*fused, "torch", "stock"],
        dtypes=["bfloat16" if half else "float32"],
        repeats=3 if small else 5,
    )


def cases(plan: Plan) -> list[Case]:
    """All rows, the base first. Prompts of more than one sequence are prefilled at the shortest length only."""
    found = []
    for dtype in plan.dtypes:
        others = plan.lightning[1:] if dtype == plan.dtypes[0] else []
        pairs = [(name, plan.lightning[0]) for name in plan.attention]
        for attention, lightning in pairs + [(plan.attention[0], name) for name in others]:
            for what in ("prefill", "decode"):
                for batch in plan.batches:
                    alone = what == "prefill" and batch > 1
                    lengths = [min(plan.lengths)] if alone else sorted(plan.lengths)
                    found += [Case(dtype, attention, lightning, what, batch, length) for length in lengths]
    return found


def planned(folder: Path | None, toy: bool, given: dict) -> Plan:
    """The default plan, with what the user gave in its place: lists as text with commas. UsageMistake for others."""
    plan = default_plan(small=toy or not torch.cuda.is_available())
    changes = {}
    for name, value in given.items():
        if value is not None:
            changes[name] = value if name == "repeats" else _items(name, value)
    if toy and folder:
        raise UsageMistake("--toy is without a folder: leave out one of the two")
    return plan._replace(**changes)


def _items(name: str, text: str) -> list:
    """The list that the user gave, each entry once."""
    return list(dict.fromkeys(_item(name, entry.strip()) for entry in text.split(",")))


def _item(name: str, text: str) -> str | int:
    if name in ("lengths", "batches"):
        if text.isdigit() and int(text):
            return int(text)
        raise UsageMistake(f"{text!r} is no whole number above 0: give numbers with commas between them")
    if name == "dtypes":
        return full_name(text)
    if text not in CHOICES[name]:
        raise UsageMistake(f"{text!r} is none of {', '.join(CHOICES[name])}")
    return text


def command(folder: Path | None, toy: bool, plan: Plan) -> str:
    """The command line that measures this plan again, with the defaults of today written out."""
    flags = {"lengths": plan.lengths, "batch": plan.batches}
    flags |= {"attention": plan.attention, "lightning": plan.lightning}
    flags |= {"dtype": [SHORT[name] for name in plan.dtypes], "repeats": [plan.repeats]}
    words = [f"--{name}={','.join(map(str, values))}" for name, values in flags.items()]
    return shlex.join(["minimax-nb", "bench", *([str(folder)] if folder else []), *["--toy"] * toy, *words])
