"""The notebooks find their files from any working folder, and stay in a copy of their own."""

from pathlib import Path

import nbformat
import pytest

from minimax_nb import language, notebooks
from minimax_nb.notebooks import enter_notebooks_folder

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def test_from_elsewhere_it_goes_to_the_notebooks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert enter_notebooks_folder() == Path.cwd() == FOLDER


def test_a_copy_of_the_folder_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "quiz.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert enter_notebooks_folder() == Path.cwd() == tmp_path


def test_a_chinese_notebook_goes_to_the_folder_above_and_speaks_chinese(tmp_path, monkeypatch):
    (tmp_path / "quiz.toml").touch()
    (tmp_path / "zh").mkdir()
    monkeypatch.chdir(tmp_path / "zh")
    monkeypatch.setattr(language, "_used", None)
    assert enter_notebooks_folder(language="zh") == Path.cwd() == tmp_path
    assert language.current() == "zh"


def test_without_a_clone_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "__file__", str(tmp_path / "site-packages" / "minimax_nb" / "notebooks.py"))
    with pytest.raises(FileNotFoundError, match="clone"):
        enter_notebooks_folder()
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_goes_there_before_it_needs_a_file(name):
    code = [cell.source for cell in nbformat.read(FOLDER / f"{name}.ipynb", 4).cells if cell.cell_type == "code"]
    first = next(at for at, source in enumerate(code) if "\nenter_notebooks_folder()" in source)
    assert not any(word in source for source in code[:first] for word in ("_work", "results/", "quiz("))
