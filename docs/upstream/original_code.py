"""How far from MiniMax's own code are the float64 reference of this package and Transformers on a converted folder?

MiniMax published the code of its model beside the weights: modeling_minimax_text_01.py and the
configuration_minimax_text_01.py that it imports lie in every folder downloaded from
https://huggingface.co/MiniMaxAI/MiniMax-Text-01. They are no part of this repository. This script runs yours, on the
demo that ships and on a CPU, so read the two files first. They need Transformers 4.45.2, which lives in an environment
of its own. From the root of the repository, once:

    python -m venv runs/minimax
    runs/minimax/bin/pip install transformers==4.45.2 torch==2.13.0 einops numpy

and then, where this package is installed (a minute on two busy cores):

    python docs/upstream/original_code.py FILE                       # FILE: your modeling_minimax_text_01.py
    python docs/upstream/original_code.py FILE --python PYTHON       # of another environment than runs/minimax
    python docs/upstream/original_code.py FILE --json RESULT

One function of MiniMax's is replaced: flash_attn_func, which needs a GPU, by plain causal softmax attention. All is
computed in float32, one row without padding, in one pass and token by token on each code's own cache, with the position
of each token given, as `generate` does. Exit code 0 if everything is within 1e-5 and chooses the same tokens, 1 if not,
2 if the code could not be run.

Not held against it: padding (its softmax layers attend to pads: the decoder hands them the mask under a name that they
do not read), half precision, and the published weights.
"""

import argparse
import hashlib
import importlib.util
import inspect
import json
import os
import platform
import subprocess
import sys
import tempfile
import types
from datetime import date
from pathlib import Path

import torch

PYTHON = Path(__file__).parents[2] / "runs" / "minimax" / "bin" / "python"
NEEDS = "transformers==4.45.2 torch==2.13.0 einops numpy"
MODELING, CONFIGURATION = "modeling_minimax_text_01", "configuration_minimax_text_01"
TOKENS = 600  # of a held-out conversation: two whole blocks of lightning attention, 256 each, and a part of a third
WAYS = ("one pass", "token by token")
RIGHT = 1e-5  # norm of the difference over the norm of the original's logits; float32 alone gives some 1e-7


@torch.no_grad()
def both_ways(model, ids: list[int]) -> dict[str, torch.Tensor]:
    """{way: logits (tokens, vocabulary)} of one row: all at once, and one by one on the model's own cache."""
    names = inspect.signature(type(model).forward).parameters
    argument = "cache" if "cache" in names else "past_key_values"  # Transformers 5.24 renamed it
    rows, cache = [], None
    for position, token in enumerate(ids):
        step = {argument: cache, "position_ids": torch.tensor([[position]])}
        out = model(torch.tensor([[token]]), use_cache=True, **step)
        cache = out.past_key_values
        rows.append(out.logits[0, -1])
    return dict(zip(WAYS, (model(torch.tensor([ids]), use_cache=False).logits[0], torch.stack(rows)), strict=True))


# In the environment of Transformers 4.45.2, where this package is not


def run_original(file: Path, folder: Path) -> None:
    """Reads `folder`/asked.json and writes the original's logits to `folder`/logits.safetensors."""
    import transformers
    from safetensors.torch import load_file, save_file

    asked = json.loads((folder / "asked.json").read_text())
    modeling = imported(file)
    modeling.flash_attn_func = causal_softmax
    modeling._flash_supports_window_size = True  # set where flash-attn is installed; the demo has no window

    source = Path(asked["source"])
    config = modeling.MiniMaxText01Config(**json.loads((source / "config.json").read_text()))
    model = modeling.MiniMaxText01ForCausalLM(config).eval()
    weights = {}
    for shard in sorted(source.glob("*.safetensors")):
        weights |= load_file(shard)
    model.load_state_dict(weights, strict=True)
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    logits = {way: rows.float().contiguous() for way, rows in both_ways(model, asked["ids"]).items()}
    save_file(logits, folder / "logits.safetensors", metadata=versions)


def imported(file: Path) -> types.ModuleType:
    """The modeling file as a module of a package, since it imports the configuration beside it as one of the same."""
    package = types.ModuleType("original")
    package.__path__ = [str(file.parent)]
    sys.modules["original"] = package
    spec = importlib.util.spec_from_file_location(f"original.{MODELING}", file)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def causal_softmax(q, k, v, dropout_p=0.0, softmax_scale=None, causal=True, **_) -> torch.Tensor:
    """flash_attn_func by definition: q (batch, new, heads, dim), k and v (batch, length, KV heads, dim); no dropout.

    The new tokens are the last of `length`, so each sees all tokens before it, cached or new.
    """
    group, offset = q.shape[2] // k.shape[2], k.shape[1] - q.shape[1]
    q, k, v = q.transpose(1, 2), *(x.repeat_interleave(group, 2).transpose(1, 2) for x in (k, v))
    scores = q @ k.mT * (softmax_scale or q.shape[-1] ** -0.5)
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores[0, 0]).triu(1 + offset).bool(), float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2)


# Here, with this package


