"""What this machine has, and what it can run: each line is fine as it is, or says the command that mends it.

    for line in report():
        print(line)         # "OK    torch  2.13.0+cpu", or "MEND  ..." with the command below it

It only looks: nothing is installed, downloaded or written. A line without OK and without MEND is something
that is not here and that the course can do without; a command below it adds it. AMD GPUs are not known to it.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from .errors import UsageMistake
from .memory import available_memory
from .packages import (
    INSTALL,
    PIP,
    UNKNOWN,
    Line,
    extra_line,
    import_problem,
    package_line,
    package_version,
    pins,
    requirement,
)

GB = 10**9
FULL_MODEL = 912 * GB  # MiniMax-Text-01 in bf16: 456.1 B parameters, 2 bytes each
INT8_MODEL = 478 * GB  # the same with experts of one byte a weight and their scales (minimax_nb.plan)
CAPABILITY = (8, 0)  # Ampere: FlashAttention-2 (Dao-AILab/flash-attention, README), Triton (triton-lang/triton, README)
LADDER = 110 * GB  # what notebook 06 measures on a GPU: eight layers at real width (bench.measure.NEEDS)
BUILD = 18 * 16  # minutes times cores: flash-attn 2.8.3.post2 for sm_90 alone took 18 minutes on 16 cores
JOB = 9 * 2**30  # bytes of memory a compiler of it wants at most (setup.py of flash-attn 2.8.3)


def report(folder: str | Path = ".") -> list[Line]:
    """Everything that MiniMax on Transformers depends on; disk space is that of `folder`, which must exist."""
    lines = [_python(), *_packages(), _memory(), _disk(Path(folder))]
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a library of torch's own is missing
        mend = f"{PIP} --force-reinstall {requirement('torch')}"
        return [*lines, Line("gpu", False, f"unknown, torch does not import ({error})", mend)]
    return [
        *lines,
        *_gpus(),
        _cuda(),
        _flash_attention(),
        _fused_lightning(),
        extra_line("minimax-nb serve", "serve"),
        *_notebooks(),
    ]


def _python() -> Line:
    new_enough = sys.version_info >= (3, 11)
    mend = "" if new_enough else "make lab PY=python3.12"
    return Line("python", new_enough, platform.python_version(), mend)


def _packages() -> list[Line]:
    lines = [package_line(name, version) for name, version in pins().items()]
    if not lines:
        here = [Line(name, None, package_version(name) or "not installed") for name in ("torch", "transformers")]
        return [*here, Line("packages", None, UNKNOWN, INSTALL)]
    shown = [line for line in lines if line.name in ("torch", "transformers") or not line.ok]
    rest = len(lines) - len(shown)
    return [*shown, Line("other packages", True, f"{rest} of {rest} have the tested version")]


def _memory() -> Line:
    import psutil

    machine, free = psutil.virtual_memory(), available_memory()
    found = f"{free / GB:.0f} of {machine.total / GB:.0f} GB free"
    if free < 0.95 * machine.available:  # two looks a moment apart differ a little
        found += f" to this process, for its container or a limit: the machine has {machine.available / GB:.0f}"
    enough = free > 2 * GB
    return Line("memory", enough, found, "" if enough else "the demo needs 2 GB: close other notebooks")


def _disk(folder: Path) -> Line:
    if not folder.is_dir():
        raise UsageMistake(f"{folder} is not a folder: give one on the disk that would hold the weights")
    free = shutil.disk_usage(folder).free
    if free < GB:
        return Line("disk", False, f"{free / GB:.1f} GB free", "the demo needs 1 GB: free some")
    fits = "enough for" if free > 1.01 * FULL_MODEL else "enough for the demo, too little for"
    return Line("disk", True, f"{free / GB:.0f} GB free ({fits} the full model's {FULL_MODEL / GB:.0f} GB)")


def _gpus() -> list[Line]:
    import torch

    if not torch.cuda.is_available():
        return [_no_gpu(torch.version.cuda)]
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    what = "{0.name}, {1:.0f} GB, compute capability {0.major}.{0.minor}"
    lines = [Line(f"gpu {i}", True, what.format(gpu, gpu.total_memory / GB)) for i, gpu in enumerate(devices)]
    total = sum(gpu.total_memory for gpu in devices)
    weights = f"{FULL_MODEL / GB:.0f} GB in bf16, {INT8_MODEL / GB:.0f} with int8 experts"
    room = f"{total / GB:.0f} GB on all GPUs; the full model's weights take {weights} (minimax-nb plan says more)"
    return [*lines, Line("gpu memory", True if total > INT8_MODEL else None, room)]


def _no_gpu(built_for: str | None) -> Line:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or not driver_version():
        return Line("gpu", None, "none, not needed here: the demo runs on the CPU")
    if built_for:
        return Line("gpu", False, f"torch cannot use it: the driver must know CUDA {built_for}", "nvidia-smi")
    # pip takes 2.13.0+cpu for 2.13.0, so the CPU build has to go first
    command = f"python -m pip uninstall -y torch && {PIP} {requirement('torch')}"
    return Line("gpu", False, "there is one, but this torch is built for the CPU", command)


def _cuda() -> Line:
    import torch

    if not torch.cuda.is_available():
        return Line("cuda", None, f"not needed here: torch is built for {torch.version.cuda or 'the CPU'}")
    tools = f"driver {driver_version() or 'unknown'}, nvcc {_nvcc() or 'not found'}"
    return Line("cuda", True, f"torch is built for {torch.version.cuda}, {tools}")


class FlashAttention(NamedTuple):
    """FlashAttention-2 on this machine. `runs`: whether load() may ask for it; `advice`: what to do, in a sentence."""

    runs: bool
    installed: str  # the version of flash-attn, or nothing
    imports: bool
    capability: tuple[int, int] | None  # of the first GPU
    dtype: str  # that it would compute in
    cuda: str  # what torch is built for, or nothing
    nvcc: str  # the compiler's CUDA, or nothing
    build_minutes: int  # to expect for one architecture on these cores
    advice: str


def flash_attention_status(dtype=None) -> FlashAttention:
    """What FlashAttention-2 needs and whether it is here, for a model in `dtype` (of torch, or its name).

    Without a dtype it is that which load() would take. Looks only; imports flash_attn if it is installed.
    """
    import torch

    gpu = torch.cuda.is_available()
    name = str(dtype or ("bfloat16" if gpu else "float32")).removeprefix("torch.")
    version = package_version("flash-attn")
    imports = bool(version) and not import_problem("flash_attn")
    fits = gpu and torch.cuda.get_device_capability() >= CAPABILITY
    runs = imports and fits and name not in ("float32", "float64")
    if runs:
        advice = "FlashAttention-2 runs here: attn_implementation='flash_attention_2'"
    elif not fits:
        needs = f"an NVIDIA GPU of compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or more"
        advice = f"FlashAttention-2 needs {needs}: 'sdpa' runs everywhere"
    elif imports:
        advice = f"FlashAttention-2 computes in half precision, not in {name}: give dtype='bfloat16', or take 'sdpa'"
    else:
        line = _flash_attention()
        advice = f"FlashAttention-2 cannot run yet, flash-attn is {line.found}: {line.mend}"
    capability = torch.cuda.get_device_capability() if gpu else None
    built_for = torch.version.cuda or ""
    return FlashAttention(runs, version, imports, capability, name, built_for, _nvcc(), BUILD // _jobs(), advice)


def _flash_attention() -> Line:
    """It is compiled on the reader's machine, unless its authors offer a wheel for this very torch.

    FLASH_ATTN_CUDA_ARCHS and MAX_JOBS are read by its setup.py: one architecture instead of four, and the
    number of compilers at a time (https://github.com/Dao-AILab/flash-attention/blob/v2.8.3/setup.py, and its
    README).
    """
    import torch

    if missing := _kernel_missing("flash-attn", "half precision, nvcc"):
        return missing
    version = package_version("flash-attn")
    problem = import_problem("flash_attn") if version else ""
    if version and not problem:
        tested = pins("flash").get("flash-attn")
        return package_line("flash-attn", tested) if tested else Line("flash-attn", True, f"{version}, {UNKNOWN}")
    ok = False if problem else None  # installed and broken is worse than missing
    state = f"{version} and does not import ({problem})" if problem else "not installed"
    major = (torch.version.cuda or "").split(".")[0]
    if (_nvcc() or "").split(".")[0] != major:
        where = f"install the toolkit of CUDA {major}: https://developer.nvidia.com/cuda-downloads"
        return Line("flash-attn", ok, f"{state}, and nvcc of CUDA {major} is needed to build it", where)
    newest = 10 * torch.cuda.get_device_capability()[0]
    architecture = max(known for known in (80, 90, 100, 120) if known <= newest)
    wanted = requirement("flash-attn", "flash")
    again = "--force-reinstall --no-deps --no-cache-dir " if problem else ""
    settings = f"FLASH_ATTN_CUDA_ARCHS={architecture} MAX_JOBS={_jobs()}"
    build = f"{settings} {PIP} {again}{wanted} --no-build-isolation"
    took = f"the build took 18 minutes on 16 cores, so about {BUILD // _jobs()} here"
    return Line("flash-attn", ok, f"{state}; {took}", f"{PIP} ninja wheel && {build}")


def _jobs() -> int:
    """How many compilers of flash-attn this machine can run at a time."""
    return max(1, min(os.cpu_count() or 1, available_memory() // JOB))


def _fused_lightning() -> Line:
    name = "flash-linear-attention"
    if missing := _kernel_missing(name, "Triton"):
        return missing
    if not (tested := pins("fast").get(name)):
        version = package_version(name)
        return Line(name, True if version else None, f"{version}, {UNKNOWN}" if version else "not installed")
    line = package_line(name, tested)
    return line._replace(ok=None) if line.found == "not installed" else line


def _kernel_missing(name: str, needs: str) -> Line | None:
    """Why this machine cannot run a kernel, if it cannot."""
    import torch

    needs = f"compute capability {CAPABILITY[0]}.{CAPABILITY[1]}, {needs}"
    if not torch.cuda.is_available():
        return Line(name, None, f"not needed here; on a GPU: {needs}")
    if torch.cuda.get_device_capability() < CAPABILITY:
        return Line(name, None, f"not for this GPU; it wants {needs}")
    return None


def _notebooks() -> list[Line]:
    """Which notebooks compute what they show, and which show what was recorded."""
    import torch

    lines = [Line("notebooks 01 to 03", True, "live")]
    for name, kernel in (("notebook 04", _flash_attention()), ("notebook 05", _fused_lightning())):
        found = "live" if kernel.ok else f"live, except for {kernel.name}"
        if not torch.cuda.is_available():
            found = "live on the CPU; what needs an NVIDIA GPU was recorded"
        lines.append(Line(name, True, found))
    gpus = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    large = any(gpu.total_memory > LADDER for gpu in gpus)
    found = "live" if large else f"live on the demo; what needs a GPU of {LADDER // GB} GB was recorded"
    lines.append(Line("notebook 06", True, found))
    for name, extra in (("notebook 07", "int8"), ("notebook 08", "train")):
        needed = extra_line(name, extra)
        lines.append(needed._replace(found="live") if needed.ok else needed)
    return lines


def driver_version() -> str:
    """The version of the NVIDIA driver, or nothing."""
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0]


def _nvcc() -> str:
    """The CUDA version of the compiler that a build would use, or nothing."""
    from torch.utils.cpp_extension import CUDA_HOME

    said = _output(f"{CUDA_HOME}/bin/nvcc", "--version") if CUDA_HOME else ""
    found = re.search(r"release (\d+\.\d+)", said)
    return found[1] if found else ""


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
