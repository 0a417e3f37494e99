"""docs/engines.md: each figure of its llama.cpp table is the one that was measured; a line says run or not run."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
FOUND = json.loads((ROOT / "notebooks" / "results" / "llama_cpp_cpu.json").read_text())
ORIGINAL = json.loads((ROOT / "notebooks" / "results" / "original_code.json").read_text())


def lines(below: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    table = re.search(r"(?:^\|.*\n)+", PAGE.partition(below)[2], re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in table.splitlines()[2:]]


def test_the_figures_are_those_of_the_run():
    assert FOUND["complete"]
    asked, tokens = FOUND["asked"], FOUND["tokens"]
    for cells, row in zip(lines("## llama.cpp, measured"), FOUND["rows"], strict=True):
        ours = row["engine"] == "load()"  # which the others are held against
        of_both = ["", ""] if ours else [f"{row['same_tokens']} of {tokens}", f"{row['same_replies']} of {asked}"]
        speed = [f"{row[f'tokens_{what}_a_second']:,}" for what in ("read", "written")]
        figures = [f"{row['mb']:.1f}", f"{row['off']:.1e}", *of_both, f"{row['perplexity']:.4f}", *speed]
        assert cells[3:] == figures, cells[0]
    same, mixed = FOUND["same_ids"], FOUND["converted_folder"]["with_the_original_config"]
    assert f"the same ids of all {same['texts']} texts" in PAGE and same["smollm"] == same["texts"]
    assert f"of {same['gpt-2']} only" in PAGE
    assert f"{100 * mixed['off']:.0f} % off" in PAGE


def test_each_engine_was_run_or_was_not():
    table = lines("# Which engine")
    assert len(table) > 8
    for engine, *_, run, source in table:
        assert run.startswith(("**run**", "not run")), engine
        assert re.search(r"\]\(\S+\)", source), engine
    by_code = {row["code"]: f"{row['one pass']:.1e}" for row in ORIGINAL["rows"]}
    assert by_code["converted folder, load()"] in table[0][3]
    assert by_code["converted folder, stock Transformers"] in table[1][3]
