"""What this machine has, and what it can run: each line is fine as it is, or says the command that mends it.

    for line in report():
        print(line)         # "ok   torch  2.13.0+cpu" ... "MEND transformers  4.57.1, tested with 5.23.0: pip ..."

It only looks: nothing is installed, downloaded or written, and no GPU memory is taken.
"""

import importlib.metadata
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

GB = 10**9
FULL_MODEL = 912 * GB  # MiniMax-Text-01 in bf16: 456.1 B parameters, 2 bytes each
FLASH_CAPABILITY = (8, 0)  # FlashAttention-2 needs Ampere or newer (Dao-AILab/flash-attention, README)


class Line(NamedTuple):
    """One finding. `ok` is False where something must be mended, None where it merely is not there."""

    name: str
    ok: bool | None
    found: str
    mend: str = ""

    def __str__(self) -> str:
        sign = {True: "ok", False: "MEND", None: "-"}[self.ok]
        return f"{sign:5}{self.name:16}{self.found}" + (f": {self.mend}" if self.mend else "")


def report(folder: str | Path = ".") -> list[Line]:
    """Everything that MiniMax on Transformers depends on; disk space is that of `folder`."""
    lines = [_python(), *_packages(), _memory(), _disk(Path(folder))]
    gpus = _gpus()
    return [*lines, *gpus, *_extras(any(line.ok for line in gpus))]


def pins() -> dict[str, str]:
    """The versions that this package was tested with, from its own metadata: package -> version."""
    found = {}
    for requirement in importlib.metadata.requires("minimax-nb") or []:
        if match := re.match(r"([A-Za-z0-9_.-]+)==([^\s;]+)", requirement):
            found[match[1].lower()] = match[2]
    return found


def _python() -> Line:
    version = platform.python_version()
    new_enough = sys.version_info >= (3, 11)
    return Line("python", new_enough, version, "" if new_enough else "3.11 or newer is needed")


def _packages() -> list[Line]:
    return [_package(name, pins()[name]) for name in ("torch", "transformers", "accelerate", "safetensors")]


def _package(name: str, tested: str) -> Line:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Line(name, False, "not installed", f"pip install {name}=={tested}")
    if version.split("+")[0] == tested:
        return Line(name, True, version)
    return Line(name, False, f"{version}, tested with {tested}", f"pip install {name}=={tested}")


def _memory() -> Line:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / GB:.0f} of {memory.total / GB:.0f} GB free"
    enough = memory.available > 2 * GB
    return Line("memory", enough, found, "" if enough else "the demo needs 2 GB: close something")


def _disk(folder: Path) -> Line:
    free = shutil.disk_usage(folder).free
    found = f"{free / GB:.0f} GB free"
    if free < GB:
        return Line("disk", False, found, "the demo needs 1 GB: free some")
    return Line("disk", True, found + (", enough for the full model" if free > 1.01 * FULL_MODEL else ""))


def _gpus() -> list[Line]:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        if shutil.which("nvidia-smi") and not built:
            return [Line("gpu", False, "this torch is built for the CPU", f"pip install torch=={pins()['torch']}")]
        return [Line("gpu", None, "none that torch can use: the demo runs on the CPU")]
    lines = [Line("cuda", True, f"{torch.version.cuda or torch.version.hip}")]
    for i in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(i)
        found = f"{device.name}, {device.total_memory / GB:.0f} GB, compute capability {device.major}.{device.minor}"
        lines.append(Line(f"gpu {i}", True, found))
    total = sum(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
    room = f"{total / GB:.0f} GB on all GPUs; the full model has {FULL_MODEL / GB:.0f} GB of weights in bf16"
    return [*lines, Line("gpu memory", True if total > FULL_MODEL else None, room)]


def _extras(gpu: bool) -> list[Line]:
    """The optional kernels: FlashAttention-2 and flash-linear-attention."""
    import torch

    if not gpu:
        return [Line("fast kernels", None, "flash-attn and flash-linear-attention need an NVIDIA GPU")]
    lines = []
    if torch.cuda.get_device_capability() < FLASH_CAPABILITY:
        lines.append(Line("flash-attn", None, "needs compute capability 8.0 (Ampere) or newer"))
    else:
        lines.append(_extra("flash-attn", "flash", "--no-build-isolation "))
    return [*lines, _extra("flash-linear-attention", "fast", "")]


def _extra(name: str, extra: str, option: str) -> Line:
    line = _package(name, pins()[name])
    if line.ok is False and line.found == "not installed":
        return Line(name, None, "not installed", f'pip install {option}"minimax-nb[{extra}]"')
    return line
