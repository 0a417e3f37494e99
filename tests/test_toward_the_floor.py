"""Notebook 06's figures: each that its text quotes from a run is that of the JSON, and the pages have its estimate."""

import re
from pathlib import Path

import nbformat
import pytest
from measured import results, row

from minimax_nb.original import PERIOD, original_config

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
FILES = ("decode_ladder_h200", "decode_h200", "decode_h200_x2", "experts_h200", "decode_int8_h200")
FILES += ("tensor_parallel_h200_x2", "full_model_h200_x2")
LADDER, RUN, TWO, BLOCK, INT8, SPLIT, HALF = results(*FILES)
BANDWIDTH = RUN["speed"][0]["read_bytes_s"]
QUOTED = re.compile(r"\d[\d.,]*(?: to \d[\d.]*)? (?:ms\b|times the floor|tokens a second|launches\b)")


@pytest.fixture(scope="module")
def cells() -> list:
    return nbformat.read(NOTEBOOKS / "06_toward_the_floor.ipynb", 4).cells


@pytest.fixture(scope="module")
def text(cells) -> str:
    """The prose from the first measured figure on, without the exercises, code and links."""
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    prose = prose[prose.index("## Where the time goes today") :]
    prose = prose[: prose.index("## Exercises")] + prose[prose.index("## What you saw") :]
    return re.sub(r"\s+", " ", re.sub(r"`[^`]*`|\(https[^)]*\)", "", prose))


def output(cells: list, number: str) -> str:
    (cell,) = [cell for cell in cells if cell.id == number]
    return "".join(found.get("text", "") for found in cell.outputs)


def decode(way: str, batch: int = 1, context: int = 1024) -> dict:
    return row(RUN["speed"], what="decode", way=way, batch=batch, context=context)


def talk(what: str) -> dict:
    return row(RUN["talk"], what=what, way="static")


def of_bytes(experts: str) -> float:
    """Milliseconds of a step at batch 1, with the experts in this number format."""
    return row(INT8["int8"], what="decode", experts_in=experts, batch=1)["ms"]


def shared(form: str) -> float:
    """Milliseconds of a step at batch 1 on one GPU ("one") or on two ("split")."""
    return row(SPLIT["speed"][form]["rows"], what="decode", batch=1)["ms"]


def two(gpus: int) -> float:
    return row(TWO["devices"], gpus=gpus, way="static")["ms"]


def bytes_of_a_period() -> tuple[int, int, int]:
    """What a token reads of the weights of a period, in bf16: attention, experts, and the head."""
    sizes = original_config()
    d, inner = sizes["hidden_size"], sizes["num_attention_heads"] * sizes["head_dim"]
    attention = 7 * 5 * d * inner + 2 * d * (inner + sizes["num_key_value_heads"] * sizes["head_dim"])
    experts = PERIOD * sizes["num_experts_per_tok"] * 3 * d * sizes["intermediate_size"]
    return 2 * attention, 2 * experts, 2 * d * sizes["vocab_size"]


def estimate() -> tuple[float, float]:
    """Milliseconds a token of ten periods on eight GPUs: by parts, and as ten whole tokens of `Chat`."""
    attention, _, head = bytes_of_a_period()
    step = decode("static")
    of_head = step["kernels_us"]["gemv"][1] / 1000 * head / (attention + head)
    parts = 10 * (step["graph_ms"] - of_head) + of_head + 7 * (two(2) - two(1)) + step["ms"] - step["graph_ms"]
    return parts, 10 * talk("Chat, greedy")["ms_a_token"]


