"""What users call: `generate`, `Chat`, and the replies of the shipped demo."""

import functools
import time
from pathlib import Path

import torch
from torch import nn
from transformers import LogitsProcessor

from minimax_nb.chat import Chat

from .model import GPU, WAYS, go, model_of

WORK = Path(__file__).resolve().parents[2] / "notebooks" / "_work"


class Known(LogitsProcessor):
    """Only ids that a tokenizer knows, and no end."""

    def __init__(self, tokenizer):
        self.count, self.end = len(tokenizer), tokenizer.eos_token_id

    def __call__(self, input_ids, scores):
        scores[:, self.count :] = float("-inf")
        scores[:, self.end] = float("-inf")
        return scores


def folder_and_tokenizer() -> tuple:
    from transformers import AutoTokenizer

    from minimax_nb.checkpoint import patch_checkpoint
    from minimax_nb.demo import demo_checkpoint

    folder = patch_checkpoint(demo_checkpoint(), WORK / "demo")
    return folder, AutoTokenizer.from_pretrained(folder)


def talk(toy: bool, model: nn.Module | None = None, count: int = 60, repeats: int = 3) -> list[dict]:
    """Milliseconds a token after the first: of `generate` and of `Chat`, greedy and sampled; ways take turns."""
    folder, tokenizer = folder_and_tokenizer()
    if model is None:
        model = model_of(toy, [0] * 7 + [1], **{"vocab_size": len(tokenizer)} if toy else {})
    rows = []
    prompt = tokenizer("What is your favourite condiment? " * 10, return_tensors="pt").to(model.device)
    settings = {"logits_processor": [Known(tokenizer)], "pad_token_id": 0}

    def generate(n: int, **more) -> None:
        model.generate(**prompt, **settings | {"do_sample": False} | more, max_new_tokens=n)

    def chat(n: int) -> None:
        Chat(model, tokenizer).send("Hello", **settings, max_new_tokens=n, do_sample=False)

    sampled = functools.partial(generate, do_sample=True, top_p=0.9)
    for name, call in {"generate, greedy": generate, "generate, sampled": sampled, "Chat, greedy": chat}.items():
        found = {way: [] for way in WAYS}
        for _ in range(repeats):
            for way in WAYS:
                go(model, way)
                call(3)  # compiles and records
                found[way].append([seconds(call, n) for n in (1, count)])
        for way in WAYS:
            first, whole = (1000 * min(times) for times in zip(*found[way], strict=True))
            row = {"what": name, "way": way, "tokens": count, "whole_ms": round(whole, 1)}
            each = (whole - first) / (count - 1)
            rows.append(row | {"ms_a_token": round(each, 3), "tokens_s": round(1000 / each, 1)})
            print(rows[-1], flush=True)
    return rows


def seconds(call, count: int) -> float:
    start = time.perf_counter()
    call(count)
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def demo(toy: bool) -> list[dict]:
    """The shipped demo: 512 greedy tokens and 30 replies both ways, in each dtype; on a CPU its speed."""
    from minimax_nb.demo import corpus, evaluate
    from minimax_nb.loading import load

    folder, tokenizer = folder_and_tokenizer()
    rows, questions = [], corpus.held_out_questions()[:30]
    settings = {"do_sample": False, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id}
    for dtype in ("float32", "bfloat16") if GPU else ("float32",):
        model, _ = load(folder, dtype=dtype)
        prompt, count = tokenizer("What is your favourite condiment?", return_tensors="pt").to(model.device), 512
        said, replies = {}, {}
        for way in WAYS:
            go(model, way)
            said[way] = model.generate(**prompt, **settings, min_new_tokens=count, max_new_tokens=count)[0].cpu()
            prompts = [torch.tensor([evaluate.prompt(tokenizer, turn)], device=model.device) for turn in questions]
            replies[way] = [
                model.generate(ids, attention_mask=torch.ones_like(ids), **settings, max_new_tokens=200).tolist()
                for ids in prompts
            ]
        row = {"what": "greedy", "dtype": dtype, "tokens": count, "replies": len(questions)}
        row["equal_up_to"] = (said["today"] == said["static"]).long().cumprod(0).sum().item() - len(prompt.input_ids[0])
        row["equal_replies"] = sum(a == b for a, b in zip(*replies.values(), strict=True))
        rows.append(row)
        print(rows[-1], flush=True)
    return rows if GPU else rows + talk(toy, model, repeats=6)
