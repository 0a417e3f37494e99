"""Writing a folder all or nothing: beside its destination first, renamed at the end, removed after any error.

It knows nothing of what is written. A run that is killed leaves a hidden `.NAME.partial-HOST-PID`, never a NAME; the
next run on the same machine removes it.

    refuse_overlap(src, dst)
    with temporary_folder(dst) as partial:
        (partial / "config.json").write_text("{}")
"""

import errno
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError

log = logging.getLogger("minimax_nb")


@contextmanager
def temporary_folder(dst: Path) -> Iterator[Path]:
    """A folder beside `dst` that becomes `dst` at the end, and is gone after any error."""
    partial = dst.parent / f"{_partial_prefix(dst)}{os.getpid()}"
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(dst)
        partial.mkdir()
        yield partial
        if dst.is_dir():
            dst.rmdir()  # empty, or this fails and it stays
        partial.rename(dst)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CheckpointError(
                f"no space left in {dst.parent} while writing ({error.strerror}): free some"
            ) from None
        raise CheckpointError(f"{dst} cannot be written ({error}): choose another place") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _partial_prefix(dst: Path) -> str:
    return f".{dst.name}.partial-{socket.gethostname()}-"


def _remove_leftovers(dst: Path) -> None:
    """Remove what killed runs on this machine left beside `dst`; runs that are alive keep theirs."""
    import psutil

    for path in dst.parent.iterdir():
        pid = path.name.removeprefix(_partial_prefix(dst))
        if pid != path.name and pid.isdigit() and not psutil.pid_exists(int(pid)):
            log.info("removing %s, left by a run that was killed", path)
            shutil.rmtree(path, ignore_errors=True)


def refuse_overlap(src: Path, dst: Path) -> None:
    inner, outer = dst.resolve(), src.resolve()
    if inner == outer or outer in inner.parents:
        raise CheckpointError(f"{dst} lies inside {src}, which is never written to: name a folder beside it")
    if inner in outer.parents:
        raise CheckpointError(f"{dst} contains {src}: name a folder beside it")


def require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{folder} has {free / 1e9:.2f} GB free, {needed / 1e9:.2f} GB are needed: free some space"
        )
