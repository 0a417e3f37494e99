"""The scripts behind the figures: each still finds what it imports. They run by hand, so nothing else would tell."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))
ONLY_WITH_A_GPU = {"triton", "fla", "flash_attn"}  # packages that the tests do without


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_benchmark_finds_what_it_imports(script, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])  # as Python has it for a script
    try:
        found = runpy.run_path(str(script), run_name="imported")
    except ModuleNotFoundError as error:
        if error.name not in ONLY_WITH_A_GPU:
            raise
        pytest.skip(f"needs {error.name}")
    assert callable(found["main"])
