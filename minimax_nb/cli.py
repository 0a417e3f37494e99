"""The command `minimax-nb`. A mistake of the user is one line on stderr and exit code 2; a failed check is exit code 1.

Commands import what they need when they run, so that --help answers at once. To add one, write a function under
`@app.command()`; raise ConfigError or CheckpointError for what the user can mend, `typer.Exit(1)` for a bad result.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from .errors import MISTAKES

app = typer.Typer(no_args_is_help=True, add_completion=False, help="MiniMax-Text-01 on Hugging Face Transformers.")
UsageError = typer.BadParameter.__bases__[0]  # typer keeps a click of its own and does not export this one


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 check failed, 2 mistake of the user, 130 interrupted."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    log = logging.getLogger("minimax_nb")
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        code = app(arguments, standalone_mode=False) or 0
        return _refuse("interrupted", code) if code == 130 else code
    except UsageError as error:
        return _refuse(f"{(error.format_message() or 'no command given').rstrip('.')}: see minimax-nb --help")
    except (*MISTAKES, OSError) as error:
        return _refuse(str(error))
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


@app.callback()
def _commands() -> None:
    """Keeps typer from turning a single command into the whole program."""


@app.command()
def patch(
    src: Annotated[Path, typer.Argument(help="The original folder; it is only read.")],
    dst: Annotated[Path, typer.Argument(help="The converted folder to write.")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy all weights instead of linking them.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Write a folder that stock Transformers computes right."""
    from .checkpoint.convert import describe, is_finished, patch_checkpoint, plan_conversion
    from .memory import enough_memory

    with enough_memory("the conversion"):
        if not dry_run:
            typer.echo(patch_checkpoint(src, dst, link=not copy))
        elif not is_finished(plan := plan_conversion(src, dst, link=not copy)):
            typer.echo("\n".join(describe(plan)))


@app.command()
def check(
    dst: Annotated[Path, typer.Argument(help="A converted folder.")],
    against: Annotated[Path | None, typer.Option(help="The original folder, to compare with.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Layers to compute; 8 at most if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that stock Transformers computes a converted folder right."""
    from .check import checks

    words, results = {True: "ok", False: "FAILED", None: "-"}, []
    for result in checks(dst, against=against, layers=layers):
        results.append(result)
        if not as_json:
            print(f"{words[result.ok]:8}{result.name:13}{result.detail}", flush=True)
    ok = all(result.ok is not False for result in results)
    if as_json:
        typer.echo(json.dumps({"ok": ok, "results": [result._asdict() for result in results]}, indent=2))
    if not ok:
        raise typer.Exit(1)


@app.command()
def doctor(
    folder: Annotated[Path, typer.Option(help="Where weights would go: its disk is looked at.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what this machine has and can run, and the command that mends what is not right."""
    from .hardware import report

    lines = report(folder)
    typer.echo(json.dumps([line._asdict() for line in lines], indent=2) if as_json else "\n".join(map(str, lines)))
    if any(line.ok is False for line in lines):
        raise typer.Exit(1)


@app.command()
def room(
    wheels: Annotated[Path | None, typer.Option(help="The folder of wheels to set up laptops from.")] = None,
) -> None:
    """Check a laptop on the day before a workshop: all that it will need, without a network."""
    from .workshop import checks

    to_mend = 0
    for line in checks(wheels):
        typer.echo(line)
        to_mend += line.ok is False
    typer.echo(f"not ready: {to_mend} to mend, above" if to_mend else "ready")
    if to_mend:
        raise typer.Exit(1)


@app.command()
def chat(
    dst: Annotated[Path, typer.Argument(help="A converted folder.")],
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest reply.")] = 512,
) -> None:
    """Talk to a model: Ctrl-C stops a reply; Ctrl-D, exit or quit ends the conversation."""
    from .loading import load

    model, tokenizer = load(dst)
    from .chat import Chat

    talk = Chat(model, tokenizer, system)
    print("Ctrl-C stops a reply; Ctrl-D, exit or quit ends the conversation.")
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    while (text := _line("you> ")) is not None and text.strip() not in ("exit", "quit"):
        if not text.strip():
            continue
        try:
            for piece in talk.stream(text, max_new_tokens=max_new_tokens, **sampling):
                print(piece, end="", flush=True)
            print()
        except KeyboardInterrupt:
            print(" (stopped: this turn is forgotten)")


@app.command()
def bench(
    folder: Annotated[Path | None, typer.Argument(help="A converted folder; without one, random weights.")] = None,
    toy: Annotated[bool, typer.Option("--toy", help="Random weights at toy size, as on a CPU.")] = False,
    lengths: Annotated[str | None, typer.Option(help="Tokens: 1024,4096.")] = None,
    batch: Annotated[str | None, typer.Option(help="Sequences at a time: 1,16.")] = None,
    attention: Annotated[str | None, typer.Option(help="eager,sdpa,flash_attention_2; the first is the base.")] = None,
    lightning: Annotated[str | None, typer.Option(help="fused,torch,stock; the first is the base.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bf16,fp16,fp32; the first is the base.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Of a prefill; decode steps are 4 times as many.")] = None,
    save: Annotated[
        Path | None, typer.Option("--json", help="A file for the results, written after every row.")
    ] = None,
) -> None:
    """Measure prefill and decoding by length, batch and implementation, against what the device could do."""
    from .bench.measure import bench as rows_of
    from .bench.measure import described_model, model_for
    from .bench.plan import cases, command, planned
    from .bench.results import Results, described
    from .terminal import row_progress

    names = {"attention": attention, "lightning": lightning, "dtypes": dtype}
    plan = planned(folder, toy, {"lengths": lengths, "batches": batch, "repeats": repeats} | names)
    results = Results(save, command(folder, toy, plan))
    model, source = model_for(folder, toy, plan)
    results.found["model"] = described_model(model, source)
    todo, failed = cases(plan), 0
    with row_progress(len(todo)) as show:
        for row in rows_of(model, plan, results, lambda case: show(todo.index(case), " ".join(map(str, case)))):
            typer.echo(described(row))
            failed += row["status"] == "failed"
    if failed:
        raise typer.Exit(1)


def _line(prompt: str) -> str | None:
    """What the user types, or None at the end of input; nothing, if they press Ctrl-C a moment too late."""
    try:
        return input(prompt)
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print()
        return ""


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return " ".join(record.getMessage().split())


def _refuse(message: str, code: int = 2) -> int:
    print("minimax-nb:", " ".join(message.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
