"""Where the notebooks find their files, whichever folder they were started in, and which language they speak.

A notebook reads `results/` and `quiz.toml`, and writes `_work/`, in the folder of the notebooks. JupyterLab starts it
there, and a Chinese one in the folder zh below. Papermill, Colab and some editors start it elsewhere, so its first cell
calls

    enter_notebooks_folder()                    # a Chinese notebook: enter_notebooks_folder(language="zh")
"""

import os
from pathlib import Path

from . import language as languages

BESIDE = "quiz.toml"  # lies in the folder of the notebooks, and in copies of it


def enter_notebooks_folder(language: str | None = None) -> Path:
    """Make the folder of the notebooks the working folder, unless this is one already, and return it.

    With `language`, "en" or "zh", widgets, figures and load() speak it from then on (minimax_nb.language).
    FileNotFoundError if there is no such folder above this one or beside the package, which is so where a wheel was
    installed without the clone; ValueError for an unknown language.
    """
    if language is not None:
        languages.use(language)
    here = Path.cwd()
    beside_the_package = Path(__file__).resolve().parents[1] / "notebooks"
    for folder in (here, here.parent, beside_the_package):
        if (folder / BESIDE).exists():
            os.chdir(folder)
            return folder
    raise FileNotFoundError("the notebooks need the other files of their folder: start them in a clone of the kit")
