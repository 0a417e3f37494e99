"""llama.cpp on MiniMax's original folder, beside `load()` on the converted one: the same text? And how fast?

llama.cpp knows MiniMax-Text-01 and M1 (architecture minimax-01) and reads `rotary_dim` itself. So it is given the
original folder. Its converter and its Python package come from one source package. In an environment with this one:

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36
    tar xzf llama_cpp_python-0.3.36.tar.gz
    CMAKE_ARGS="-DLLAVA_BUILD=OFF" pip install ./llama_cpp_python-0.3.36        # compiles: about 25 minutes on 2 cores
    pip install sentencepiece==0.2.3 PyYAML==6.0.4 requests==2.34.2             # which the converter imports

    python benchmarks/against_llama_cpp.py --llama-cpp llama_cpp_python-0.3.36/vendor/llama.cpp --json FILE
    python benchmarks/against_llama_cpp.py --llama-cpp ... --folder ORIGINAL --ask "A question?" --ask "Another?"

`--folder` may be any small folder in MiniMax's format, such as the demo after training. Without it, the demo is taken;
without `--ask`, 30 of its held-out questions and 10 conversations in which something must be recalled. Exit code 1 if
a reply of the fp32 file differs from ours.

For q8_0 llama.cpp repacks weights for AMX where the processor says that it has it. A virtual machine may say so and
then refuse the instructions; `--no-repack` is for those.

The converter knows a tokenizer by a hash, and does not know the demo's. So it is told how this one splits text: each
digit by itself, then as GPT-2 does. llama.cpp calls that "smollm". What "gpt-2" alone would give is counted beside it.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from minimax_nb import reference  # noqa: E402
from minimax_nb.bench import Results  # noqa: E402
from minimax_nb.checkpoint import patch_checkpoint  # noqa: E402
from minimax_nb.demo import corpus, demo_checkpoint, evaluate  # noqa: E402
from minimax_nb.demo.corpus.kitchen import Turn  # noqa: E402
from minimax_nb.loading import load  # noqa: E402

CONVERT = """
import runpy, sys
place, splitting = sys.argv[1:3]
sys.path[:0] = [place, f"{place}/gguf-py"]
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: splitting
del sys.argv[1:3]
runpy.run_path(f"{place}/convert_hf_to_gguf.py", run_name="__main__")
"""
SPLITTING, OTHER = "smollm", "gpt-2"  # llama.cpp's names
TYPES = (("f32", "f32"), ("f32", "f16"), ("f16", "f16"), ("q8_0", "f16"))  # of weights; of keys and values
GGML = {"f32": 0, "f16": 1}  # its numbers for them; it takes f16 if it is not told
TOKENS = 600  # of one held-out conversation, for the logits
ROWS = 8  # held-out conversations, for the perplexity
LONGEST = 200  # tokens of a reply
WRITTEN, ROUNDS = 128, 3  # tokens, and how often each engine is timed


class Ours:
    """`load()` of the converted folder, in fp32 on the CPU."""

    def __init__(self, folder: Path):
        self.model, self.tokenizer = load(folder, dtype="float32", device_map="cpu", quiet=True)
        self.end = self.tokenizer.eos_token_id

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> Tensor:
        """(tokens, vocabulary)"""
        return self.model(torch.tensor([ids]), use_cache=False).logits[0]

    def read(self, ids: list[int]) -> None:
        self.write(ids, 1)

    @torch.inference_mode()
    def write(self, ids: list[int], count: int, stop: bool = False) -> list[int]:
        """Greedy: `count` new tokens, or fewer when the reply ends and `stop`."""
        settings = {"do_sample": False, "max_new_tokens": count, "pad_token_id": self.end}
        settings |= {"eos_token_id": self.end} if stop else {"min_new_tokens": count}
        row = torch.tensor([ids])
        return self.model.generate(row, attention_mask=torch.ones_like(row), **settings)[0, len(ids) :].tolist()


class LlamaCpp:
    """A GGUF file in llama.cpp, through llama-cpp-python."""

    def __init__(self, file: Path, end: int, cache: str = "f16", *, every_logit: bool = False):
        from llama_cpp import Llama

        settings = {"n_ctx": 4096, "type_k": GGML[cache], "type_v": GGML[cache]}
        settings |= {"n_threads": torch.get_num_threads(), "n_threads_batch": torch.get_num_threads()}
        self.llama, self.end = Llama(str(file), logits_all=every_logit, verbose=False, **settings), end

    def logits(self, ids: list[int]) -> Tensor:
        self.read(ids)
        return torch.tensor(self.llama.scores[: len(ids)])

    def read(self, ids: list[int]) -> None:
        self.llama.reset()
        self.llama.eval(ids)

    def write(self, ids: list[int], count: int, stop: bool = False) -> list[int]:
        self.llama.reset()
        reply = []
        for token in self.llama.generate(ids, temp=0.0, repeat_penalty=1.0):
            reply.append(token)
            if len(reply) == count or (stop and token == self.end):
                return reply


# ---- files ---------------------------------------------------------------------------------------------------------


def convert(llama_cpp: Path, folder: Path, file: Path, kind: str, splitting: str = SPLITTING, *more: str) -> str:
    """Write `file`, a GGUF of this kind, and return "", or else the line in which the converter says what is wrong."""
    command = [sys.executable, "-c", CONVERT, llama_cpp, splitting, folder, "--outfile", file, "--outtype", kind, *more]
    run = subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    return (run.stderr.strip().splitlines() or ["no word"])[-1] if run.returncode else ""


def converted_under_the_original_config(folder: Path, converted: Path, place: Path) -> Path:
    """The rows of q and k as `patch` orders them, where the config lets llama.cpp take them for MiniMax's order."""
    place.mkdir()
    for file in converted.iterdir():
        if file.name != "config.json":
            (place / file.name).symlink_to(file.resolve())
    (place / "config.json").symlink_to(folder.resolve() / "config.json")
    return place


