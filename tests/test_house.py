"""What holds the repository together: one list of versions, its size, modules, notebooks committed as they ran."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
DEMO = ROOT / "minimax_nb" / "demo"
MODULES = sorted((ROOT / "minimax_nb").rglob("*.py"))
NOTEBOOKS = [path for place in ("notebooks", "notebooks/zh") for path in sorted((ROOT / place).glob("*.ipynb"))]
OUTSIDE = re.compile(r"\.\./shared\b|(?<![\w.])/(?:home|Users|root|work)/[\w.]|\b[A-Z]:\\+Users\\")
PRINTED_PATH = re.compile(r"(?<![\w.<:/])/(?:home|Users|root|work|tmp|private|var|mnt|opt|usr)/\w|\b[A-Z]:\\+Users\\")
INSTALLED = PROJECT["dependencies"] + EXTRAS["lab"] + EXTRAS["train"]  # by conda and Binder
PIN = re.compile(r"[A-Za-z0-9_-]+==[0-9][0-9A-Za-z.]*")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def work_tree() -> list[Path]:
    """The files that are committed, or would be: git's own, and new ones that it does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip(f"not a git checkout: {listing.stderr.strip()}")
    paths = (ROOT / name for name in set(listing.stdout.split("\0")) if name)
    return [path for path in paths if path.is_file()]


# Versions


def test_every_version_is_exact():
    named = [*PROJECT["dependencies"], *(pin for extra in EXTRAS.values() for pin in extra)]
    assert [pin for pin in named if not PIN.fullmatch(pin)] == []


def test_conda_installs_the_same_versions():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, listed = environment["dependencies"]
    assert (python, pip) == ("python=3.11", "pip")
    assert listed["pip"][-1] == "-e ."
    assert [line for line in listed["pip"] if PIN.fullmatch(line)] == INSTALLED


def test_binder_installs_the_same_versions():
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if PIN.fullmatch(line)] == INSTALLED
    assert (ROOT / "binder" / "runtime.txt").read_text().strip() == "python-3.11"


def test_python_3_11_is_enough():
    assert PROJECT["requires-python"] == ">=3.11"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py311"


# One variable for the Chinese course


@pytest.mark.parametrize(
    ("language", "folder", "page"), [("", "", ""), ("zh", "zh/", ".zh-CN"), ("zh_CN.UTF-8", "zh/", ".zh-CN")]
)
def test_make_opens_the_course_in_the_language_of_one_variable(language, folder, page):
    def lines(*more: str) -> list[str]:
        command = ["make", "--silent", "--assume-old=.venv/lab.stamp", *more]
        command += [f"MINIMAX_NB_LANGUAGE={language}"] if language else []
        environment = {name: value for name, value in os.environ.items() if name != "MINIMAX_NB_LANGUAGE"}
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
        return run.stdout.splitlines()

    lab, tour, app = lines("--dry-run", "lab", "tour", "app")
    assert f"/lab/tree/notebooks/{folder}01_installation.ipynb" in lab
    assert tour.endswith(f" notebooks/{folder}*.ipynb") and app.endswith(f" docs/app/playground{page}.ipynb")
    assert lines("lab", "RUN=printenv MINIMAX_NB_LANGUAGE #") == [language]  # what kernels are told


def test_notebooks_named_for_a_start_exist():
    for name in (
        "Makefile",
        "README.md",
        "README.zh-CN.md",
        "docs/workshop.md",
        "docs/workshop.zh-CN.md",
        "binder/start",
    ):
        named = re.findall(
            r"notebooks/[\w/]+\.ipynb", (ROOT / name).read_text(encoding="utf-8").replace("$(FOLDER)", "notebooks/")
        )
        assert named and [path for path in named if not (ROOT / path).exists()] == [], name


# The repository


def test_the_work_tree_is_small(work_tree):
    size = {path: path.stat().st_size for path in work_tree}
    assert sum(size.values()) < 24e6
    assert sum(size[path] for path in work_tree if path.is_relative_to(DEMO / "checkpoint")) < 16e6


def test_no_file_points_outside_the_repository(work_tree):
    found = []
    for path in work_tree:
        text = without_pictures(path) if path.suffix == ".ipynb" else path.read_bytes().decode("utf-8", "ignore")
        found += [f"{relative(path)}: {match[0]}" for match in OUTSIDE.finditer(text)]
    assert found == []


# The package


def test_the_wheel_contains_the_demo():
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]
    packed = {path for pattern in patterns["minimax_nb.demo"] for path in DEMO.glob(pattern)}
    packed |= {path for pattern in patterns["minimax_nb.demo.corpus"] for path in (DEMO / "corpus").glob(pattern)}
    assert {DEMO / "checkpoint" / name for name in ("config.json", "model.safetensors.index.json")} <= packed
    files = {path for path in DEMO.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} == packed


@pytest.mark.parametrize("module", ["minimax_nb", "minimax_nb.demo", "minimax_nb.cli"])
def test_importing_costs_nothing_heavy(module):
    code = f"import sys, {module}; print(*sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_modules_stay_short(module):
    lines = module.read_text(encoding="utf-8").count("\n")
    assert lines <= 300


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_the_package_never_runs_code_of_a_checkpoint(module):
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            assert isinstance(node.value, ast.Constant) and node.value.value is False, f"line {node.value.lineno}"


def test_the_readme_shows_every_room():
    """Each module or package of the package's top level has a line in README's tree, and each name there exists."""
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("```\nminimax_nb/\n")[2].partition("```")[0]
    package = tree.partition("\nnotebooks/")[0]
    shown, folder = set(), None
    for line in package.splitlines():
        indent, names = re.match(r"( +)((?:[\w.]+/?(?:, )?)+)", line).groups()
        for name in names.split(", "):
            place = folder if len(indent) > 2 else ROOT / "minimax_nb"
            assert (place / name).exists(), name
            shown.add(place / name)
        folder = ROOT / "minimax_nb" / names if names.endswith("/") else folder
    there = [*(ROOT / "minimax_nb").glob("*.py")]
    there += [path.parent for path in (ROOT / "minimax_nb").glob("*/__init__.py")]
    assert [path.name for path in there if path not in shown and path.name != "__init__.py"] == []


# The notebooks


def test_there_are_notebooks():
    if not NOTEBOOKS:
        pytest.skip("no notebook yet")
    assert NOTEBOOKS[0].name == "01_installation.ipynb"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=relative)
def test_notebooks_are_committed_as_they_ran(notebook):
    """Every code cell was executed once, from top to bottom, and none of them failed."""
    cells = [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    ran = [cell for cell in cells if "".join(cell["source"]).strip()]
    assert [cell["execution_count"] for cell in ran] == list(range(1, len(ran) + 1))
    failed = [output for cell in ran for output in cell["outputs"] if output["output_type"] == "error"]
    assert [output["ename"] for output in failed] == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=relative)
def test_outputs_name_no_folder_of_a_machine(notebook):
    assert PRINTED_PATH.findall(without_pictures(notebook, "outputs")) == []


def without_pictures(notebook: Path, part: str | None = None) -> str:
    """The text of a notebook, or of one part of its cells; pictures are left out, as base64 may spell anything."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        output["data"] = {kind: data for kind, data in output.get("data", {}).items() if not kind.startswith("image/")}
    text = json.dumps([cell.get(part) for cell in cells] if part else cells, ensure_ascii=False)
    return text.replace("\\n", "\n")