def figures() -> set[str]:
    """Each figure that the text quotes, with its unit, as the JSON files have it."""
    rungs = LADDER["ladder"]
    ms, launches = ([rung[field] for rung in rungs] for field in ("ms", "launches"))
    static, far = decode("static"), decode("static", context=131072)
    one = BLOCK["rows"][0]
    parts, careful = estimate()
    before = results("load_two_gpus")[0]["decode_ms_a_token"].values()
    over = far["graph_ms"] - static["graph_ms"]
    return {
        f"{one['grouped_mm']['ms']:.2f} to {one['minimax_nb']['ms']:.2f} ms",
        f"{rungs[1]['least_ms']:.1f} to {rungs[1]['most_ms']:.1f} ms",
        f"{ms[2]:.1f} to {ms[3]:.1f} ms",
        f"{ms[4]:.2f} ms",
        f"{launches[4]} launches",
        f"{static['ms'] / static['floor_ms']:.2f} times the floor",
        f"{static['floor_ms']:.2f} ms",
        f"{static['graph_ms']:.2f} ms",
        f"{over:.2f} ms",
        f"{10 * over:.1f} ms",
        f"{talk('Chat, greedy')['ms_a_token'] - static['ms']:.2f} to "
        f"{talk('generate, greedy')['ms_a_token'] - static['ms']:.2f} ms",
        "30 to 40 tokens a second",  # which the last test compares with the estimate
        f"{min(before):.0f} to {max(before):.0f} ms",
        f"{of_bytes('bfloat16'):.2f} to {of_bytes('int8'):.2f} ms",
        f"{shared('one'):.2f} to {shared('split'):.2f} ms",
        f"{HALF['tensor_parallel']['decode_1']['tokens_s']:.0f} tokens a second",
    }


def test_what_is_quoted_is_what_was_measured(text):
    assert set(QUOTED.findall(text)) == figures()


def test_captions_and_round_words(text, cells):
    (roofline,) = [" ".join(cell.source.split()) for cell in cells if cell.id == "06-13"]
    rungs = LADDER["ladder"]
    corner = BLOCK["rates"]["matrix_ops_s"] / BLOCK["rates"]["read_bytes_s"]
    assert f"rises to a corner at about {corner:.0f}" in roofline
    *first, last = [f"{rung['ms']:.1f}" for rung in rungs]
    assert f"{', '.join(first)} and {last}" in text
    *first, last = [str(rung["launches"]) for rung in rungs]
    assert f"{', '.join(first)} and {last}" in text
    gemv, up, down = (decode("static")["kernels_us"][name][1] for name in ("gemv", "one_gate_up", "one_down"))
    assert f"{gemv:,.0f} microseconds, experts {up:.0f} and {down:.0f}" in text
    assert rungs[0]["floor_ms"] / rungs[0]["ms"] < 0.2  # "less than a fifth"
    assert 5.5 < decode("today")["ms"] / decode("today")["floor_ms"] < 6  # "nearly six times the floor"
    batch = decode("static", batch=16)
    assert batch["ms"] < batch["floor_ms"] and batch["experts"] == 161
    one, _, _, _, sixteen, *_ = BLOCK["rows"]
    assert f"{one['minimax_nb']['ms']:.2f}" == f"{one['floor_ms']:.2f}"  # "which is its floor"
    assert sixteen["minimax_nb"]["ms"] < sixteen["floor_ms"]  # "slightly below its floor"
    sampled, greedy = (talk(f"generate, {how}")["ms_a_token"] for how in ("sampled", "greedy"))
    assert 0.4 < sampled - greedy < 0.6  # "half a millisecond more"
    rows = {(row["got"], row["want"]): row["median"] for row in TWO["equal"]["rows"]}
    assert rows["static", "fp32"] < rows["today", "fp32"]


def test_the_floor_by_hand_is_that_of_the_run(cells):
    attention, experts, head = bytes_of_a_period()
    together = f"{(attention + experts + head) / 1e9:.2f} GB"
    assert re.search(rf"together +{together}", output(cells, "06-04"))
    assert [cell.source.count(together) for cell in cells if cell.id in ("06-05", "06-70")] == [1, 1]
    state = 2 * 4 * 7 * 64 * 128 * 128
    by_hand = attention + experts + head + state + 2 * 2 * 1024 * 1024
    assert by_hand / BANDWIDTH * 1000 == pytest.approx(decode("static")["floor_ms"], rel=0.01)


def test_the_estimate_is_computed_and_the_pages_promise_no_more(cells):
    parts, careful = estimate()
    printed = output(cells, "06-56")
    assert f"{parts:.2f} ms, so {1000 / parts:.0f} tokens a second" in printed
    assert f"{careful:.1f} ms, so {1000 / careful:.0f} tokens a second" in printed
    assert 1000 / careful >= 30 and 1000 / parts >= 39.5
    for page in (NOTEBOOKS.parent / "README.md", NOTEBOOKS / "README.md"):
        said = re.sub(r"\s+", " ", page.read_text(encoding="utf-8"))
        assert "30 to 40 tokens a second" in said and f"{parts:.0f} ms" in said and f"{careful:.0f} ms" in said, page
