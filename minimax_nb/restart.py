"""Start a notebook in the middle: run what stands above a section, as far as it was not run.

    from minimax_nb import restart

    restart.at("02", "Trap 3: full RoPE")

For a kernel that was started anew, and for sections that were skipped. Where everything above has run, nothing happens
and nothing is printed. A cell counts as run if IPython's history holds it, or something close to it: what is edited in
the browser is not in the file yet. One that failed does not count. Widgets are left out, as no later cell needs them.
The notebook is found in the folder in which it runs. Nothing happens where all code runs in order anyway: in plain
Python, and under nbval.
"""

import json
import sys
from collections.abc import Collection
from difflib import get_close_matches
from itertools import dropwhile
from pathlib import Path

LEFT_OUT = "restart.at(", "widgets import"
RAN = "_restart_ran"  # in the kernel's namespace, as its history does not hold what `at` has run; %reset empties both


def at(number: str, section: str) -> None:
    """Run the code above `section` (a heading of level 2) in notebook `number`, from the first cell that was not run.

    FileNotFoundError or ValueError if there is no such notebook or section, RuntimeError if a cell fails.
    """
    from tqdm import tqdm

    if (shell := with_history()) is None:
        return
    path = find(number)
    ours = shell.user_ns.setdefault(RAN, set())
    left = not_run(above(path, section), ours | succeeded(shell))
    for source in tqdm(left, "the cells above", delay=2, leave=False, file=sys.stdout):  # drawn after 2 s
        run(shell, source, path.name)
        ours.add(source)
    if left:
        print(f"cells above that were run: {len(left)}")


def with_history():
    """IPython's shell, if it keeps what is run: then the last entry is the call of `at`. Under nbval it does not."""
    from IPython import get_ipython

    shell = get_ipython()
    return shell if shell and "restart.at(" in shell.history_manager.input_hist_raw[-1] else None


def find(number: str) -> Path:
    """The notebook in this folder; of several, such as copies, the one with the shortest name."""
    if found := list(Path().glob(f"{number}_*.ipynb")):
        return min(found, key=lambda path: len(path.name))
    raise FileNotFoundError(
        f"no notebook {number}_*.ipynb in the folder in which this runs: "
        "start it from the folder notebooks/, or click Run, Run All Above Selected Cell"
    )


def above(path: Path, section: str) -> list[str]:
    """The code cells above a section that later ones may need."""
    sources = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            sources.append(source)
        elif f"\n## {section}\n" in f"\n{source}\n":
            return [source for source in sources if source.strip() and not any(word in source for word in LEFT_OUT)]
    raise ValueError(f"{path.name} has no section {section!r}")


def succeeded(shell) -> set[str]:
    """What was run in this kernel without an exception."""
    failed = getattr(shell.history_manager, "exceptions", {})  # since IPython 9
    return {source for count, source in enumerate(shell.history_manager.input_hist_raw) if count not in failed}


def not_run(sources: list[str], ran: Collection[str]) -> list[str]:
    """The cells from the first one on that was not run."""
    edited = set(ran) - set(sources)
    return list(dropwhile(lambda source: source in ran or get_close_matches(source, edited, 1), sources))


def run(shell, source: str, name: str) -> None:
    """Run a cell unseen. What it warns of, on stderr, is seen."""
    from IPython.utils.capture import capture_output

    with capture_output(stderr=False):
        result = shell.run_cell(source, silent=True)
    if error := result.error_before_exec or result.error_in_exec:
        line = next(line for line in source.splitlines() if not line.startswith("#"))
        raise RuntimeError(f"in {name}, the cell that begins with {line!r}: {type(error).__name__}: {error}") from None
