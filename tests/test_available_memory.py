"""Memory that a process may use: of the machine, of its container, of its own limit; and what is said when it ends."""

import resource
from pathlib import Path

import pytest

from minimax_nb import memory
from minimax_nb.errors import UsageMistake
from minimax_nb.memory import available_memory, enough_memory

FREE = 10**9


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A machine with 1 GB free, no limits and no groups; its /sys/fs/cgroup is returned."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": FREE}))
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    return tmp_path / "cgroup"


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_without_limits_it_is_the_machine_s(machine):
    assert available_memory() == FREE


@pytest.mark.parametrize("at", ["", "a", "a/b"])
def test_the_smallest_group_counts_wherever_it_is(machine, at):
    (machine.parent / "own").write_text("0::/a/b\n")
    group(machine / "a/b", memory__max="max", memory__current="5")
    group(machine / at, memory__max="1000", memory__current="700", memory__stat="anon 600\ninactive_file 50")
    assert available_memory() == 350


def test_in_a_container_the_root_shows_its_group(machine):
    (machine.parent / "own").write_text("0::/of/the/host\n")
    group(machine, memory__max="1000", memory__current="1200")
    assert available_memory() == 0


def test_groups_of_version_1(machine):
    (machine.parent / "own").write_text("9:name=systemd:/\n4:cpu,memory:/job\n0::/\n")
    group(machine / "memory/job", memory__limit_in_bytes="2000", memory__usage_in_bytes="500")
    group(machine / "memory", memory__limit_in_bytes=str(2**63 - 4096), memory__usage_in_bytes="500")
    (machine / "memory/job/memory.stat").write_text("inactive_file 1\ntotal_inactive_file 100\n")
    assert available_memory() == 1600


def test_a_limit_on_the_process(machine, monkeypatch):
    import psutil

    used = psutil.Process().memory_info().vms
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (used + 10**8, resource.RLIM_INFINITY))
    assert 0 < available_memory() < 2 * 10**8


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator:\n can't allocate memory: you tried to allocate 4 bytes."),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_what_was_too_little_is_one_line(machine, error):
    with pytest.raises(UsageMistake) as raised, enough_memory("a test"):
        raise error
    assert str(raised.value).startswith("not enough memory for a test: 1.00 GB are free (")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [RuntimeError("another"), OSError(2, "No such file"), KeyError("x")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)), enough_memory("a test"):
        raise error


def test_a_gpu_s_memory_is_that_which_torch_tells_of():
    said = "CUDA out of memory. Tried to allocate 40.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 12.50 GiB"
    with pytest.raises(UsageMistake) as raised, enough_memory("this message"):
        raise RuntimeError(said + " is free.\nSee the documentation")
    text = str(raised.value)
    assert "40.00 GiB" in text and "12.50 GiB" in text and "GB are free" not in text and "\n" not in text
