"""The environment report, and the command line around it."""

import importlib.metadata
import json
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.utils.cpp_extension

from minimax_nb import cli, hardware, plan
from minimax_nb.bench.measure import NEEDS
from minimax_nb.errors import UsageMistake


def by_name() -> dict[str, hardware.Line]:
    return {line.name: line for line in hardware.report()}


def test_this_machine_is_fit():
    assert not [line for line in hardware.report() if line.ok is False]


def test_the_pins_are_those_of_the_project():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    written = {f"{name}=={version}" for name, version in hardware.pins().items()}
    assert written == set(project["dependencies"])
    for extra in ("flash", "fast", "int8", "serve", "train"):
        assert [f"{name}=={version}" for name, version in hardware.pins(extra).items()] == (
            project["optional-dependencies"][extra]
        )


@pytest.mark.parametrize("version", ["4.57.1", None])
def test_another_version_comes_with_the_command_that_mends_it(monkeypatch, version):
    installed(monkeypatch, transformers=version)
    line = by_name()["transformers"]
    assert line.ok is False and (version or "not installed") in line.found
    assert line.mend == f"python -m pip install transformers=={hardware.pins()['transformers']}"
    assert str(line).endswith(f"\n      -> {line.mend}")
    assert by_name()["torch"].ok and by_name()["other packages"].ok


def test_another_cpu_torch_is_mended_by_a_cpu_torch(monkeypatch):
    installed(monkeypatch, torch="2.12.0+cpu")
    assert by_name()["torch"].mend.endswith("--index-url https://download.pytorch.org/whl/cpu")


def test_a_torch_that_does_not_import_is_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    line = hardware.report()[-1]
    assert line.name == "gpu" and line.ok is False and "torch==" in line.mend


def test_without_a_list_of_tested_versions_it_says_that_nothing_was_compared(monkeypatch):
    """The package run from its folder. With a GPU, and with a torch that does not import, there are more such lines."""

    def not_installed(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", not_installed)
    lines = by_name()
    for name in ("packages", "minimax-nb serve", "notebook 07", "notebook 08"):
        assert lines[name].ok is None and "not compared" in lines[name].found and "pip install -e " in lines[name].mend
    assert lines["torch"].found == importlib.metadata.version("torch")
    assert lines["torch"].ok is lines["transformers"].ok is None
    machine(monkeypatch)
    installed(monkeypatch, flash_linear_attention=None)
    assert by_name()["flash-linear-attention"].ok is None
    installed(monkeypatch, flash_linear_attention="0.5.0")
    assert "not compared" in by_name()["flash-linear-attention"].found
    monkeypatch.setitem(sys.modules, "torch", None)
    assert hardware.report()[-1].mend.endswith("--force-reinstall torch")


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(UsageMistake, match="nope is not a folder: give one on the disk"):
        hardware.report(tmp_path / "nope")


def test_disk_and_memory_that_do_not_suffice(monkeypatch):
    disk = SimpleNamespace(free=10**8)
    monkeypatch.setattr(hardware.shutil, "disk_usage", lambda folder: disk)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10**9, total=2 * 10**9))
    assert by_name()["disk"].ok is False and by_name()["memory"].ok is False
    disk.free = 10**12
    assert by_name()["disk"].ok and "enough for the full model" in by_name()["disk"].found


