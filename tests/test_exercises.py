"""The exercises of the notebooks: checks turn wrong answers down and take right ones, and folded solutions solve.

What is untouched is a wrong answer, and the committed output says so. Cells that are not in EXERCISES are held to that
alone, with the words "not yet". The Chinese exercises are judged in the process that ran the English notebook, since
all code before them is the same but for its strings.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from nbformat import NotebookNode

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```", re.DOTALL)
NOT_YET = r"(?i)\bnot (pesto )?yet\b|还不对"
PRELUDE = """\
import contextlib, io, re
import matplotlib
matplotlib.use("agg")

def _said(source):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(source, globals())
    return out.getvalue()
"""


class Exercise(NamedTuple):
    """What the reader changes in a cell, a right answer, wrong ones, and how the check turns one down."""

    given: str
    right: str
    wrong: tuple[str, ...]
    turns_down: str = NOT_YET


WEIGHTS = "expert_bytes * expert_weights + 2 * (total - expert_weights)"
SAVED = "100 * kinds['softmax'] * (1 - 1 / times) / sum(kinds.values())"
SYSTEM = '{"role": "system", "content": "You are a helpful assistant."}'
MENDED = 'edit(mend, **{key: native[key] for key in ("layer_types", "mlp_alpha_factor", "rope_parameters")})'
EXERCISES = {
    "01-29": Exercise('"Who are you?"', '"How do I make pesto?"', ('"How do I make aioli?"',)),
    "01-31": Exercise(
        "return None",
        f"return ({WEIGHTS} + per_token * tokens + state) / 1e9",
        ("return 912.4", f"return {WEIGHTS} + per_token * tokens + state"),
    ),
    "01-33": Exercise(
        "again = None",
        'again = patch_checkpoint(demo_checkpoint(), "_work/demo")',
        ('again = patch_checkpoint(demo_checkpoint(), "_work/again")',),
    ),
    "02-91": Exercise(
        "[0, 1, 2, 3, 4, 5, 6, 7]",
        "[0, 1, 2, 6, 3, 4, 5, 7]",
        ("[0, 1, 2]", "[6, 0, 1, 2, 7, 3, 4, 5]"),
        r"\A(?!right|对了)",
    ),
    "02-93": Exercise(
        "edit(mend)",
        MENDED,
        (
            "edit(mend, mlp_alpha_factor=2.0)",
            "edit(mend, layer_types=[0, 0, 0, 0, 0, 0, 0, 1])",
            "edit(mend, layer_types='full_attention')",
            "edit(mend, rope_theta=10000, rope_parameters=10000)",
        ),
        r"\A(?!all is well|一切正常)",
    ),
    "02-95": Exercise(
        "edit(fool)",
        "edit(fool, mlp_alpha_factor=1.0)",
        ("edit(fool, eos_token_id=5)", "edit(fool, layer_types=native['layer_types'][::-1])"),
        r"\nwith the original:\nall is well|without the original:\n(?!all is well)|"
        r"\n有原始文件夹时：\n一切正常|没有原始文件夹时：\n(?!一切正常)",
    ),
    "03-104": Exercise(
        "with_system = messages",
        f"with_system = [{SYSTEM}, *messages]",
        (f"with_system = [*messages, {SYSTEM}]", f"with_system = messages.insert(0, {SYSTEM}); messages.pop(0)"),
    ),
    "03-106": Exercise(
        '{"max_new_tokens": 30}',
        '{"max_new_tokens": 200, "stop_strings": ["."], "tokenizer": tokenizer}',
        ('{"max_new_tokens": 200}',),
    ),
    "03-108": Exercise("top_p = 0.9", "top_p = 0.5", ("top_p = 0.2",)),
    "04-70": Exercise("tokens = 1_024", "tokens = 32_768", ("tokens = 40_000", "tokens = 65_536")),
    "04-72": Exercise(
        "return largest, total, out",
        "x, y = (torch.exp(half[0] - largest) for half in (a, b))\n"
        "    return largest, x * a[1] + y * b[1], x * a[2] + y * b[2]",
        ("return largest, total / 2, out", "return a[0], total, out"),
    ),
    "04-74": Exercise(
        "return 50.0",
        f"return {SAVED}",
        ("return 13.2", "return 100 * kinds['softmax'] / sum(kinds.values())", f"return ({SAVED}) / 100"),
    ),
    "05-110": Exercise("slope = 0.001", "slope = log(10) / 20_000", ("slope = 0.00001",)),
    "05-112": Exercise(
        "torch.bfloat16, torch.bfloat16",
        "torch.float32, torch.bfloat16",
        ("torch.bfloat16, torch.float32", "torch.float32, torch.float32"),
    ),
    "05-114": Exercise(
        "return state",
        "return state * torch.exp(5 * rates)[:, None, None]",
        (
            "return state * torch.exp(4 * rates)[:, None, None]",
            "return state * torch.exp(5 * rates)",
            "return state[0] * torch.exp(5 * rates)[:, None, None]",
            "return None",
        ),
    ),
    "06-61": Exercise(
        "milliseconds = 4 * 2.77",
        "milliseconds = 1000 * bytes_read(4, 1024) / bandwidth",
        ("milliseconds = 2.77", "milliseconds = 1000 * bytes_read(1, 4096) / bandwidth"),
    ),
    "06-63": Exercise(
        "size = bytes_read()",
        "size = bytes_read() - PERIOD * expert + PERIOD * 2 * 4 * (2 * 9216 + 6144)",
        ("size = bytes_read() / 2", "size = bytes_read() - PERIOD * expert"),
    ),
    "06-65": Exercise("context = 131_072", "context = 2_843_000", ("context = 284_300", "context = 2_730_000")),
    "06-67": Exercise(
        "return kept * state + torch.outer(k, v)",
        "state *= kept\n    return state.addr_(k, v)",
        ("return state.mul_(kept)", "state = kept * state + torch.outer(k, v)\n    return state", "return None"),
    ),
    "07-ex1": Exercise("batch = 1", "batch = 56", ("batch = 55", "batch = 57")),
    "07-ex2": Exercise("piece = 131_072", "piece = 14_336", ("piece = 14_080", "piece = 14_592", "piece = 14_400")),
    "07-ex3": Exercise(
        "return gate, up, down",
        "return gate.chunk(2)[rank], up.chunk(2)[rank], down.chunk(2, 1)[rank]",
        (
            "return gate.chunk(2)[0], up.chunk(2)[0], down.chunk(2, 1)[0]",
            "return gate.chunk(2)[rank], up.chunk(2)[rank], down.chunk(2)[rank]",
            "return gate.chunk(2)[rank], up.chunk(2)[rank], down.chunk(2, 1)[1 - rank]",
        ),
    ),
    "08-41": Exercise(
        "weights = 0",
        "weights = layers * r * ((3 * inner + d) + 2 * (inner + d))",
        ("weights = layers * r * 3 * (inner + d)", "weights = layers * (3 * inner * d + 2 * inner * d)"),
    ),
    "08-43": Exercise(
        "share = 0.0",
        "share = 1 - packed['input_ids'].numel() / padded['input_ids'].numel()",
        ("share = padded['attention_mask'].float().mean().item()",),
    ),
    "08-45": Exercise(
        'labels = example["labels"]',
        'labels = list(example["input_ids"])',
        ("labels = [-100] * len(example['input_ids'])", "labels = example['input_ids'][1:]"),
    ),
}


def script(notebook: Path) -> tuple[str, list[int]]:
    """Code that runs a notebook as *Run All* does, then its exercises again; and how many solutions each language has.

    Exercises come again, cell by cell: as they stand, which their checks must still turn down, and with answers.
    """
    cells = nbformat.read(notebook, 4).cells
    parts = [PRELUDE, *(cell.source for cell in needed(cells) if cell.cell_type == "code")]
    counts = []
    for path in (notebook, notebook.parent / "zh" / notebook.name):
        its_cells = nbformat.read(path, 4).cells
        exercises = its_cells[exercises_begin(cells) :]
        parts += definitions(its_cells) if path != notebook else []
        solved = [solutions(cell) for cell in exercises]
        counts.append(sum(map(len, solved)))
        for cell, theirs in zip(exercises, solved, strict=True):
            parts += [cell.source] if cell.cell_type == "code" and "quiz(" not in cell.source else theirs
            parts += answers(cell) if cell.id in EXERCISES else []
    return "\n\n".join(parts), counts


def definitions(cells: list[NotebookNode]) -> list[str]:
    """The functions of some cells, which print in the language of their notebook."""
    trees = [ast.parse(cell.source) for cell in cells if cell.cell_type == "code"]
    return [ast.unparse(node) for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]


def solutions(cell: NotebookNode) -> list[str]:
    return SOLUTION.findall(cell.source) if cell.cell_type == "markdown" else []


def needed(cells: list[NotebookNode]) -> list[NotebookNode]:
    """All but what trains for minutes in notebook 08, after which no exercise asks; nbval runs that."""
    begins = [at for at, cell in enumerate(cells) if "## First try: bicycles only" in cell.source]
    return cells[: begins[0]] + cells[exercises_begin(cells) :] if begins else cells


def exercises_begin(cells: list[NotebookNode]) -> int:
    return next(at for at, cell in enumerate(cells) if cell.source.startswith("## Exercises"))


def answers(cell: NotebookNode) -> list[str]:
    """Code that gives none, then wrong answers, then the right one, and asserts what the check makes of them."""
    given, right, wrong, _ = EXERCISES[cell.id]
    assert cell.source.count(given) == 1
    return [judged(cell, cell.source.replace(given, answer), answer == right) for answer in (given, *wrong, right)]


def judged(cell: NotebookNode, source: str, right: bool) -> str:
    """Code that runs the source of an exercise, and asserts that its check takes it for right, or turns it down."""
    turns_down = EXERCISES[cell.id].turns_down
    return f"assert bool(re.search({turns_down!r}, _text := _said({source!r}))) == {not right}, _text"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_checks_judge_and_solutions_solve(notebook):
    code, (english, chinese) = script(notebook)
    assert english == chinese >= 2 and "assert" in code
    run = subprocess.run([sys.executable, "-c", code], cwd=notebook.parent, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.parametrize("language", ["", "zh"])
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_untouched_is_not_taken(notebook, language):
    cells = nbformat.read(notebook, 4).cells
    quiz = next(at for at, cell in enumerate(cells) if cell.source.startswith("## Quiz"))
    exercises = nbformat.read(notebook.parent / language / notebook.name, 4).cells[exercises_begin(cells) : quiz]
    outputs = {cell.id: cell.outputs for cell in exercises if cell.cell_type == "code"}
    printed = {name: "".join(output.get("text", "") for output in found) for name, found in outputs.items() if found}
    refusals = {name: EXERCISES[name].turns_down if name in EXERCISES else NOT_YET for name in printed}
    assert len(printed) >= 2
    assert [name for name, text in printed.items() if not re.search(refusals[name], text)] == []
