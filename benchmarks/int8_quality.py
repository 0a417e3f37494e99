"""What rounding the experts costs the demo: perplexity, replies, recall, with the weights as they are and in int8.

    pip install -e ".[int8]"
    python benchmarks/int8_quality.py --json FILE        # about 20 minutes on a CPU core

Replies are greedy, and compared token by token with those of the unrounded model. Everything but the experts' weights
is the same. "int8" is what load(experts="int8") gives, computed in int8. The other forms are not in the package: the
weights are rounded by torchao and computed as fp32 numbers, for what such a form would cost. 176 columns, which the
demo's down_proj has, can be cut into groups of 16 at most; larger models take 32 to 128, which costs more.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from minimax_nb.bench.results import Results  # noqa: E402
from minimax_nb.checkpoint import patch_checkpoint  # noqa: E402
from minimax_nb.demo import card, corpus, demo_checkpoint, evaluate  # noqa: E402
from minimax_nb.loading import load  # noqa: E402

GROUP = 16


def as_fp8(weight: Tensor) -> Tensor:
    """e4m3, a scale a row."""
    from torchao.quantization import Float8Tensor, PerRow

    rounded = Float8Tensor.from_hp(weight, torch.float8_e4m3fn, PerRow())
    return rounded.dequantize()


def as_int4(weight: Tensor, group: int | None = None) -> Tensor:
    """16 levels; a scale for each `group` weights of a row, or a row."""
    from torchao.quantization.quantize_.workflows import IntxUnpackedToInt8Tensor

    rounded = IntxUnpackedToInt8Tensor.from_hp(weight, (1, group or weight.shape[1]), torch.int4)
    return rounded.dequantize()


ROUNDED = {
    "fp8 (e4m3), a scale a row": as_fp8,
    f"int4, a scale for {GROUP} weights": lambda weight: as_int4(weight, GROUP),
    "int4, a scale a row": as_int4,
}
FORMS = ("fp32", "int8", *ROUNDED)


@torch.no_grad()
def rounded_experts(model: nn.Module, form) -> None:
    for layer in model.model.layers:
        for parameter in (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj):
            for expert in parameter.data:
                expert.copy_(form(expert.clone()))


class Recorded:
    """Replies as they are asked for, and kept in order."""

    def __init__(self, replies):
        self.replies, self.kept = replies, []

    def __call__(self, prompts: list[list[int]]) -> list[list[int]]:
        found = self.replies(prompts)
        self.kept += found
        return found


def until_end(reply: list[int], end: int) -> list[int]:
    return reply[: reply.index(end)] if end in reply else reply


def measured(model: nn.Module, tokenizer, questions: int, each: int, texts: int) -> tuple[dict, list, list]:
    """A row, and the tokens of the replies to questions and of recall."""
    asked = Random(0).sample(corpus.held_out_questions(), questions)
    start, end = time.perf_counter(), tokenizer.eos_token_id
    answers, recalled = (Recorded(card.stock_replies(model, tokenizer)) for _ in range(2))
    on_topic = evaluate.score_questions(answers, tokenizer, asked)
    recall = evaluate.score_recall(recalled, tokenizer, evaluate.recall_cases(tokenizer, each))
    row = {"on_topic": [on_topic["right"], on_topic["asked"]], "recall": recall["by_distance"]}
    row |= {"perplexity": round(card.perplexity(model, tokenizer, texts), 6)}
    row |= {"seconds": round(time.perf_counter() - start)}
    return row, *([until_end(reply, end) for reply in replies.kept] for replies in (answers, recalled))


@torch.no_grad()
def logits_error(model: nn.Module, plain: nn.Module, tokenizer) -> float:
    """Relative, over one held-out conversation."""
    ids, _ = next(iter(evaluate.held_out_rows(tokenizer, 1)))
    want, got = (each(torch.tensor([ids])).logits.double() for each in (plain, model))
    return ((got - want).norm() / want.norm()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--each", type=int, default=60, help="recall cases at each distance")
    parser.add_argument("--texts", type=int, default=32, help="conversations for the perplexity")
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS, metavar="FORM", help=", ".join(FORMS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sizes = arguments.questions, arguments.each, arguments.texts
    with tempfile.TemporaryDirectory() as work, Results(arguments.json, "python benchmarks/int8_quality.py") as results:
        folder = patch_checkpoint(demo_checkpoint(), Path(work) / "demo")
        plain, tokenizer = load(folder, dtype="float32", device_map="cpu", quiet=True)
        results.found["sizes"] = dict(zip(("questions", "recall_cases_each", "texts"), sizes, strict=True))
        row, replies, recalled = measured(plain, tokenizer, *sizes)
        print(results.add("forms", {"form": "fp32"} | row), flush=True)
        first = row
        for form in arguments.forms:
            if form == "fp32":
                continue
            kind = "int8" if form == "int8" else "plain"
            model, _ = load(folder, dtype="float32", device_map="cpu", experts=kind, quiet=True)
            if form in ROUNDED:
                rounded_experts(model, ROUNDED[form])
            row, *others = measured(model, tokenizer, *sizes)
            for name, mine, theirs in zip(("replies", "recalled"), others, (replies, recalled), strict=True):
                row[f"{name}_unchanged"] = [sum(a == b for a, b in zip(mine, theirs, strict=True)), len(theirs)]
            row["perplexity_times"] = round(row["perplexity"] / first["perplexity"], 6)
            row["logits_error"] = round(logits_error(model, plain, tokenizer), 6)
            print(results.add("forms", {"form": form} | row), flush=True)
        results.found["complete"] = True
        results.save()


if __name__ == "__main__":
    main()
