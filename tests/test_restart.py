"""The cells to start from: they run what was not run above, unseen, and each section with code begins with its own."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from minimax_nb import restart

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)

COUNT = "runs = globals().get('runs', 0) + 1\nprint('counted')"
SHOW = "# NBVAL_IGNORE_OUTPUT\nfrom matplotlib import pyplot\n\nfigure, _ = pyplot.subplots()\ndisplay(runs)\nfigure"
DOUBLE = "double = 2 * runs\ndouble"
WIDGET = "from minimax_nb.widgets import stepper\n\nraise RuntimeError('not to be run')"
TELL = "print(runs, double)"


def at(section: str) -> str:
    return f'from minimax_nb import restart\n\nrestart.at("07", "{section}")'


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder of a small notebook of three sections, and of a copy."""
    code = {"One": [COUNT, SHOW], "Two": [at("Two"), DOUBLE, WIDGET], "Three": [at("Three"), TELL]}
    cells = []
    for title, sources in code.items():
        cells += [new_markdown_cell(f"text\n\n## {title}\n\nmore"), *map(new_code_cell, sources)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "07_small.ipynb")
    nbformat.write(new_notebook(), tmp_path / "07_small-Copy1.ipynb")
    return tmp_path


def ran(folder: Path, *sources: str, **settings) -> list[list[NotebookNode]]:
    """What each of the cells puts out, run in a fresh kernel in that folder."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    settings = {"timeout": 120, "coalesce_streams": True} | settings
    settings["resources"] = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, **settings).execute()
    return [cell.outputs for cell in notebook.cells]


def texts(outputs: list[list[NotebookNode]]) -> list[str]:
    return ["".join(output.get("text", output.output_type) for output in cell) for cell in outputs]


# What `at` does


def test_a_fresh_kernel_runs_all_above_and_shows_none_of_it(folder):
    assert texts(ran(folder, at("Three"), TELL)) == ["cells above that were run: 3\n", "1 2\n"]


def test_what_has_run_is_not_run_again(folder):
    outputs = texts(ran(folder, COUNT, SHOW, at("Two"), DOUBLE, at("Three"), TELL))
    assert outputs[2] == outputs[4] == "" and outputs[5] == "1 2\n"


def test_a_section_that_was_skipped_is_run_and_those_before_are_not(folder):
    outputs = texts(ran(folder, COUNT, SHOW, at("Three"), TELL, at("Three")))
    assert outputs[2:] == ["cells above that were run: 1\n", "1 2\n", ""]


def test_a_cell_that_was_edited_and_not_saved_counts_as_run(folder):
    outputs = texts(ran(folder, COUNT.replace("counted", "my own words"), SHOW, at("Two"), "print(runs)"))
    assert outputs[2:] == ["", "1\n"]


def test_what_resembles_a_cell_that_was_run_does_not_count_for_another():
    cells = ["print(answer(one, 'a question'))", "print(answer(two, 'a question'))"]
    assert restart.not_run(cells, {cells[0]}) == cells[1:]
    assert restart.not_run(cells, {cells[1]}) == cells
    assert restart.not_run(cells, {cells[0], cells[1].replace("question", "thing")}) == []


def test_a_cell_that_failed_does_not_count_as_run(folder):
    outputs = texts(ran(folder, DOUBLE, COUNT, SHOW, at("Three"), TELL, allow_errors=True))
    assert outputs[0] == "error" and outputs[3:] == ["cells above that were run: 1\n", "1 2\n"]


def test_after_a_reset_all_is_run_anew(folder):
    outputs = texts(ran(folder, at("Two"), "%reset -f", at("Two"), "print(runs)"))
    assert outputs[3] == "1\n" and outputs[2].endswith("cells above that were run: 2\n")


def test_an_error_names_the_cell_and_stops(folder):
    with pytest.raises(CellExecutionError) as raised:
        ran(folder, "display = None", at("Three"))
    named = "in 07_small.ipynb, the cell that begins with 'from matplotlib import pyplot': TypeError: 'NoneType'"
    assert raised.value.ename == "RuntimeError" and named in raised.value.evalue


def test_slow_cells_have_a_bar(folder):
    notebook = nbformat.read(folder / "07_small.ipynb", 4)
    notebook.cells.insert(0, new_code_cell("import time\n\ntime.sleep(2.1)"))
    nbformat.write(notebook, folder / "07_small.ipynb")
    (said,) = texts(ran(folder, at("Three"), coalesce_streams=False))  # else nothing is left of what \r overwrites
    assert "the cells above:  25%" in said and said.endswith("\rcells above that were run: 4\n")


def test_no_such_notebook_or_section(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(FileNotFoundError, match=r"no notebook 08_\*\.ipynb .* folder notebooks/, or click Run"):
        restart.find("08")
    with pytest.raises(ValueError, match="07_small.ipynb has no section 'Thre'"):
        restart.above(restart.find("07"), "Thre")


def test_in_plain_python_nothing_happens():
    assert restart.at("99", "There is none") is None


def test_without_a_history_nothing_happens(folder):
    """As under nbval, which runs all cells in order."""
    cell = new_code_cell(at("Three"))
    client = NotebookClient(new_notebook(cells=[cell]), resources={"metadata": {"path": str(folder)}})
    with client.setup_kernel():
        assert client.execute_cell(cell, 0, store_history=False).outputs == []


# The notebooks


def sections(notebook: Path) -> dict[str, list[NotebookNode]]:
    """The code cells below each heading of level 2, as far as there are any."""
    found, title = {}, ""
    for cell in nbformat.read(notebook, 4).cells:
        if cell.cell_type == "markdown":
            title = [title, *HEADING.findall(cell.source)][-1]
        else:
            found.setdefault(title, []).append(cell)
    return found


@each_notebook
def test_each_section_begins_with_a_cell_to_start_from(notebook):
    """But the first, which has no code above it, and the quiz, which needs none."""
    found = sections(notebook)
    needed = [title for title in list(found)[1:] if title != "Quiz"]
    begun = {title: cells[0] for title, cells in found.items() if "restart.at(" in cells[0].source}
    assert list(begun) == needed
    for title, cell in begun.items():
        assert cell.source.endswith(f'\nrestart.at("{notebook.name[:2]}", "{title}")')
        assert {"restart", "skip", "remove-cell"} <= set(cell.metadata.tags) and cell.metadata.jupyter.source_hidden
    assert sum("restart.at(" in cell.source for cells in found.values() for cell in cells) == len(needed)


@each_notebook
def test_the_last_section_can_be_started_from(notebook):
    """In a fresh kernel: all code above the exercises, then the exercises as they were committed."""
    cells = [cell.source for cell in sections(notebook)["Exercises"] if "restart.at(" not in cell.source]
    restarted, *rest = ran(notebook.parent, at("Exercises").replace("07", notebook.name[:2]), *cells)
    assert re.search(r"cells above that were run: \d\d\n$", texts([restarted])[0])
    assert any(rest)