def compared(source: Path, ids: list[int]) -> dict[str, dict[str, torch.Tensor]]:
    """{code: {way: logits}} of what is held against the original: a reference, which has no cache, and two models."""
    from safetensors.torch import load_file
    from transformers import MiniMaxForCausalLM

    from minimax_nb import reference
    from minimax_nb.cache import stock_cache
    from minimax_nb.checkpoint import patch_checkpoint
    from minimax_nb.loading import load

    weights = {}
    for shard in sorted(source.glob("*.safetensors")):
        weights |= load_file(shard)
    config = json.loads((source / "config.json").read_text())
    by_definition = reference.forward(config, weights, ids)
    with tempfile.TemporaryDirectory() as folder:
        converted = patch_checkpoint(source, Path(folder, "converted"))
        with stock_cache():
            stock = both_ways(MiniMaxForCausalLM.from_pretrained(converted, dtype="float32").eval(), ids)
        model, _ = load(converted, dtype="float32", device_map="cpu")
        return {
            "float64 reference": dict.fromkeys(WAYS, by_definition),
            "converted folder, stock Transformers": stock,
            "converted folder, load()": both_ways(model, ids),
        }


def distances(original: dict[str, torch.Tensor], others: dict[str, dict[str, torch.Tensor]]) -> list[dict]:
    """A row for each code: its distance from the original each way, and how many tokens it would choose otherwise."""
    rows = []
    for code, logits in others.items():
        row = {"code": code}
        for way in WAYS:
            want, got = original[way].double(), logits[way].double()
            row[way] = ((got - want).norm() / want.norm()).item()
        row["other tokens"] = sum(int((logits[way].argmax(-1) != original[way].argmax(-1)).sum()) for way in WAYS)
        rows.append(row)
    return rows


def table(rows: list[dict]) -> str:
    lines = [f"| | {' | '.join(WAYS)} | tokens chosen otherwise |", "|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row['code']} | {' | '.join(f'{row[way]:.1e}' for way in WAYS)} | {row['other tokens']} |")
    return "\n".join(lines)


def text_ids(source: Path) -> list[int]:
    """The first TOKENS ids of a held-out conversation of the demo's."""
    from transformers import PreTrainedTokenizerFast

    from minimax_nb.demo.evaluate import held_out_rows

    tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    ((ids, _),) = held_out_rows(tokenizer, count=1, length=TOKENS)
    return ids


def original_logits(python: Path, file: Path, source: Path, ids: list[int]) -> tuple[dict, dict]:
    """({way: logits}, versions) of the original, computed by `python` in a process of its own."""
    from safetensors import safe_open

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "asked.json").write_text(json.dumps({"source": str(source), "ids": ids}))
        # -I: none of this environment's paths there; -B: no __pycache__ beside the reader's file
        command = [python, "-I", "-B", Path(__file__).resolve(), file.resolve(), "--into", folder]
        try:
            run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        except OSError as problem:
            raise Mistake(f"{python} cannot be started: {problem}") from problem
        if run.returncode:
            last = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
            raise Mistake(f"{file} did not run in {python}, which needs {NEEDS}: {last}")
        with safe_open(folder / "logits.safetensors", "pt") as dumped:
            return {way: dumped.get_tensor(way) for way in WAYS}, dict(sorted(dumped.metadata().items()))


class Mistake(Exception):
    """Something the reader can put right."""


def check_paths(file: Path, python: Path, result: Path | None) -> None:
    for needed in (file, file.with_name(f"{CONFIGURATION}.py")):
        if not needed.is_file():
            raise Mistake(f"{needed} is no file: give {MODELING}.py, with {CONFIGURATION}.py beside it")
    if not python.is_file():
        raise Mistake(
            f"{python} is no file: make an environment with {NEEDS} (the commands are in this script's first lines), "
            "or name the python of one with --python"
        )
    if result and (result.is_dir() or not result.parent.is_dir()):
        raise Mistake(f"--json {result}: name a file, in a folder that exists")


def result(rows: list[dict], file: Path, versions: dict) -> dict:
    """What --json writes."""
    import transformers

    here = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    return {
        "what": f"distance of the logits from those of MiniMax's own code, on the demo that ships, {TOKENS} tokens",
        "device": f"CPU ({platform.machine()})",
        "dtype": "float32",
        "versions": {"python": platform.python_version(), **here},
        "original": {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "versions": versions},
        "date": date.today().isoformat(),
        "command": "python docs/upstream/original_code.py FILE --json RESULT",
        "rows": rows,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, metavar="FILE", help=f"your {MODELING}.py; read it first")
    parser.add_argument("--python", type=Path, default=PYTHON, help="the python of the other environment")
    parser.add_argument("--json", type=Path, metavar="RESULT", help="write the figures there too")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # the script calls itself with it
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)  # on matrices this small, a second thread only waits for the first
    if given.into:
        run_original(given.file, given.into)
        return 0
    try:
        check_paths(given.file, given.python, given.json)
        rows, versions = measured(given.file, given.python)
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        return 2
    print(f"How far from MiniMax's own code, in Transformers {versions['transformers']}:\n\n{table(rows)}")
    if given.json:
        given.json.write_text(json.dumps(result(rows, given.file, versions), indent=1) + "\n", encoding="utf-8")
    return int(any(row["other tokens"] or max(row[way] for way in WAYS) > RIGHT for row in rows))


def measured(file: Path, python: Path) -> tuple[list[dict], dict]:
    """The rows of `distances`, and the versions that the original ran on."""
    from transformers import logging

    from minimax_nb.demo import demo_checkpoint

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = demo_checkpoint()
    ids = text_ids(source)
    print(f"{len(ids)} tokens in MiniMax's own code, {file} ...", file=sys.stderr)
    original, versions = original_logits(python, file, source, ids)
    print("... and in the others", file=sys.stderr)
    return distances(original, compared(source, ids)), versions


if __name__ == "__main__":
    sys.exit(main())
