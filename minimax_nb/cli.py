"""The command `minimax-nb`. A mistake of the user is one line on stderr and exit code 2; a failed check is exit code 1.

Commands import what they need when they run, so that --help answers at once. To add one, write a function
under `@app.command()`, or in the command.py of a room; raise one of `errors.MISTAKES` for what the user can
mend, `typer.Exit(1)` for a bad result.
"""

import contextlib
import importlib.metadata
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from .bench.command import bench
from .errors import MISTAKES, UsageMistake
from .language import speaking
from .serve.command import serve
from .terminal import Console

app = typer.Typer(no_args_is_help=True, add_completion=False, help="MiniMax-Text-01 on Hugging Face Transformers.")


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 check failed, 2 mistake of the user, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with logged(), speaking("en"):
            code = app(_without_dash(arguments), standalone_mode=False) or 0
        return _refuse("interrupted", code) if code == 130 else code
    except typer.TyperException as error:  # what typer says of a wrong command line
        return _refuse(f"{(error.format_message() or 'no command given').rstrip('.')}: see minimax-nb --help")
    except (*MISTAKES, OSError) as error:
        return _refuse(str(error))


@contextlib.contextmanager
def logged() -> Iterator[None]:
    """Within it, what the package logs goes to stderr, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    log = logging.getLogger("minimax_nb")
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def _without_dash(arguments: list[str]) -> list[str]:
    """`--json -` as `--json` for the commands whose `--json` names no file, so that it may be written everywhere."""
    if not arguments or arguments[0] not in ("check", "doctor", "plan"):
        return arguments
    pairs = zip(arguments, [None, *arguments], strict=False)
    return [argument for argument, before in pairs if (before, argument) != ("--json", "-")]


def _print_version(asked: bool) -> None:
    if asked:
        try:
            typer.echo(f"minimax-nb {importlib.metadata.version('minimax-nb')}")
        except importlib.metadata.PackageNotFoundError:
            typer.echo("minimax-nb, run from its folder: not installed, so without a version")
        raise typer.Exit()


@app.callback()
def _commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


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
def restore(
    src: Annotated[Path, typer.Argument(help="A converted folder, trained or not, or a LoRA adapter; only read.")],
    dst: Annotated[Path, typer.Argument(help="The folder to write.")],
    original: Annotated[Path | None, typer.Option(help="MiniMax's folder: take its small files and code.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy all weights instead of linking them.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Write a folder in MiniMax's own format again, for llama.cpp and vLLM."""
    from .checkpoint.restore import describe, restore_checkpoint
    from .memory import enough_memory

    with enough_memory("the way back"):
        if not dry_run:
            typer.echo(restore_checkpoint(src, dst, original=original, link=not copy))
        elif lines := describe(src, dst, original=original, link=not copy):
            typer.echo("\n".join(lines))


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
    if as_json:
        typer.echo(json.dumps([line._asdict() for line in lines], indent=2))
    else:
        typer.echo("\n".join(map(str, lines)))
    if any(line.ok is False for line in lines):
        raise typer.Exit(1)


@app.command()
def plan(
    path: Annotated[Path | None, typer.Argument(help="A folder with config.json; if not given, Text-01.")] = None,
    gpus: Annotated[int, typer.Option(help="How many.")] = 8,
    gpu_memory: Annotated[float, typer.Option(help="GB of one, as doctor prints it.")] = 80,
    dtype: Annotated[str, typer.Option(help="bf16, fp16, or int8 (int8 experts, the rest bf16).")] = "bf16",
    context: Annotated[int, typer.Option(help="Tokens of a conversation, prompts and replies.")] = 131072,
    batch: Annotated[int, typer.Option(help="Conversations at a time.")] = 1,
    tp: Annotated[bool, typer.Option("--tp", help="With every layer split over all GPUs: load(..., tp=True).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether a model fits on GPUs, how long a context may be, and what to change."""
    from .plan import plan as planned

    found = planned(path, gpus=gpus, gpu_memory=gpu_memory, dtype=dtype, context=context, batch=batch, tp=tp)
    typer.echo(json.dumps(found.to_json(), indent=2) if as_json else found.report)


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
    top_p: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Sample among the likeliest tokens of this sum.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sampling; the same one gives the same replies.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest reply.")] = 512,
    dtype: Annotated[str | None, typer.Option(help="bf16, fp16 or fp32; as the machine allows if not given.")] = None,
    experts: Annotated[
        str | None, typer.Option(help="int8 halves their memory. As in the folder if not given.")
    ] = None,
    offload: Annotated[bool, typer.Option("--offload", help="Let what no GPU has room for go to the CPU.")] = False,
) -> None:
    """Talk to a model: Ctrl-C stops a reply; Ctrl-D, exit or quit ends the conversation.

    In a pipe, each line that comes in is a message, and nothing but the replies goes to stdout.
    """
    from .chat import Chat, require_temperature
    from .dtypes import full_name
    from .loading import load
    from .prompts import require_text

    console = Console()
    settings = {"max_new_tokens": max_new_tokens, "do_sample": temperature > 0}
    if temperature:
        require_temperature(temperature)
        settings |= {"temperature": temperature} | ({} if top_p is None else {"top_p": top_p})
    elif top_p is not None:
        raise UsageMistake("--top-p needs a --temperature above 0, which samples")
    if system is not None:
        require_text("--system", system)
    chosen = None if dtype is None else full_name(dtype)
    with contextlib.redirect_stdout(console.notes):
        model, tokenizer = load(dst, dtype=chosen, experts=experts, offload=offload)
    if seed is not None:
        import torch

        settings["generator"] = torch.Generator(model.device).manual_seed(seed)
    if not _converse(Chat(model, tokenizer, system), console, settings):
        raise typer.Exit(2)


def _converse(talk, console: Console, settings: dict) -> bool:
    """Messages in, replies out, to the end of the input. False if a message could not be answered."""
    from .memory import enough_memory

    answered = True
    console.greet("Ctrl-C stops a reply; Ctrl-D, exit or quit ends the conversation.")
    while (text := console.line("you> ")) is not None and text.strip() not in ("exit", "quit"):
        if not text.strip():
            continue
        try:
            with enough_memory("this message"):
                for piece in talk.stream(text, **settings):
                    console.write(piece)
            console.write("\n")
            if talk.finish_reason == "length":
                console.note(f"(cut after {settings['max_new_tokens']} tokens: --max-new-tokens)")
        except KeyboardInterrupt:
            console.write("\n")
            console.note("(stopped: this turn is forgotten)")
        except UsageMistake as mistake:  # of this one message; the conversation goes on
            console.note(f"minimax-nb: {mistake}")
            answered = False
    return answered


app.command()(bench)
app.command()(serve)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return " ".join(record.getMessage().split())


def _refuse(message: str, code: int = 2) -> int:
    print("minimax-nb:", " ".join(message.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
