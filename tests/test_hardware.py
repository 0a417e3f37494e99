"""The environment report, and the command line around it."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from minimax_nb import cli, hardware
from minimax_nb.demo import demo_checkpoint


def by_name() -> dict[str, hardware.Line]:
    return {line.name: line for line in hardware.report()}


def test_this_machine_is_fit():
    assert not [line for line in hardware.report() if line.ok is False]


@pytest.mark.parametrize("version", ["4.57.1", None])
def test_another_version_comes_with_the_command_that_mends_it(monkeypatch, version):
    def other(name):
        if version is None:
            raise hardware.importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(hardware.importlib.metadata, "version", other)
    line = by_name()["transformers"]
    assert line.ok is False and line.mend == f"pip install transformers=={hardware.pins()['transformers']}"
    assert (version or "not installed") in str(line)


def gpus(monkeypatch, count: int, capability: tuple[int, int]) -> None:
    major, minor = capability
    device = SimpleNamespace(name="A GPU", total_memory=80 * 10**9, major=major, minor=minor)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)


def test_gpus_are_told_with_what_their_kernels_need(monkeypatch):
    gpus(monkeypatch, 2, (9, 0))
    lines = by_name()
    assert "80 GB, compute capability 9.0" in lines["gpu 1"].found
    assert lines["gpu memory"].ok is None and "160 GB" in lines["gpu memory"].found
    assert lines["flash-attn"].mend == 'pip install --no-build-isolation "minimax-nb[flash]"'
    gpus(monkeypatch, 12, (7, 5))
    lines = by_name()
    assert lines["gpu memory"].ok is True
    assert "8.0" in lines["flash-attn"].found and not lines["flash-attn"].mend


def test_doctor_answers_in_words_and_json(capsys):
    assert cli.main(["doctor"]) == 0
    assert "transformers" in capsys.readouterr().out
    assert cli.main(["doctor", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert {line["name"] for line in lines} >= {"python", "torch", "memory", "disk"}


def test_a_conversation_on_the_command_line(tmp_path):
    folder = str(tmp_path / "demo")
    assert cli.main(["patch", str(demo_checkpoint()), folder]) == 0
    command = [sys.executable, "-m", "minimax_nb.cli", "chat", folder]
    said = "How do I make pesto?\n\n  \nDouble it.\n"  # empty lines are no messages
    done = subprocess.run(command, input=said, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.count("you>") == 5 and "Ctrl-D" in done.stdout
    assert "60 g of parmesan" in done.stdout and "120 g of parmesan" in done.stdout
