"""The instructor's plan adds up and names what exists; `make check-room` finds what would stop a workshop."""

import json
import re
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from minimax_nb import cli, workshop

ROOT = Path(__file__).parents[1]
PLAN = (ROOT / "docs" / "workshop.md").read_text(encoding="utf-8")
LENGTHS = {"90 minutes": 90, "Half a day": 210}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    section = re.split(r"^##+ ", PLAN.partition(f"\n## {heading}\n")[2], flags=re.MULTILINE)[0]
    table = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in table[2:]]


def notebook(number: str) -> Path | None:
    return next((ROOT / "notebooks").glob(f"{number}_*.ipynb"), None)


def prose(number: str) -> str:
    cells = json.loads(notebook(number).read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def headings(number: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", prose(number), flags=re.MULTILINE)


# The plan


@pytest.mark.parametrize("plan, length", LENGTHS.items())
def test_the_minutes_add_up(plan, length):
    at = 0
    for clock, minutes, _, section, _ in rows(plan):
        assert clock == f"{at // 60}:{at % 60:02}", section
        at += int(minutes)
    assert at == length


@pytest.mark.parametrize("plan, length", LENGTHS.items())
def test_there_are_a_break_an_hour_and_a_half_and_slack(plan, length):
    since = longest = slack = 0
    for _, minutes, _, section, _ in rows(plan):
        since = 0 if section == "Break" else since + int(minutes)
        longest, slack = max(longest, since), slack + (section == "Slack") * int(minutes)
    assert longest <= 90 and slack >= length / 20


@pytest.mark.parametrize("plan", LENGTHS)
def test_every_section_exists_and_they_come_in_order(plan):
    named = {}
    for _, _, number, section, _ in rows(plan):
        named.setdefault(number, []).append(section)
    assert set(named.pop("-")) <= {"Welcome", "Break", "Slack"}
    for number, sections in named.items():
        if sections == ["in preparation"]:
            assert notebook(number) is None, f"notebook {number} is there now: give its sections their minutes"
            continue
        there = headings(number)
        assert [section for section in sections if section not in there] == [], f"not in notebook {number}"
        places = [there.index(section) for section in sections]
        assert places == sorted(places), f"notebook {number} has them in another order"


def test_every_notebook_is_in_the_half_day():
    taught = {number for _, _, number, _, _ in rows("Half a day")}
    assert [path.name for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if path.name[:2] not in taught] == []


@pytest.mark.parametrize("number, seen", [row[:2] for row in rows("Where people get stuck, and what to say")])
def test_what_people_see_stands_in_the_notebook(number, seen):
    text = prose(number)
    assert [quoted for quoted in re.findall(r"`([^`]+)`", seen) if quoted not in text] == []
    if exercise := re.match(r"Exercise (\d)", seen):
        assert any(heading.startswith(f"{exercise[1]}. ") for heading in headings(number))


def test_what_is_carried_in_is_what_a_build_asks_for():
    (backend,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert f'pip download --dest wheels ".[lab,train,serve]" {backend}\n' in PLAN


# The room


def test_this_machine_is_ready(capsys):
    assert cli.main(["room"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "ready"
    for name in ("python", "imports", "demo", "kernel", "jupyterlab"):
        assert any(line.split()[:2] == ["OK", name] for line in lines), name
    assert any(line.startswith("-     wheels") and "WHEELS=" in line for line in lines)


def test_a_fault_is_counted_and_the_exit_code_says_so(monkeypatch, capsys):
    lines = [workshop.Line("python", True, "3.11"), workshop.Line("demo", False, "says nothing", "mend it")]
    monkeypatch.setattr(workshop, "checks", lambda wheels: lines)
    assert cli.main(["room"]) == 1
    assert capsys.readouterr().out == f"{lines[0]}\n{lines[1]}\nnot ready: 1 to mend, above\n"


def test_the_expected_reply_is_the_one_in_notebook_01():
    cells = json.loads(notebook("01").read_text(encoding="utf-8"))["cells"]
    (asked,) = [cell for cell in cells if f'send("{workshop.QUESTION}")' in "".join(cell["source"])]
    assert "".join(asked["outputs"][0]["text"]).strip() == workshop.REPLY


def test_another_reply_is_a_fault(monkeypatch):
    monkeypatch.setattr(workshop, "REPLY", "I am fond of mustard.")
    line = workshop._timed("demo", workshop._demo)
    assert line.ok is False and "fresh lemon juice" in line.found and line.mend


def test_a_module_that_does_not_import_is_named(monkeypatch):
    monkeypatch.setattr(workshop, "MODULES", "json, no_such_module")
    line = workshop._timed("imports", workshop._imports)
    assert line.ok is False and "No module named 'no_such_module'" in line.found


def test_a_kernel_of_another_python_is_a_fault(monkeypatch):
    monkeypatch.setattr(sys, "prefix", "elsewhere")
    line = workshop._timed("kernel", workshop._kernel)
    assert line.ok is False and "the kernel python3 is that of" in line.found and "ipykernel install" in line.mend


def test_a_lab_that_does_not_start_says_why(monkeypatch):
    monkeypatch.setattr(workshop, "LAB", (sys.executable, "-c", "raise SystemExit('no such folder')"))
    line = workshop._timed("jupyterlab", workshop._lab)
    assert line.ok is False and line.found.startswith("no such folder")


def test_wheels_are_resolved_without_an_index(monkeypatch, tmp_path):
    wheel(tmp_path, "a", "Requires-Dist: b==1.0")
    monkeypatch.setattr(workshop, "PROJECT", "a")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "elsewhere"))
    line = workshop._timed("wheels", lambda: workshop._wheels(tmp_path))
    assert line.ok is False and "b==1.0" in line.found and "pip download" in line.mend
    wheel(tmp_path, "b")
    line = workshop._timed("wheels", lambda: workshop._wheels(tmp_path))
    assert line.ok and line.found.startswith("pip needs no index: 2 packages")


def wheel(folder: Path, name: str, *metadata: str) -> None:
    """An empty package, version 1.0."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *metadata]
        archive.writestr(f"{info}/METADATA", "\n".join(lines))
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
