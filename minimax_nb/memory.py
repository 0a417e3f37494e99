"""How much memory this process may still use, and one line for when it was too little.

A container or a limit on the process can allow less than the machine has free; the least of them counts.

    free = available_memory()           # bytes
    with enough_memory("copying the weights"):
        ...
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UsageMistake

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
# How torch, the loader of libraries and the system say it; Python raises MemoryError.
NOT_ENOUGH = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to map segment",
    "unable to mmap",
)
ON_A_GPU = "out of memory. tried to allocate"


def available_memory() -> int:
    """Bytes that this process can still take: of the machine, its container, and its own limit, the least."""
    import psutil

    return min([psutil.virtual_memory().available, *_left_in_groups(), *_left_of_limits()])


@contextmanager
def enough_memory(doing: str) -> Iterator[None]:
    """A UsageMistake of one line where memory ran out while `doing` something."""
    import psutil  # noqa: F401  # what the message needs is imported while there is memory for it

    try:
        yield
    except (ImportError, MemoryError, OSError, RuntimeError) as error:
        message = " ".join(str(error).split())
        if ON_A_GPU in message.lower():  # torch says how much was asked for, and what the GPU has
            raise UsageMistake(f"not enough memory for {doing}: {message}") from None
        if not isinstance(error, MemoryError) and not any(said in message.lower() for said in NOT_ENOUGH):
            raise
        reason = message or "out of memory"
        raise UsageMistake(f"not enough memory for {doing}: {_free()} ({reason})") from None


def _free() -> str:
    with suppress(MemoryError):
        return f"{available_memory() / 1e9:.2f} GB are free"
    return "nothing is free"


def _left_in_groups() -> list[int]:
    """Of each Linux control group with a limit around this process (version 2, then 1): limit less use."""
    left = []
    with suppress(OSError, ValueError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers == "":
                left += _left(CGROUPS, group, "memory.max", "memory.current")
            elif "memory" in controllers.split(","):
                left += _left(CGROUPS / "memory", group, "memory.limit_in_bytes", "memory.usage_in_bytes")
    return left


def _left(root: Path, group: str, limit: str, used: str) -> list[int]:
    """Inside a container the group of the host is not visible, and the root shows the container's own."""
    own = root / group.strip("/")
    left = []
    for folder in (own, *own.parents):
        if folder.is_relative_to(root):
            with suppress(OSError, ValueError):  # ValueError: "max", no limit
                allowed, taken = int((folder / limit).read_text()), int((folder / used).read_text())
                left.append(max(0, allowed - taken + _reclaimable(folder)))
    return left


def _reclaimable(folder: Path) -> int:
    """Bytes of files kept in memory, which count as used and are given up when they are needed."""
    with suppress(OSError, ValueError):
        entries = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int(entries.get("total_inactive_file", entries.get("inactive_file", 0)))
    return 0


def _left_of_limits() -> list[int]:
    """What `ulimit -v` and `ulimit -d` leave; nothing where there are none, as on Windows."""
    left = []
    with suppress(ImportError):
        import resource

        import psutil

        used = psutil.Process().memory_info()
        limits = {resource.RLIMIT_AS: used.vms, resource.RLIMIT_DATA: getattr(used, "data", 0)}
        for limit, taken in limits.items():
            allowed = resource.getrlimit(limit)[0]
            if allowed != resource.RLIM_INFINITY:
                left.append(max(0, allowed - taken))
    return left
