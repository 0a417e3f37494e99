"""The figures of a benchmark draw the rows they are given, and say the same in words."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest

from minimax_nb.plots import bench as plots_bench

LENGTHS = [1024, 4096, 16384, 131072]
MS = {"sdpa": [45, 100, 350, 3700], "eager": [47, 115, None, None], "flash_attention_2": [48, 101, 350, 3700]}


def row(attention: str, length: int, ms: float | None, **changes) -> dict:
    made = {"dtype": "bfloat16", "attention": attention, "lightning": "fused", "what": "prefill", "batch": 1}
    made |= {"length": length} | changes
    if ms is None:
        return made | {"status": "out of memory", "why": "OutOfMemoryError"}
    parts = {"lightning": 0.4 * ms, "softmax": 0.1 * ms, "experts": 0.45 * ms, "rest": 0.05 * ms}
    times = {"ms": ms, "least_ms": 0.98 * ms, "most_ms": 1.05 * ms, "floor_ms": 0.5 * ms}
    return made | {"status": "ok", "kinds": parts, "extra_gb": length / 5000} | times


ABSENT = {"dtype": "bfloat16", "attention": "flash_attention_4", "lightning": "fused", "status": "not run", "why": "-"}
ROWS = [row(name, *pair) for name, times in MS.items() for pair in zip(LENGTHS, times, strict=True)]
SDPA = [each for each in ROWS if each["attention"] == "sdpa"]
FIGURES = {"time": ROWS, "memory": ROWS, "shares": SDPA, "speed_up": ROWS}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_once_and_have_words(name, tmp_path):
    getattr(plots_bench, name)(FIGURES[name]).savefig(tmp_path / "figure.png")
    assert plt.get_fignums() == []
    text = getattr(plots_bench, f"{name}_text")(FIGURES[name])
    assert "1,024 tokens" in text and "131,072 tokens" in text and text.endswith(".")


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_rows_are_chosen_by_their_fields_and_in_order_of_length():
    rows = [*reversed(ROWS), ABSENT, row("sdpa", 1024, 9.0, what="decode")]
    found = plots_bench.chosen(rows, what="prefill", attention="sdpa")
    assert [each["length"] for each in found] == LENGTHS
    with pytest.raises(ValueError, match="no row has .*float16"):
        plots_bench.chosen(rows, dtype="float16")


def test_lines_are_named_and_differ_by_more_than_colour():
    (axes,) = plots_bench.time(ROWS).axes
    assert set(legend(axes)) == {"SDPA", "eager", "FlashAttention-2", "eager: out of memory", "floor"}
    lines = [line for line in axes.lines if line.get_linestyle() != "None" and len(line.get_xdata()) > 1][:3]
    assert len({line.get_marker() for line in lines}) == 3 and len({line.get_linestyle() for line in lines}) == 3


def test_time_has_its_spread_and_the_floor():
    (axes,) = plots_bench.time(SDPA).axes
    low, high = axes.containers[0].lines[2][0].get_segments()[0][:, 1]  # the bar at the first length
    assert (low, high) == pytest.approx((0.98 * 45, 1.05 * 45))
    floor = next(line for line in axes.lines if line.get_label() == "floor")
    assert list(floor.get_ydata()) == [each["floor_ms"] for each in SDPA]
    text = plots_bench.time_text(SDPA)
    assert "SDPA: 45 ms at 1,024 tokens to 3,700 ms" in text and "Floor: 22.5 ms at 1,024" in text


def test_out_of_memory_is_a_cross_and_a_word():
    for figure in (plots_bench.time(ROWS), plots_bench.memory(ROWS)):
        (cross,) = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
        assert list(cross.get_xdata()) == [16384, 131072]
    for text in (plots_bench.time_text(ROWS), plots_bench.memory_text(ROWS)):
        assert "out of memory from 16,384 tokens" in text and text.count("out of memory") == 1


def test_shares_add_up_and_their_kinds_are_hatched():
    (axes,) = plots_bench.shares(SDPA).axes
    heights = [[bar.get_height() for bar in kind] for kind in axes.containers]
    assert [sum(bar) for bar in zip(*heights, strict=True)] == pytest.approx([100] * 4)
    assert heights[0] == pytest.approx([40] * 4)
    assert len({kind[0].get_hatch() for kind in axes.containers}) == 4
    assert "45 ms" in {text.get_text() for text in axes.texts}
    assert "1,024 tokens, 45 ms: lightning 40 %, experts 45 %, softmax 10 %, rest 5 %." in plots_bench.shares_text(SDPA)


def test_speed_up_is_of_what_both_ran():
    eager, sdpa = plots_bench.speed_up(ROWS).axes
    assert (eager.get_title(), sdpa.get_title()) == ("against eager", "against SDPA")
    faster = {line.get_label(): list(line.get_ydata()) for line in eager.lines[:-1]}
    assert faster["SDPA"] == pytest.approx([47 / 45, 115 / 100])
    assert legend(eager) == ["SDPA", "FlashAttention-2"]
    assert "SDPA against eager: 1.04 times as fast at 1,024 tokens to 1.15" in plots_bench.speed_up_text(ROWS)


def test_lines_can_be_told_apart_by_another_field():
    rows = SDPA + [each | {"lightning": "stock"} for each in SDPA]
    assert set(legend(plots_bench.time(rows, by="lightning").axes[0])) == {"fused", "stock", "floor"}
    with pytest.raises(ValueError, match="6 lines are too many"):
        plots_bench.time([each | {"batch": size} for size in range(6) for each in SDPA], by="batch")


def test_a_cpu_has_no_memory_to_draw():
    rows = [{name: value for name, value in each.items() if name != "extra_gb"} for each in SDPA]
    with pytest.raises(ValueError, match="on GPUs only"):
        plots_bench.memory(rows)


def test_an_implementation_has_the_same_line_in_every_figure():
    def colours(rows):
        return {line.get_label(): line.get_color() for line in plots_bench.memory(rows).axes[0].lines}

    both, without = colours(ROWS), colours([each for each in ROWS if each["attention"] != "sdpa"])
    assert without == {name: colour for name, colour in both.items() if name in without} and len(without) >= 2
    assert len({both[name] for name in ("SDPA", "eager", "FlashAttention-2")}) == 3