def installed(monkeypatch, **versions: str | None) -> None:
    """Pretend that packages have other versions, or, with None, that they are not installed."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        found = versions.get(name.replace("-", "_"), name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name) if found == name else found

    monkeypatch.setattr(importlib.metadata, "version", version)


def machine(monkeypatch, *, count=1, capability=(9, 0), built_for="13.0", nvcc="13.0", driver="580.1\n580.1\n") -> None:
    """Pretend that this is a machine with GPUs of 80 GB; none that torch can use if `count` is 0."""
    device = SimpleNamespace(name="A GPU", total_memory=80 * 10**9, major=capability[0], minor=capability[1])
    pretended = {"is_available": count > 0, "device_count": count, "get_device_capability": capability}
    for name, value in pretended.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: device)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.utils.cpp_extension, "CUDA_HOME", "/cuda" if nvcc else None)
    said = {"nvidia-smi": driver, "/cuda/bin/nvcc": f"Cuda compilation tools, release {nvcc}, V1"}
    monkeypatch.setattr(hardware, "_output", lambda command, *options: said[command])


def test_gpus_are_told(monkeypatch):
    machine(monkeypatch, count=2)
    lines = by_name()
    assert lines["gpu 1"].found == "A GPU, 80 GB, compute capability 9.0"
    assert lines["gpu memory"].ok is None and "160 GB" in lines["gpu memory"].found
    assert "110 GB was recorded" in lines["notebook 06"].found
    assert hardware.LADDER == NEEDS
    device = torch.cuda.get_device_properties(0)
    monkeypatch.setattr(device, "total_memory", 141 * 10**9)
    assert by_name()["notebook 06"].found == "live"
    assert lines["cuda"].found == "torch is built for 13.0, driver 580.1, nvcc 13.0"
    machine(monkeypatch, count=12, nvcc=None)
    lines = by_name()
    assert lines["gpu memory"].ok is True and "nvcc not found" in lines["cuda"].found


@pytest.mark.parametrize("capability, architecture", [((8, 0), 80), ((8, 9), 80), ((9, 0), 90), ((12, 0), 120)])
def test_flash_attn_is_built_for_this_gpu_alone(monkeypatch, capability, architecture):
    machine(monkeypatch, capability=capability)
    line = by_name()["flash-attn"]
    assert line.ok is None and "18 minutes" in line.found
    assert f"FLASH_ATTN_CUDA_ARCHS={architecture} " in line.mend and "--no-build-isolation" in line.mend
    fused = by_name()["flash-linear-attention"]
    assert fused.ok is None and fused.mend.endswith(f"=={hardware.pins('fast')['flash-linear-attention']}")


@pytest.mark.parametrize("nvcc", [None, "12.8"])
def test_flash_attn_needs_a_compiler_of_the_cuda_that_torch_was_built_for(monkeypatch, nvcc):
    machine(monkeypatch, nvcc=nvcc)
    line = by_name()["flash-attn"]
    assert line.ok is None and "nvcc of CUDA 13" in line.found and "toolkit of CUDA 13" in line.mend


def test_an_older_gpu_has_no_command_for_kernels_it_cannot_run(monkeypatch):
    machine(monkeypatch, capability=(7, 5))
    for name in ("flash-attn", "flash-linear-attention"):
        assert by_name()[name].ok is None and "8.0" in by_name()[name].found and not by_name()[name].mend


def test_kernels_that_are_there(monkeypatch):
    machine(monkeypatch)
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace())
    versions = {"flash_attn": hardware.pins("flash")["flash-attn"], "flash_linear_attention": "0.5.0"}
    installed(monkeypatch, **versions)
    lines = by_name()
    assert lines["flash-attn"].ok
    assert lines["flash-linear-attention"].ok is False  # another version than the tested one
    assert lines["notebook 05"].found == "live, except for flash-linear-attention"
    installed(monkeypatch, flash_linear_attention=hardware.pins("fast")["flash-linear-attention"])
    assert by_name()["notebook 05"].found == "live"


def test_eight_gpus_of_80_gb_hold_the_model_with_int8_experts(monkeypatch):
    assert hardware.INT8_MODEL == pytest.approx(
        1e9 * plan(gpus=8, gpu_memory=80, dtype="int8", context=1000).weights_gb, rel=2e-3
    )
    machine(monkeypatch, count=8)
    assert by_name()["gpu memory"].ok is True and "478 with int8 experts" in by_name()["gpu memory"].found


def test_packages_of_an_extra_that_are_not_there_come_with_their_command(monkeypatch):
    installed(monkeypatch, torchao=None, peft="0.1")
    lines = by_name()
    assert (lines["notebook 07"].ok, lines["notebook 07"].found) == (None, "torchao not installed")
    assert lines["notebook 07"].mend == 'python -m pip install -e ".[int8]"'
    assert lines["notebook 08"].ok is False and "peft 0.1, tested with" in lines["notebook 08"].found


def test_without_a_gpu_nothing_is_missing(monkeypatch):
    machine(monkeypatch, count=0, built_for=None, driver="")
    lines = by_name()
    for name in ("gpu", "cuda", "flash-attn", "flash-linear-attention"):
        assert lines[name].ok is None and "not needed here" in lines[name].found and not lines[name].mend
    assert "compute capability 8.0, half precision, nvcc" in lines["flash-attn"].found
    assert "Triton" in lines["flash-linear-attention"].found
    assert lines["notebooks 01 to 03"].ok and lines["notebook 05"].ok
    assert lines["notebook 05"].found.startswith("live on the CPU")


@pytest.mark.parametrize("built_for, mend", [(None, "python -m pip uninstall -y torch && "), ("13.0", "nvidia-smi")])
def test_a_gpu_that_torch_cannot_use(monkeypatch, built_for, mend):
    machine(monkeypatch, count=0, built_for=built_for)
    line = by_name()["gpu"]
    assert line.ok is False and line.mend.startswith(mend)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert by_name()["gpu"].ok is None  # hidden on purpose


def test_a_tool_that_is_not_there_says_nothing():
    assert hardware._output("no-such-command-of-ours") == ""
    assert hardware._output(sys.executable, "-c", "raise SystemExit(1)") == ""


def test_doctor_answers_in_words_and_json(capsys, monkeypatch):
    assert cli.main(["doctor"]) == 0
    assert "transformers" in capsys.readouterr().out
    assert cli.main(["doctor", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert {line["name"] for line in lines} >= {"python", "torch", "memory", "disk", "cuda", "notebook 05"}
    installed(monkeypatch, transformers="4.57.1")
    assert cli.main(["doctor"]) == 1
    assert "MEND  transformers" in capsys.readouterr().out


def test_what_a_container_allows_counts(monkeypatch):
    machine_memory = SimpleNamespace(available=900 * 10**9, total=10**12)
    monkeypatch.setattr("psutil.virtual_memory", lambda: machine_memory)
    monkeypatch.setattr(hardware.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(hardware, "available_memory", lambda: 900 * 10**9)
    assert by_name()["memory"].found == "900 of 1000 GB free" and hardware._jobs() == 64
    monkeypatch.setattr(hardware, "available_memory", lambda: 20 * 10**9)
    line = by_name()["memory"]
    assert line.ok and line.found.startswith("20 of 1000 GB free") and line.found.endswith("900")
    assert hardware._jobs() == 2  # of 9 GiB each
    monkeypatch.setattr(hardware, "available_memory", lambda: 10**9)
    assert by_name()["memory"].ok is False and hardware._jobs() == 1


# FlashAttention-2: what is here, and one sentence that says what to do


def test_flash_attention_without_a_gpu(monkeypatch):
    machine(monkeypatch, count=0, built_for=None, driver="")
    status = hardware.flash_attention_status()
    assert not status.runs and status.capability is None and status.dtype == "float32"
    assert "needs an NVIDIA GPU of compute capability 8.0" in status.advice and "'sdpa'" in status.advice


def test_flash_attention_on_an_older_gpu(monkeypatch):
    machine(monkeypatch, capability=(7, 5))
    status = hardware.flash_attention_status()
    assert not status.runs and status.capability == (7, 5) and "compute capability 8.0" in status.advice


def test_flash_attention_that_could_be_built_comes_with_command_and_time(monkeypatch):
    machine(monkeypatch)
    monkeypatch.setattr(hardware.os, "cpu_count", lambda: 16)
    memory = SimpleNamespace(available=200 * 2**30, total=256 * 2**30)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    status = hardware.flash_attention_status()
    assert not status.runs and not status.installed and (status.cuda, status.nvcc) == ("13.0", "13.0")
    assert status.build_minutes == 18 and status.dtype == "bfloat16"
    assert "FLASH_ATTN_CUDA_ARCHS=90 MAX_JOBS=16 " in status.advice and "about 18 here" in status.advice
    memory.available = 40 * 2**30  # four compilers fit
    status = hardware.flash_attention_status()
    assert status.build_minutes == 72 and "MAX_JOBS=4 " in status.advice


def test_flash_attention_without_a_compiler(monkeypatch):
    machine(monkeypatch, nvcc=None)
    status = hardware.flash_attention_status()
    assert not status.nvcc and "nvcc of CUDA 13 is needed" in status.advice and "toolkit of CUDA 13" in status.advice


def test_flash_attention_built_for_another_torch_is_built_again(monkeypatch):
    machine(monkeypatch)
    installed(monkeypatch, flash_attn="2.8.3")

    def broken(name):
        raise ImportError("undefined symbol: _ZN3c10\nmore of it")

    monkeypatch.setattr(importlib, "import_module", broken)
    status = hardware.flash_attention_status()
    assert (status.runs, status.installed, status.imports) == (False, "2.8.3", False)
    assert "does not import (undefined symbol: _ZN3c10)" in status.advice and "--force-reinstall" in status.advice
    assert "\n" not in status.advice and by_name()["flash-attn"].ok is False


@pytest.mark.parametrize("dtype, runs", [(None, True), ("float16", True), (torch.bfloat16, True), ("float32", False)])
def test_flash_attention_that_is_there_runs_in_half_precision(monkeypatch, dtype, runs):
    machine(monkeypatch)
    installed(monkeypatch, flash_attn="2.8.3")
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace())
    status = hardware.flash_attention_status(dtype)
    assert status.imports and status.runs == runs
    assert ("runs here" in status.advice) == runs and ("not in float32" in status.advice) != runs


def test_flash_attention_is_looked_at_where_this_package_is_not_installed(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    machine(monkeypatch)
    monkeypatch.setattr(importlib.metadata, "requires", nothing)
    assert "pip install flash-attn --no-build-isolation" in hardware.flash_attention_status().advice
