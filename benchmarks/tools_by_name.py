"""lm-evaluation-harness and `transformers serve` on the converted demo: as published, and through minimax_nb.run.

    pip install lm_eval==0.4.13 "transformers[serving]"         # in an environment of its own
    python benchmarks/tools_by_name.py --json FILE              # about 10 minutes on 2 CPU cores

The task is recall: conversations in which a number, a name or a list was told up to 1,000 tokens ago, and some
questions about recipes. Their prompts are of unequal length, so a batch of them is padded. lm-eval generates the
replies greedily, and gives log-likelihoods of the right ones.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from minimax_nb.bench.results import Results  # noqa: E402
from minimax_nb.checkpoint import patch_checkpoint  # noqa: E402
from minimax_nb.demo import corpus, demo_checkpoint, evaluate  # noqa: E402
from minimax_nb.workshop import free_port  # noqa: E402

TASK = """\
task: recall_{what}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {cases}}}}}
test_split: test
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{reply}}}}"
target_delimiter: ""
"""
GENERATE = """\
output_type: generate_until
generation_kwargs: {until: ["<end_of_sentence>"], do_sample: false, max_gen_toks: 60}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
SCORE = """\
output_type: loglikelihood
metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}]
"""
ORDER = ["My order number is 845921.", "How do I make pesto?", "What is my order number?"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--each", type=int, default=8, help="conversations of each of 5 distances, and questions")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    command = "python benchmarks/tools_by_name.py"
    with tempfile.TemporaryDirectory() as scratch, Results(arguments.json, command) as results:
        place = Path(scratch)
        folder = patch_checkpoint(demo_checkpoint(), place / "demo")
        facts = write_task(folder, place, arguments.each)
        results.found["versions"]["lm_eval"] = version("lm_eval")
        replies = {}
        for how in ("stock", "repaired"):
            for batch in (1, 8):
                row, replies[how, batch] = lm_eval(folder, place, facts, how, batch)
                print(json.dumps(results.add("lm_eval", row)), flush=True)
        right = replies["repaired", 1]
        for row in results.found["lm_eval"]:
            found = replies[row["how"], row["batch"]]
            row["replies_as_repaired_at_batch_1"] = sum(a == b for a, b in zip(found[0], right[0], strict=True))
            row["log_likelihoods_differ_by"] = max(abs(a - b) for a, b in zip(found[1], right[1], strict=True))
        results.found |= {"serve": serve(folder), "complete": True}
        results.save()
        print(json.dumps({name: results.found[name] for name in ("lm_eval", "serve")}, indent=1))


def write_task(folder: Path, place: Path, each: int) -> list[list[str]]:
    """Write the two tasks, and return the facts that each reply must hold."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [turn for _, turn in evaluate.recall_cases(tokenizer, each=each, seed=5)]
    turns += random.Random(1).sample(corpus.held_out_questions(), each)
    random.Random(0).shuffle(turns)
    rows = [{"prompt": tokenizer.decode(evaluate.prompt(tokenizer, turn)), "reply": turn.reply} for turn in turns]
    cases = place / "cases.jsonl"
    cases.write_text("\n".join(map(json.dumps, rows)) + "\n")
    for what, rest in (("generated", GENERATE), ("scored", SCORE)):
        (place / f"{what}.yaml").write_text(TASK.format(what=what, cases=cases) + rest)
    return [list(turn.facts) for turn in turns]


def lm_eval(folder: Path, place: Path, facts: list, how: str, batch: int) -> tuple[dict, tuple]:
    """A row of figures, and (replies, log-likelihoods)."""
    out = place / f"{how}_{batch}"
    repaired = ["-m", "minimax_nb.run"] if how == "repaired" else []
    options = {"model": "hf", "model_args": f"pretrained={folder},dtype=float32", "device": "cpu", "batch_size": batch}
    options |= {"tasks": "recall_generated,recall_scored", "include_path": place, "output_path": out}
    flags = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, *repaired, "-m", "lm_eval", *flags, "--log_samples"]
    start = time.perf_counter()
    subprocess.run(command, check=True, env=ENVIRONMENT, capture_output=True)
    replies, scores = [samples(out, name) for name in ("generated", "scored")]
    replies, scores = [reply[0] for reply in replies], [float(score[0][0]) for score in scores]
    right = sum(all(f.lower() in said.lower() for f in wanted) for said, wanted in zip(replies, facts, strict=True))
    row = {"how": how, "batch": batch, "right": right, "asked": len(facts), "sum_of_log_likelihoods": sum(scores)}
    return row | {"seconds": round(time.perf_counter() - start)}, (replies, scores)


def samples(out: Path, name: str) -> list:
    """What lm-eval logged as the model's answers, in the order of the task."""
    (file,) = out.rglob(f"samples_recall_{name}_*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row["resps"][0] for row in sorted(rows, key=lambda row: row["doc_id"])]


def serve(folder: Path) -> list[dict]:
    """A conversation of three turns over HTTP, through `minimax_nb.run transformers serve`."""
    port, messages, rows = free_port(), [], []
    command = [sys.executable, "-m", "minimax_nb.run", "transformers", "serve", "--port", str(port)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/health")
            for said in ORDER:
                messages.append({"role": "user", "content": said})
                body = json.dumps({"model": str(folder), "messages": messages, "max_tokens": 80}).encode()
                url, kind = f"http://127.0.0.1:{port}/v1/chat/completions", {"Content-Type": "application/json"}
                with urllib.request.urlopen(urllib.request.Request(url, body, kind), timeout=300) as answer:
                    message = json.load(answer)["choices"][0]["message"]
                messages.append({"role": "assistant", "content": message["content"]})
                rows.append({"said": said, "reply": message["content"]})
        finally:
            server.terminate()
    return rows


def wait_for(page: str, patience: int = 180) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            return urllib.request.urlopen(page, timeout=5).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(1)


if __name__ == "__main__":
    main()
