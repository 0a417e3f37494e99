"""The planner as an explorer: its figures are those of plan, its bars are to scale, its words say what to change."""

import re

import pytest

from minimax_nb import plan
from minimax_nb.errors import UsageMistake
from minimax_nb.plan import PARTS
from minimax_nb.widgets import planner
from minimax_nb.widgets.explorers.planner import FILLS, SPLIT, SPLITS, WHOLE, WIDTH, Planner


@pytest.fixture
def state() -> Planner:
    return Planner()


def rows(state: Planner) -> list[list[str]]:
    """The cells of the table, without the bars."""
    lines = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", state.picture)
    return [[name, *re.findall(r"<td>(.*?)</td>", cells)] for name, cells in lines]


def test_it_begins_with_the_node_that_most_have_and_says_what_to_change(state):
    assert state.status == "does not fit"
    assert "--dtype int8 (fits, up to 2,249,810 tokens)" in state.picture
    assert state.found.report == state.text


def test_the_picture_has_the_figures_of_the_plan(state):
    for name, value in {"gpus": 4, "memory": 141, "dtype": "int8", "context": 19, "batch": 2}.items():
        state.set(name, value)
    want = plan(gpus=4, gpu_memory=141, dtype="int8", context=2**19, batch=2)
    assert state.found == want and state.status == "fits"
    for row, parts, held, layers in zip(
        rows(state), want.parts_per_gpu_gb, want.per_gpu_gb, want.layers_per_gpu, strict=True
    ):
        assert row[0].endswith(f", {layers} layers")
        assert [float(cell) for cell in row[1:]] == pytest.approx([*parts.values(), held], abs=0.05)


def test_every_layer_split_over_the_gpus(state):
    state.set("dtype", "int8")
    state.set("spread", SPLIT)
    want = plan(gpus=8, gpu_memory=80, dtype="int8", context=2**17, tp=True)
    assert state.found == want and state.status == "fits" and "tensor parallel" in state.picture
    (name, *cells), *others = rows(state)
    assert name == "GPU 0, 1/8 of 80 layers" and [row[1:] for row in others] == [cells] * 7
    assert float(cells[-1]) == pytest.approx(want.per_gpu_gb[0], abs=0.05)
    assert "Over the GPUs: tensor parallel" in state.about()[1]


def test_gpus_that_cannot_split_the_model_are_told_which_can(state):
    state.set("spread", SPLIT)
    for gpus in range(2, 17):
        state.set("gpus", gpus)
        if gpus in SPLITS:
            assert state.found.tp
            continue
        with pytest.raises(UsageMistake):
            plan(gpus=gpus, gpu_memory=80, context=2**17, tp=True)
        assert state.found is None and state.status == "cannot be split"
        assert "2, 4 or 8 GPUs" in state.text and state.text in state.picture
    state.set("spread", WHOLE)
    assert len(rows(state)) == 16


def test_parts_add_up_to_what_a_plan_says():
    found = plan(gpus=8, gpu_memory=141, context=2**19, batch=3)
    for parts, held in zip(found.parts_per_gpu_gb, found.per_gpu_gb, strict=True):
        assert tuple(parts) == PARTS and sum(parts.values()) == pytest.approx(held)
    sums = [sum(parts[name] for parts in found.parts_per_gpu_gb) for name in PARTS]
    together = found.weights_gb, found.kv_cache_gb, found.lightning_state_gb, found.workspace_gb
    assert sums == pytest.approx(together)


def test_bars_are_to_scale_and_the_line_stands_where_the_memory_ends(state):
    longest = max(state.found.per_gpu_gb)  # more than the memory
    (first, *_) = re.findall(r'<span aria-hidden="true" style="position.*?</span></span>', state.picture)
    widths = [float(width) for width in re.findall(r"width:([\d.]+)em;background", first)]
    assert widths == pytest.approx([WIDTH * gb / longest for gb in state.found.parts_per_gpu_gb[0].values()], abs=0.006)
    (line,) = re.findall(r"left:([\d.]+)em", first)
    assert float(line) == pytest.approx(WIDTH * 80 / longest, abs=0.006)


def test_parts_differ_by_more_than_colour():
    assert tuple(FILLS) == PARTS
    assert sum("gradient" in fill for fill in FILLS.values()) == 2 and len(set(FILLS.values())) == len(PARTS)


def test_what_cannot_be_is_refused(state):
    state.set("gpus", 0)
    assert state.status.endswith("from 2 to 16") and state.values["gpus"] == 8


def test_the_still_picture_has_figures_and_advice():
    still = planner().as_html()
    assert (
        "GPUs: 8" in still
        and f"{planner().explorer.found.parts_per_gpu_gb[1]['weights']:.1f}" in still
        and "Cheapest change" in still
    )
