"""Each notebook in JupyterLab, as a reader opens it: all cells run, its quiz answers, and nothing goes wrong unseen.

Of the Chinese ones one is opened: their code is that of the others, and nbval runs them all.
"""

import shutil
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import expect, sync_playwright
from test_browser import FLAGS, PICTURES, chromium, run_all_cells, url, watch  # noqa: F401

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = [*sorted(path.name for path in NOTEBOOKS.glob("*.ipynb")), "zh/02_config_patching.ipynb"]
TRAINS = "08_finetuning.ipynb"  # for two minutes, and shows nothing that the others do not; nbval runs it
SAYS = {"": ("Quiz of notebook {}", "1 of "), "zh": ("笔记本{}的小测验", "题中答了1题")}  # a quiz, before and after
PATIENCE = 240_000  # ms: what takes half a minute may take several where the core is shared


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The notebooks in a folder of their own, each with a last cell that says that it was reached."""
    folder = tmp_path_factory.mktemp("notebooks")
    left_out = shutil.ignore_patterns("_work", "conftest.py", ".ipynb_checkpoints")
    shutil.copytree(NOTEBOOKS, folder, dirs_exist_ok=True, ignore=left_out)
    for name in NAMES:
        notebook = nbformat.read(folder / name, 4)
        notebook.cells.append(nbformat.v4.new_code_cell("print('all cells ran')"))
        nbformat.write(notebook, folder / name)
    return folder


@pytest.mark.parametrize("name", [name for name in NAMES if name != TRAINS])
def test_a_notebook_runs_in_lab(chromium, url, name):  # noqa: F811
    errors, path = [], Path(name)
    title, answered = SAYS[path.parent.name]
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        watch(page, errors)
        run_all_cells(page, url.replace("playground.ipynb", name), PATIENCE)
        quiz = page.get_by_role("region", name=title.format(path.name[:2]))
        quiz.get_by_role("button", name="a)").first.click()
        expect(quiz.get_by_role("status")).to_contain_text(answered)
        page.screenshot(path=PICTURES / f"lab_{path.parent.name}{path.name[:2]}.png")
        browser.close()
    assert errors == []
