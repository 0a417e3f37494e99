"""What one rank of a split model computes: tests/test_parallel.py starts it by torchrun, and reads what it saves.

    torchrun --nproc-per-node 2 tests/parallel_cases.py FOLDER

FOLDER has `random`, a converted checkpoint with grouped KV heads, and `demo`. Rank r writes FOLDER/rank{r}.pt.
The tests call `everything` without tp, for what one process finds.
"""

import sys
from collections import Counter
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))
from minimax_nb.cache import CACHE_ARGUMENT  # noqa: E402
from minimax_nb.chat import Chat  # noqa: E402
from minimax_nb.decode import plainly  # noqa: E402
from minimax_nb.decode.decoder import Decoder  # noqa: E402
from minimax_nb.lazy import installed  # noqa: E402
from minimax_nb.lightning import use_lightning  # noqa: E402
from minimax_nb.loading import load, report  # noqa: E402
from minimax_nb.parallel import ranks  # noqa: E402

ROW, FED = [5, 9, 2, 77, 31, 8, 64, 12, 3, 90, 41, 7], [11, 6, 55, 23, 42]
PADDED = torch.tensor([[0, 0, 0, 0, 31, 8, 64, 12, 3, 90, 41, 7], [5, 9, 2, 77, 31, 0, 0, 12, 3, 90, 41, 7]])
MASK = torch.tensor([[0] * 4 + [1] * 8, [1] * 5 + [0] * 2 + [1] * 5])
LONG = ROW * 9  # of so many tokens the lightning layers' norm goes first
QUESTIONS = ("What is your favourite condiment?", "Do you have a recipe for it?")


@contextmanager
def counted():
    """Within it, how many calls there are: steps, and talks with the other ranks."""
    calls, gather, reduce, step = Counter(), ranks.GATHER, dist.all_reduce, Decoder.step

    def watched(name, function):
        def call(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    ranks.GATHER, dist.all_reduce = watched("gather", gather), watched("reduce", reduce)
    Decoder.step = watched("step", step)
    try:
        yield calls
    finally:
        ranks.GATHER, dist.all_reduce, Decoder.step = gather, reduce, step


def decoded(model, ids, mask=None) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Logits of a prompt, those of the tokens FED after it one by one, and what the last of them asked for."""
    out = model(ids, attention_mask=mask, use_cache=True)
    first, cache, found = out.logits, out[CACHE_ARGUMENT], []
    for token in FED:
        mask = None if mask is None else torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        fed = torch.full((len(ids), 1), token)
        with counted() as calls:
            found.append(model(fed, attention_mask=mask, use_cache=True, **{CACHE_ARGUMENT: cache}).logits)
    return first, torch.cat(found, 1), dict(calls)


@torch.no_grad()
def numbers(folder: Path, tp: bool) -> dict:
    """Logits of the random checkpoint, in fp32 and in half precision."""
    model, _ = load(folder / "random", tp=tp)
    found = {"line": report(model).line, "bytes": {name: weight.nbytes for name, weight in model.named_parameters()}}
    with counted() as calls:
        model(torch.tensor([ROW]))
    found["calls"] = dict(calls)
    with counted() as calls:
        found["long"] = model(torch.tensor([LONG])).logits
    found["calls of long"] = dict(calls)
    for way in ("static", "plain"):
        with plainly(model) if way == "plain" else nullcontext():
            found[way] = decoded(model, torch.tensor([ROW]))
            found[f"{way} padded"] = decoded(model, PADDED, MASK)
    for dtype in ("bfloat16", "float16"):
        model, _ = load(folder / "random", tp=tp, dtype=dtype, quiet=True)
        found[dtype] = decoded(model, torch.tensor([ROW]))
        found[f"{dtype} long"] = model(torch.tensor([LONG])).logits
        if dtype == "bfloat16":
            cache = model(torch.tensor([ROW]), use_cache=True)[CACHE_ARGUMENT]
            keys = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers if layer.is_initialized)
            found["cache bytes"] = keys, sum(state.nbytes for state in cache.linear_cache if len(state))
    if installed("torchao"):
        for name in ("random", "demo"):
            model, _ = load(folder / name, tp=tp, dtype="bfloat16", experts="int8", quiet=True)
            found["int8 bytes" if name == "random" else "demo int8 bytes"] = held(model)
        model, _ = load(folder / "demo", tp=tp, experts="int8", quiet=True)
        found["int8"] = decoded(model, torch.tensor([ROW]))
    return found


def held(model) -> dict:
    """Bytes of each parameter, with what torchao keeps beside an int8 one."""
    parts = ("qdata", "scale", "zero_point")
    return {
        name: sum(getattr(weight, part).nbytes for part in parts) if hasattr(weight, "qdata") else weight.nbytes
        for name, weight in model.named_parameters()
    }


def texts(folder: Path, tp: bool, rank: int) -> dict:
    """What the demo says, by `generate` and by Chat."""
    model, tokenizer = load(folder / "demo", tp=tp, quiet=True)
    rows = [[{"role": "user", "content": text}] for text in QUESTIONS]
    prompt = tokenizer.apply_chat_template(
        rows, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id, "max_new_tokens": 24}
    found = {"greedy": model.generate(**prompt, **ends, do_sample=False)}
    found["beams"] = model.generate(**prompt, **ends | {"max_new_tokens": 6}, do_sample=False, num_beams=3)
    torch.manual_seed(7 + 10 * rank)  # rank 0's numbers hold for all
    found["sampled"] = model.generate(**prompt, **ends, do_sample=True, temperature=1.5)
    chat = Chat(model, tokenizer)
    found["chat"] = [chat.send(text, do_sample=False, max_new_tokens=30) for text in QUESTIONS]
    torch.manual_seed(7 + 10 * rank)
    found["again"] = chat.regenerate(do_sample=True, temperature=1.5, max_new_tokens=30)
    return found


def mistakes(folder: Path, rank: int) -> dict:
    """What a split model refuses."""
    model, _ = load(folder / "random", tp=True, quiet=True)
    calls = {
        "prompts": lambda: model.generate(torch.tensor([ROW]) + rank, max_new_tokens=2, pad_token_id=0),
        "lengths": lambda: model.generate(torch.tensor([ROW[rank:]]), max_new_tokens=2, pad_token_id=0),
        "saving": lambda: model.save_pretrained(folder / f"saved{rank}"),
        "stock": lambda: use_lightning(model, "stock"),
        "gradients": lambda: model(inputs_embeds=torch.ones(1, 3, model.config.hidden_size, requires_grad=True)),
        "device_map": lambda: load(folder / "random", tp=True, device_map="cpu"),
        "stock layers": lambda: load(folder / "random", tp=True, lightning="stock"),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    use_lightning(model, "torch")  # stays split
    with torch.no_grad():
        found["logits"] = model(torch.tensor([ROW])).logits
    return found


def everything(folder: Path, tp: bool, rank: int = 0) -> dict:
    return numbers(folder, tp) | texts(folder, tp, rank)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, (rank, _) = Path(sys.argv[1]), ranks.start()
    found = everything(folder, True, rank) | {"mistakes": mistakes(folder, rank)}
    torch.save(found, folder / f"rank{rank}.pt")
