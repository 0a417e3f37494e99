"""How long each notebook may take under nbval: three times its budget, which stands in the table of README.md here.
A Chinese notebook has the budget of its English one.

The seconds are those of all its cells and of starting its kernel, on 2 CPU cores with one thread. Budgets leave room
for a busy machine; what takes three times as long has grown, and the run fails.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
collect_ignore_glob = ["results/*"]  # executed on a GPU, kept as evidence
BUDGET = re.compile(r"^\| \[?(\d\d) .*\| (\d+) s \|$", re.MULTILINE)
BUDGETS = {number: int(seconds) for number, seconds in BUDGET.findall((HERE / "README.md").read_text(encoding="utf-8"))}
SECONDS = Counter()


def pytest_runtest_logreport(report):
    name, _, cell = report.nodeid.partition("::")
    if name.endswith(".ipynb") and cell:
        SECONDS[Path(name)] += report.duration


def over_budget() -> list[Path]:
    return [path for path, seconds in SECONDS.items() if seconds > 3 * BUDGETS.get(path.name[:2], 0)]


def pytest_sessionfinish(session):
    if over_budget() and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    if SECONDS:
        terminalreporter.section("seconds of each notebook")
    for path, seconds in sorted(SECONDS.items()):
        verdict = "OVER three times its budget" if path in over_budget() else "budget"
        terminalreporter.line(f"{seconds:6.1f} s  {path}: {verdict}, {BUDGETS.get(path.name[:2], 'none stated')} s")
