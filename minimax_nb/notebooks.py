"""Where the notebooks find their files, whichever folder they were started in.

A notebook reads `results/` and `quiz.toml`, and writes `_work/`, in the folder of the notebooks. JupyterLab starts it
there. Papermill, Colab and some editors start it elsewhere, so its first cell calls

    enter_notebooks_folder()
"""

import os
from pathlib import Path

BESIDE = "quiz.toml"  # lies in the folder of the notebooks, and in copies of it


def enter_notebooks_folder() -> Path:
    """Make the folder of the notebooks the working folder, unless this is one already, and return it.

    FileNotFoundError if there is none beside the package, which is so where a wheel was installed without the clone.
    """
    here = Path.cwd()
    if (here / BESIDE).exists():
        return here
    folder = Path(__file__).resolve().parents[1] / "notebooks"
    if not (folder / BESIDE).exists():
        raise FileNotFoundError("the notebooks need the other files of their folder: start them in a clone of the kit")
    os.chdir(folder)
    return folder
