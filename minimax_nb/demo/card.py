"""The model card's figures: the trained model as it should be read, and as each trap makes it read.

    python -m minimax_nb.demo.card [--questions 300] [--each 60] [--json FILE]

Every row is stock Transformers; only the folder, or whether the cache is repaired, differs. Minutes on 2 CPU
cores.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from math import exp
from pathlib import Path
from random import Random
from typing import Annotated

import torch
import typer
from rich.progress import track

from ..cache import CACHE_ARGUMENT, repair_cache, stock_cache
from ..checkpoint.convert import patch_checkpoint
from ..config import patch_config
from . import corpus, demo_checkpoint, evaluate
from .evaluate import Replies


def folders(original: Path, work: Path) -> dict[str, Path]:
    """The converted folder, and three that load without an exception and compute something else."""
    right = patch_checkpoint(original, work / "right")
    config = json.loads((original / "config.json").read_text())
    converted = json.loads((right / "config.json").read_text())
    renamed = patch_config(config | {"rotary_dim": config["head_dim"]})
    ones = {key: 1 for key in converted if key.endswith("_alpha_factor")}
    return {
        "converted": right,
        "only renamed (full RoPE)": variant(work / "renamed", original, right, renamed),
        "alphas of 1": variant(work / "alphas", right, right, converted | ones),
        "default layer_types": variant(work / "layers", right, right, converted | {"layer_types": None}),
    }


def variant(folder: Path, weights: Path, tokenizer: Path, config: dict) -> Path:
    """A folder of links to another's weights and a tokenizer, under its own config."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    files = [*weights.glob("*.safetensors*"), *tokenizer.glob("tokenizer*"), *tokenizer.glob("*.jinja")]
    for file in [*files, tokenizer / "generation_config.json"]:
        (folder / file.name).symlink_to(file.resolve())
    return folder


def stock_replies(model, tokenizer, batch_size: int = 32, keep_prior: bool = False, quiet: bool = False) -> Replies:
    """Greedy replies by `generate`, in left-padded batches of prompts of similar length.

    With `keep_prior` each prompt is run alone, all but its last message first, and the reply comes from the
    kept cache. `quiet` hides the progress bar.
    """
    settings = {"do_sample": False, "max_new_tokens": 120, "pad_token_id": tokenizer.eos_token_id}

    def batched(prompts: list[list[int]]) -> list[list[int]]:
        order, replies = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), [[]] * len(prompts)
        for start in track(range(0, len(order), batch_size), "replies", transient=True, disable=quiet):
            rows = order[start : start + batch_size]
            batch = tokenizer.pad({"input_ids": [prompts[i] for i in rows]}, padding_side="left", return_tensors="pt")
            out = model.generate(**batch.to(model.device), **settings)[:, batch["input_ids"].shape[1] :]
            for i, row in zip(rows, out.tolist(), strict=True):
                replies[i] = row
        return replies

    def one_by_one(prompts: list[list[int]]) -> list[list[int]]:
        return [second_turn(ids) for ids in track(prompts, "replies", transient=True, disable=quiet)]

    @torch.inference_mode()
    def second_turn(ids: list[int]) -> list[int]:
        """As one would write it by hand: the earlier turns, then only the new tokens on the kept cache."""
        starts = [i for i, token in enumerate(ids) if token == tokenizer.bos_token_id]
        cut, cache, reply = starts[-2], None, []  # the last two open the question and the reply
        if cut:
            cache = model(torch.tensor([ids[:cut]], device=model.device), use_cache=True)[CACHE_ARGUMENT]
        step = ids[cut:]
        while len(reply) < settings["max_new_tokens"] and tokenizer.eos_token_id not in reply:
            out = model(torch.tensor([step], device=model.device), **{CACHE_ARGUMENT: cache}, use_cache=True)
            step, cache = [out.logits[0, -1].argmax().item()], out[CACHE_ARGUMENT]
            reply += step
        return reply

    return one_by_one if keep_prior else batched


def perplexity(model, tokenizer, rows: int) -> float:
    """exp of the mean cross-entropy of the reply tokens of held-out conversations."""
    totals, counts = zip(*surprises(model, tokenizer, rows), strict=True)
    return exp(sum(totals) / sum(counts))


@torch.inference_mode()
def surprises(model, tokenizer, rows: int) -> Iterator[tuple[float, int]]:
    """Of each held-out conversation: the cross-entropy of its reply tokens, summed, and how many they are."""
    for ids, learned in evaluate.held_out_rows(tokenizer, rows):
        logits = model(torch.tensor([ids], device=model.device)).logits[0, :-1].float()
        each = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:], device=model.device), reduction="none")
        wanted = torch.tensor(learned[1:], device=model.device)
        yield each[wanted].sum().item(), int(wanted.sum())


def rows_of_card(original: Path, work: Path, questions: int, each: int, texts: int) -> Iterator[dict]:
    """One dict a row of the table: name, on_topic, recall by distance, perplexity."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    repair_cache()
    made = folders(original, work)
    asked = corpus.held_out_questions()
    asked = Random(0).sample(asked, min(questions, len(asked)))
    runs: list[tuple[str, Path, Callable, bool]] = [(name, folder, nullcontext, False) for name, folder in made.items()]
    runs += [
        ("padded batch, cache not repaired", made["converted"], stock_cache, False),
        ("second turn, cache not repaired", made["converted"], stock_cache, True),
    ]
    for name, folder, cache, keep_prior in runs:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        torch.manual_seed(0)  # what a wrong folder leaves out is drawn at random
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        cases = evaluate.recall_cases(tokenizer, each)
        with cache():
            replies = stock_replies(model, tokenizer, keep_prior=keep_prior)
            on_topic = evaluate.score_questions(replies, tokenizer, asked)
            recall = evaluate.score_recall(replies, tokenizer, cases)
        row = {"name": name, "on_topic": [on_topic["right"], on_topic["asked"]], "recall": recall["by_distance"]}
        row |= {"by_kind": on_topic["by_kind"], "wrong": [*on_topic["wrong"][:3], *recall["wrong"][:3]]}
        yield row | {"perplexity": perplexity(model, tokenizer, texts) if cache is nullcontext else None}


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    distances = list(rows[0]["recall"])
    lines = [f"| | on topic | recall at {' / '.join(map(str, distances))} tokens | perplexity |", "|---|---|---|---|"]
    for row in rows:
        shares = " / ".join(f"{100 * right / asked:.0f}" for right, asked in row["recall"].values())
        right, asked = row["on_topic"]
        perplexity = f"{row['perplexity']:.3f}" if row["perplexity"] else "the same weights"
        lines.append(f"| {row['name']} | {100 * right / asked:.1f} % | {shares} % | {perplexity} |")
    return "\n".join(lines)


def main(
    checkpoint: Annotated[Path | None, typer.Argument(help="an original-format folder; default: the demo")] = None,
    questions: Annotated[int, typer.Option(help="held-out questions, of all")] = 300,
    each: Annotated[int, typer.Option(help="recall cases at each distance")] = 60,
    texts: Annotated[int, typer.Option(help="held-out conversations for the perplexity")] = 32,
    out: Annotated[Path | None, typer.Option("--json", help="write all figures here")] = None,
) -> None:
    """Print the table of the model card."""
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for row in rows_of_card(checkpoint or demo_checkpoint(), Path(work), questions, each, texts):
            rows.append(row)
            typer.echo(table(rows[-1:]).splitlines()[-1])
    typer.echo("\n" + table(rows))
    if out:
        out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    typer.run(main)
