"""Processes that a benchmark starts: one, or one for each GPU by torchrun; and how they are ended, all of them."""

import contextlib
import os
import subprocess
import sys

import psutil

from minimax_nb.workshop import free_port

GRACE = 10  # seconds


def launched(script: str, arguments: list[str], ranks: int, gpus: int | None = None) -> subprocess.Popen:
    """Start a script in `ranks` processes, which see the first `gpus` GPUs of those that this one sees."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--master-port", str(free_port())]
    command = [sys.executable, *(torchrun if ranks > 1 else []), script, *arguments]
    seen = {}
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
        seen["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[:gpus])
    return subprocess.Popen(command, start_new_session=True, env=os.environ | seen)


def stop(run: subprocess.Popen) -> None:
    """End a process and what it started. torchrun gives each rank a session of its own, so it must be told first."""
    if run.poll() is not None:
        return
    tree = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    run.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.wait(GRACE)
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    run.wait()
