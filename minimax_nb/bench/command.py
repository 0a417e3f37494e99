"""The command `minimax-nb bench`."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def bench(
    folder: Annotated[Path | None, typer.Argument(help="A converted folder; without one, random weights.")] = None,
    toy: Annotated[bool, typer.Option("--toy", help="Random weights at toy size, as on a CPU.")] = False,
    lengths: Annotated[str | None, typer.Option(help="Tokens: 1024,4096.")] = None,
    batch: Annotated[str | None, typer.Option(help="Sequences at a time: 1,16.")] = None,
    attention: Annotated[
        str | None,
        typer.Option(help="sdpa_by_length (as load() takes on a GPU),sdpa,eager,flash_attention_2; first the base."),
    ] = None,
    lightning: Annotated[str | None, typer.Option(help="fused,torch,stock; the first is the base.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bf16,fp16,fp32; the first is the base.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Of a prefill; decode steps are 4 times as many.")] = None,
    save: Annotated[
        Path | None, typer.Option("--json", help="A file for the results, written after every row; - is stdout.")
    ] = None,
) -> None:
    """Measure prefill and decoding by length, batch and implementation, against what the device could do."""
    from ..terminal import row_progress
    from .measure import bench as rows_of
    from .measure import model_facts, model_for
    from .plan import cases, command, planned
    from .results import HEADER, STDOUT, Results, row_line

    names = {"attention": attention, "lightning": lightning, "dtypes": dtype}
    plan = planned(folder, toy, {"lengths": lengths, "batches": batch, "repeats": repeats} | names)
    say: Callable = functools.partial(typer.echo, err=save == STDOUT)
    with Results(save, command(folder, toy, plan)) as results:
        model, source = model_for(folder, toy, plan)
        results.found["model"] = model_facts(model, source)
        todo, failed = cases(plan), 0
        say(HEADER)
        with row_progress(len(todo)) as show:

            def begin(case) -> None:
                show(todo.index(case), " ".join(map(str, case)))

            for row in rows_of(model, plan, results, begin):
                say(row_line(row))
                failed += row["status"] == "failed"
    if failed:
        raise typer.Exit(1)
