"""A notebook that takes more than three times its budget fails a run of nbval, which prints the seconds of each."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.mark.parametrize("stated, takes, code", [("60 s", 0, 0), ("1 s", 3.1, 1)])
def test_over_budget_fails_the_run(tmp_path, stated, takes, code):
    shutil.copy(NOTEBOOKS / "conftest.py", tmp_path)
    (tmp_path / "README.md").write_text(f"| [01 Slow](01_slow.ipynb) | sleeps | {stated} |\n")
    cell = nbformat.v4.new_code_cell(f"import time\n\ntime.sleep({takes})")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "01_slow.ipynb")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-current-env",
        "--rootdir=.",
        "-p",
        "no:cacheprovider",
    ]
    run = subprocess.run([*command, "."], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == code and "1 passed" in run.stdout
    (line,) = re.findall(r"^ +\d+\.\d s  01_slow\.ipynb: (.*)$", run.stdout, flags=re.MULTILINE)
    assert line.startswith("OVER three times its budget" if code else "budget, 60 s")


def test_each_notebook_states_a_budget():
    table = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    stated = set(re.findall(r"^\| \[?(\d\d) .*\| \d+ s \|$", table, flags=re.MULTILINE))
    assert {path.name[:2] for path in NOTEBOOKS.glob("*.ipynb")} <= stated
