"""What a finding about another library must state. Running one needs a network: that is not done here."""

import ast
import os
import re
import subprocess
from datetime import date
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "findings"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
PIN = re.compile(r"([A-Za-z0-9_-]+)(?:\[[a-z]+\])?==([0-9][0-9A-Za-z.]*)")
MUST_HAVE = {
    "Versions": r"^# Versions   (.+?);",
    "Behaviour": r"^# Behaviour  \S",
    "output with a date": r"^# Seen on (\d{4}-\d\d-\d\d)[^\n]*:\n#    \S",
    "exit code": r"^# Exit code 0 while ",
    "packages": r"pip\" install --quiet --no-compile \\\n((?:    [^\n]+\n)+)",
    "Python": r"<<'PYTHON'\n(.+?)^PYTHON$",
}


def faults(script: str) -> list[str]:
    """What is missing or wrong in the text of a script."""
    found = {part: re.search(pattern, script, re.DOTALL | re.MULTILINE) for part, pattern in MUST_HAVE.items()}
    wrong = [part for part, match in found.items() if match is None]
    if "minimax_nb" in script:
        wrong.append("minimax_nb")
    if wrong:
        return wrong
    pins = [PIN.fullmatch(word.strip("'")) for word in found["packages"][1].replace("\\", " ").split()]
    installed = {match[1]: match[2] for match in pins if match}
    if None in pins:
        wrong.append("a package without ==")
    named = dict(part.split() for part in found["Versions"][1].replace("\n#", " ").split(","))
    wrong += [
        f"{name} {version} is not what is installed"
        for name, version in named.items()
        if installed.get(name) != version
    ]
    date.fromisoformat(found["output with a date"][1])
    if not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(found["Python"][1]))):
        wrong.append("nothing is asserted")
    return wrong


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_finding_states_versions_behaviour_and_output(script):
    assert faults(script.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_finding_can_be_run(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


def test_what_is_missing_is_noticed():
    sound = SCRIPTS[0].read_text(encoding="utf-8")
    assert faults(sound.replace("torch==2.13.0", "torch>=2.13.0")) == [
        "a package without ==",
        "torch 2.13.0 is not what is installed",
    ]
    assert faults(re.sub(r"# Seen on [\d-]+", "# Seen", sound)) == ["output with a date"]
    assert faults(sound.replace("import torch", "import minimax_nb")) == ["minimax_nb"]
    assert faults(re.sub(r"^ *assert .*\n", "", sound, flags=re.MULTILINE)) == ["nothing is asserted"]


def test_the_page_lists_every_finding():
    listed = re.findall(r"^\| \[\w+\]\(([^)]+)\)", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert SCRIPTS and sorted(listed) == [script.name for script in SCRIPTS]
