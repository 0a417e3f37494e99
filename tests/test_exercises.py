"""The folded solutions of the notebooks: each runs where it stands, and its asserts hold."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```", re.DOTALL)


def script(notebook: Path) -> tuple[str, int]:
    """All code of a notebook with the solutions in their places, and how many there are."""
    parts, count = ["import matplotlib; matplotlib.use('agg')"], 0
    for cell in nbformat.read(notebook, 4).cells:
        found = [cell.source] if cell.cell_type == "code" else SOLUTION.findall(cell.source)
        count += len(found) if cell.cell_type == "markdown" else 0
        parts += found
    return "\n\n".join(parts), count


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_solutions_solve(notebook):
    code, solutions = script(notebook)
    assert solutions >= 2 and "assert" in code
    run = subprocess.run([sys.executable, "-c", code], cwd=notebook.parent, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
