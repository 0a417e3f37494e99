"""Notebook 04's figures: each that its text quotes from a GPU is that of the JSON beside it, and none is left out."""

import json
import re
from pathlib import Path
from statistics import median

import nbformat
import pytest

from minimax_nb.attention import LONG

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
BENCH = json.loads((NOTEBOOKS / "results" / "flash_attention_h200.json").read_text())
KERNELS = json.loads((NOTEBOOKS / "results" / "sdpa_kernels_h200.json").read_text())
FLASH = "flash_attention_2"
K1, K4, K16, K128 = 1024, 4096, 16384, 131072
QUOTED = re.compile(r"\d[\d.,]*(?: to \d[\d.]*)? (?:ms|%|GB|times as fast)|falls to [\d.]+\d")


@pytest.fixture(scope="module")
def text() -> str:
    """The prose from the first measured figure to the exercises, without code and links."""
    cells = nbformat.read(NOTEBOOKS / "04_flash_attention.ipynb", 4).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    measured = prose[prose.index("## How fast?") : prose.index("## Exercises")]
    return re.sub(r"\s+", " ", re.sub(r"`[^`]*`|\(https[^)]*\)", "", measured))


def row(attention: str, length: int, what: str = "prefill", batch: int = 1) -> dict:
    wanted = {"attention": attention, "length": length, "what": what, "batch": batch}
    wanted |= {"lightning": "fused", "dtype": "bfloat16"}
    (found,) = [row for row in BENCH["rows"] if wanted.items() <= row.items()]
    return found


def share(length: int, kind: str) -> str:
    kinds = row("flash_attention_2", length)["kinds"]
    return f"{100 * kinds[kind] / sum(kinds.values()):.0f} %"


def faster(base: str, length: int) -> str:
    return f"{row(base, length)['ms'] / row('flash_attention_2', length)['ms']:.2f}"


def decoding(attention: str, field: str = "ms") -> list[float]:
    return [row(attention, length, "decode")[field] for length in (K1, K4, K16, 65536, K128)]


def lightning_shares() -> list[str]:
    return sorted((share(length, "lightning") for length in (K1, K4, K16, 65536, K128)), key=lambda x: int(x[:2]))


def softmax(attention: str, length: int) -> float:
    return row(attention, length)["kinds"]["softmax"]


def plan(form: str, length: int, what: str, field: str) -> float:
    """A field of the run of single layers, at batch 1 and without pads."""
    wanted = {"form": form, "length": length, "what": what, "batch": 1}
    (found,) = [row for row in KERNELS["rows"] if wanted.items() <= row.items() and not row.get("masked")]
    return found[field]


def small_kernels_and_sums() -> set[str]:
    """Eager's share, the step at 131,072 tokens, and the sums for ten periods and for one and two layers on a GPU."""
    kinds = row("eager", K4)["kinds"]
    over_sdpa = row("eager", K4)["ms"] / row("sdpa", K4)["ms"]
    ours, theirs = (row(name, K128, "decode") for name in ("sdpa_by_length", FLASH))
    with_plan, without = (row(name, K1, "decode")["ms"] for name in ("sdpa", "sdpa_by_length"))
    ten, costs = round(10 * without), round(with_plan - without)
    flash = {n: [plan("flash", n, "prefill", field) for field in ("first_ms", "again_ms")] for n in (32768, LONG)}
    assert f"{ours['kinds']['softmax']:.1f}" == "0.6"
    return {
        f"{100 * kinds['softmax'] / sum(kinds.values()):.0f} %",
        f"{over_sdpa:.2f} times as fast",
        f"{1 / (1 - kinds['softmax'] / sum(kinds.values())):.1f} times as fast",
        f"{theirs['kinds']['softmax']:.1f} ms",
        f"{ours['ms']:.1f} ms",
        f"{with_plan:.1f} ms",
        *(f"{ms} ms" for ms in (costs, ten, ten + costs, ten + 8 * costs)),
        f"{flash[32768][0]:.0f} ms",
        f"{round(flash[32768][0]) + round(flash[32768][1])} ms",
        f"{flash[LONG][0]:.0f} ms",
        f"{sum(flash[LONG]):.0f} ms",
    }


def figures() -> set[str]:
    """Each figure that the text quotes, with its unit, as the JSON files have it."""
    eager, flash = ([row(name, n).get("extra_gb", 0) for n in (K1, K4, K128)] for name in ("eager", FLASH))
    lightning, sdpa = lightning_shares(), decoding("sdpa")
    made, used = (plan("as published", K16, "decode", field) for field in ("ms", "second_layer_ms"))
    return {
        f"{eager[0]:.1f} GB",
        f"{eager[1]:.0f} GB",
        f"{flash[1]:.1f} GB",
        f"{flash[2]:.0f} GB",
        f"{faster('eager', K4)} times as fast",
        f"falls to {faster('sdpa', K128)}",
        *(share(length, "softmax") for length in (K1, K16, K128)),
        *(share(length, "experts") for length in (K1, K128)),
        f"{lightning[0][:2]} to {lightning[-1]}",
        f"{softmax('eager', K4):.0f} ms",
        f"{softmax('sdpa', K128):.0f} ms",
        f"{softmax(FLASH, K128):.0f} ms",
        f"{min(sdpa):.0f} to {max(sdpa):.0f} ms",
        f"{median(decoding(FLASH)):.0f} ms",
        f"{median(decoding('sdpa_by_length')):.0f} ms",
        f"{made:.0f} ms",
        f"{used:.1f} ms",
        f"{made - used:.0f} ms",
        f"{plan('as published', K128, 'prefill', 'first_ms'):.0f} ms",
        f"{plan('flash', K128, 'prefill', 'first_ms'):.0f} ms",
        *small_kernels_and_sums(),
    }