def weights_of(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {name: weight for file in sorted(folder.glob("*.safetensors")) for name, weight in load_file(file).items()}


# ---- what is compared ----------------------------------------------------------------------------------------------


def prompts(tokenizer, asked: list[str]) -> list[list[int]]:
    turns = [Turn(question, "") for question in asked]
    if not turns:
        turns = random.Random(2).sample(corpus.held_out_questions(), 30)
        turns += [turn for _, turn in evaluate.recall_cases(tokenizer, each=2, seed=7)]
    return [evaluate.prompt(tokenizer, turn) for turn in turns]


def equal_ids(vocabulary: Path, tokenizer, rows: list[list[int]]) -> int:
    """Of how many texts llama.cpp makes the ids that the tokenizer made."""
    from llama_cpp import Llama

    llama = Llama(str(vocabulary), vocab_only=True, verbose=False)
    return sum(llama.tokenize(tokenizer.decode(ids).encode(), add_bos=False, special=True) == ids for ids in rows)


def off(got: Tensor, want: Tensor) -> float:
    """Norm of the difference over the norm of what it should be."""
    return float(f"{((got.double() - want.double()).norm() / want.double().norm()).item():.2e}")


def agreeing(got: Tensor, want: Tensor) -> int:
    """At how many places the likeliest next token is the same."""
    return (got.argmax(-1) == want.argmax(-1)).sum().item()


def perplexity(engine, rows: list[tuple[list[int], list[bool]]]) -> float:
    """exp of the mean cross-entropy of the reply tokens."""
    losses = []
    for ids, learned in rows:
        each = torch.nn.functional.cross_entropy(engine.logits(ids)[:-1], torch.tensor(ids[1:]), reduction="none")
        losses.append(each[torch.tensor(learned[1:])])
    return round(torch.cat(losses).double().mean().exp().item(), 5)


def tokens_a_second(engines: dict, ids: list[int]) -> Iterator[tuple[str, dict]]:
    """Of each engine, the best of some rounds in which they take turns."""
    reading, writing = {name: [] for name in engines}, {name: [] for name in engines}
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            reading[name].append(seconds(engine.read, ids))
            writing[name].append(seconds(engine.write, ids[:64], WRITTEN) - seconds(engine.write, ids[:64], 1))
    for name in engines:
        figures = {"read": len(ids) / min(reading[name]), "written": (WRITTEN - 1) / min(writing[name])}
        yield name, {f"tokens_{what}_a_second": round(value) for what, value in figures.items()}


def seconds(call, *arguments) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


# ---- the run -------------------------------------------------------------------------------------------------------


def measure(llama_cpp: Path, folder: Path, asked: list[str], place: Path, results: Results) -> bool:
    """Fill the results; return whether each reply of the first fp32 file is ours."""
    found, converted = results.found, patch_checkpoint(folder, place / "converted")
    ours = Ours(converted)
    questions, rows = prompts(ours.tokenizer, asked), list(evaluate.held_out_rows(ours.tokenizer, ROWS))
    ids = rows[0][0][:TOKENS]
    found |= {"tokens": len(ids), "asked": len(questions)}
    found["same_ids"] = ids_by_splitting(llama_cpp, folder, place, ours, questions + [row for row, _ in rows])
    print(found["same_ids"], flush=True)

    config, weights = json.loads((folder / "config.json").read_text()), weights_of(folder)
    truth, logits = reference.forward(config, weights, ids), ours.logits(ids)
    replies = [ours.write(prompt, LONGEST, stop=True) for prompt in questions]
    found["first_reply"] = ours.tokenizer.decode(replies[0], skip_special_tokens=True)
    row = {"engine": "load()", "folder": "converted", "type": "f32", "cache": "f32", "mb": size(folder)}
    row |= {"off": off(logits, truth), "perplexity": perplexity(ours, rows)}
    print(results.add("rows", row), flush=True)

    engines = {"load(), f32": ours}
    for kind, cache in TYPES:
        require(convert(llama_cpp, folder, file := place / f"{kind}.gguf", kind))
        every, engine = LlamaCpp(file, ours.end, cache, every_logit=True), LlamaCpp(file, ours.end, cache)
        got, theirs = every.logits(ids), [engine.write(prompt, LONGEST, stop=True) for prompt in questions]
        row = {"engine": "llama.cpp", "folder": "original", "type": kind, "cache": cache}
        row |= {"mb": round(file.stat().st_size / 1e6, 2), "off": off(got, truth), "off_load": off(got, logits)}
        row |= {"perplexity": perplexity(every, rows), "same_tokens": agreeing(got, logits)}
        row["same_replies"] = sum(a == b for a, b in zip(theirs, replies, strict=True))
        print(results.add("rows", row), flush=True)
        engines[f"llama.cpp, {kind}, {cache}"] = engine

    found["converted_folder"] = misled(llama_cpp, folder, converted, place, ours, ids, truth)
    results.save()
    print(found["converted_folder"], flush=True)
    for row, (name, speed) in zip(found["rows"], tokens_a_second(engines, ids), strict=True):
        row |= speed
        print(name, speed, flush=True)
    found["complete"] = True
    results.save()
    return found["rows"][1]["same_replies"] == len(questions)


def ids_by_splitting(llama_cpp: Path, folder: Path, place: Path, ours: Ours, texts: list[list[int]]) -> dict:
    found = {"texts": len(texts)}
    for splitting in (SPLITTING, OTHER):
        require(convert(llama_cpp, folder, file := place / f"{splitting}.gguf", "f32", splitting, "--vocab-only"))
        found[splitting] = equal_ids(file, ours.tokenizer, texts)
    return found


def misled(llama_cpp: Path, folder: Path, converted: Path, place: Path, ours: Ours, ids: list, truth: Tensor) -> dict:
    """What becomes of the converted folder there: as it is, and with the original config beside its weights."""
    found = {"as_it_is": convert(llama_cpp, converted, place / "as_it_is.gguf", "f32")}
    mixed = converted_under_the_original_config(folder, converted, place / "mixed")
    require(convert(llama_cpp, mixed, file := place / "mixed.gguf", "f32"))
    got = LlamaCpp(file, ours.end, "f32", every_logit=True).logits(ids)
    return found | {"with_the_original_config": {"off": off(got, truth), "same_tokens": agreeing(got, truth)}}


def size(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6, 2)


def without_repacking() -> None:
    """Leave the weights as they are in the file. llama-cpp-python has no argument for it."""
    from llama_cpp import llama_cpp

    default = llama_cpp.llama_model_default_params

    def plain():
        settings = default()
        settings.use_extra_bufts = False
        return settings

    llama_cpp.llama_model_default_params = plain


def require(wrong: str) -> None:
    if wrong:
        raise SystemExit(f"the converter failed: {wrong}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--llama-cpp", type=Path, required=True, help="vendor/llama.cpp of the source package")
    parser.add_argument("--folder", type=Path, help="in MiniMax's format; the demo if left out")
    parser.add_argument("--ask", action="append", default=[], help="a question, as often as you like")
    parser.add_argument("--threads", type=int, default=1, help="of either engine; more than are idle make both slow")
    parser.add_argument("--no-repack", action="store_true", help="if this machine ends q8_0 by an illegal instruction")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if not (given.llama_cpp / "convert_hf_to_gguf.py").is_file():
        parser.error(f"{given.llama_cpp} has no convert_hf_to_gguf.py: the head of this script says where to get it")
    command = (
        f"python benchmarks/against_llama_cpp.py --llama-cpp LLAMA_CPP --threads {given.threads}"
        + " --folder FOLDER" * bool(given.folder)
    )
    torch.set_num_threads(given.threads)
    if given.no_repack:
        command += " --no-repack"
        without_repacking()
    with tempfile.TemporaryDirectory() as place, Results(given.json, command) as results:
        results.found["versions"]["llama-cpp-python"] = version("llama-cpp-python")
        folder = given.folder or demo_checkpoint()
        return int(not measure(given.llama_cpp.resolve(), folder, given.ask, Path(place), results))


if __name__ == "__main__":
    sys.exit(main())