def test_what_is_quoted_is_what_was_measured(text):
    assert set(QUOTED.findall(text)) == figures()


def test_the_readme_quotes_the_same():
    text = re.sub(r"\s+", " ", (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8"))
    sdpa, ours = decoding("sdpa"), decoding("sdpa_by_length")
    for figure in (
        f"{faster('eager', K4)} times as fast",
        f"{min(sdpa):.0f} to {max(sdpa):.0f} ms a token",
        f"{median(sdpa) - median(ours):.0f} ms",
        f"{median(ours):.0f} ms",
    ):
        assert figure in text, figure


def test_the_readme_quotes_the_lightning_run():
    text = re.sub(r"\s+", " ", (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8"))
    rows = json.loads((NOTEBOOKS / "results" / "lightning_h200.json").read_text())["speed"]["rows"]
    took = {(row["what"], row["form"]): row["ms"] for row in rows}
    stock, fused, torch = (took["second turn", form] for form in ("stock", "fused", "torch"))
    assert f"| {stock:.0f} ms | {torch:.0f} ms | {fused:.0f} ms |" in text
    stock, fused, torch = (took["prefill", form] / 1000 for form in ("stock", "fused", "torch"))
    assert abs(fused - 2.95) < 0.01 and f"| {stock:.2f} s | {torch:.2f} s | 2.95 s |" in text


def test_readme_and_first_hour_quote_the_runs_of_the_step():
    files = (NOTEBOOKS / "results" / name for name in ("decode_h200.json", "decode_h200_x2.json"))
    one, two = (json.loads(file.read_text()) for file in files)
    pages = [(path / "README.md").read_text(encoding="utf-8") for path in (NOTEBOOKS.parent, NOTEBOOKS)]
    readme, hour = (re.sub(r"\s+", " ", text) for text in pages)
    short = [r for r in one["speed"] if (r["what"], r.get("batch"), r.get("context")) == ("decode", 1, K1)]
    ms = {r["way"]: r["ms"] for r in short}
    assert all(f"{ms['static']:.1f} ms a token" in text and f"{ms['today']:.1f} ms" in text for text in (readme, hour))
    assert f"would take {short[0]['floor_ms']:.1f}" in readme
    ms = {r["way"]: r["ms"] for r in two["devices"] if r["gpus"] == 2}
    assert f"{ms['static']:.1f} ms instead of {ms['today']:.1f}" in hour


def test_round_words():
    assert row("eager", K16)["status"] == "out of memory" and "32.00 GiB" in row("eager", K16)["why"]
    assert row("eager", K1)["ms"] / row("flash_attention_2", K1)["ms"] < 1.02
    assert row("eager", K4)["ms"] / row("sdpa", K4)["ms"] < 1.2  # "less than a fifth"
    flash, ours = decoding("flash_attention_2"), decoding("sdpa_by_length")
    assert all(9.5 < ms < 10.5 for ms in flash) and round(sorted(ours)[2]) == 9
    assert all(3.5 < slow / fast < 5 for slow, fast in zip(decoding("sdpa"), flash, strict=True))
    assert min(decoding("sdpa", "least_ms")) > 39 and max(decoding("sdpa_by_length", "floor_ms")) < 3
    others = [ms for name in ("eager", "flash_attention_2", "sdpa_by_length") for ms in decoding(name)]
    assert 8.5 < min(others) and max(others) < 17.5
    assert all(2.5 < softmax(name, K4) < 3.6 for name in ("sdpa", "flash_attention_2"))
    others = [found for found in BENCH["rows"] if found["status"] not in ("ok", "out of memory")]
    assert [(found["attention"], found["status"]) for found in others] == [("flash_attention_4", "not run")]


def test_from_where_on_a_plan_pays():
    """cuDNN's lead in a single layer, as when each GPU holds one, is worth a plan from LONG on and not at a quarter."""
    found = {(r["form"], r["length"]): r for r in KERNELS["rows"] if r["what"] == "prefill"}
    assert LONG == 65536 and found["by length", 32768]["kernel"] == "flash_attention"
    for length, pays in ((K4, False), (K16, False), (LONG, True), (K128, True)):
        cudnn, flash = found["as published", length], found["flash", length]
        cost, lead = cudnn["first_ms"] - cudnn["again_ms"], flash["again_ms"] - cudnn["again_ms"]
        assert (lead > 1.5 * cost) == pays, (length, cost, lead)


def test_the_plan_is_what_a_token_waits_for():
    steps = {
        r["form"]: r
        for r in KERNELS["rows"]
        if (r["what"], r["batch"], r["length"], r["masked"]) == ("decode", 1, K16, False)
    }
    assert all(29 < steps[form]["ms"] < 35 for form in ("as published", "avoiding"))
    assert steps["by length"]["ms"] < 0.5 and steps["flash"]["ms"] < 0.5
    assert steps["as published"]["second_layer_ms"] < 1  # the plan is there by then
    ten = 10 * row("sdpa_by_length", K4, "decode")["ms"]
    assert round((ten + steps["as published"]["ms"]) / ten, 1) == 1.4  # "we estimate 1.4 times"


def test_the_variable_takes_plans_from_prompts():
    first = {(r["form"], r["length"]): r["first_ms"] for r in KERNELS["rows"] if r["what"] == "prefill"}
    assert all(first["avoiding", length] < first["as published", length] / 2.5 for length in (K1, K4, K16))
