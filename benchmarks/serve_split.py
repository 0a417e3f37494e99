"""`minimax-nb serve DEMO --tp 2` against one process: what both reply, how fast, and how the two processes end.

    pip install -e ".[serve]"
    python benchmarks/serve_split.py --json FILE       # two GPUs, or any machine with gloo; 2 minutes

`replies`: greedy turns, samples with a seed, and a prompt of thousands of tokens, in fp32; with two processes also
after clients have left in the middle of a reply. `ms_a_token`: of a greedy reply, from its stream. The demo is small,
so this is the time of Python, launches and messages, and none of reading weights. `ends`: seconds and exit code after
Ctrl-C in the middle of a reply, and after a rank was killed there; what was said last, and which processes were left.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from minimax_nb.bench.results import Results  # noqa: E402
from minimax_nb.checkpoint import patch_checkpoint  # noqa: E402
from minimax_nb.demo import demo_checkpoint  # noqa: E402

RANKS, PATIENCE = 2, 120  # seconds
PESTO = "How do I make pesto?"
TURNS = ("My order number is 845921.", PESTO, "What is my order number?")
ENDLESS = {"model": "demo", "prompt": "How", "max_tokens": 3000, "stream": True}  # the demo repeats itself


class Server(NamedTuple):
    client: object  # of openai
    process: subprocess.Popen
    ranks: dict[int, psutil.Process]
    log: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, Results(asked.json, "python benchmarks/serve_split.py") as results:
        place = Path(scratch)
        folder = patch_checkpoint(demo_checkpoint(), place / "demo")
        with started(folder, 1, place / "log1") as one:
            alone = replies(one)
            results.found |= {"replies": {"one": alone}, "ms_a_token": {"one": ms_a_token(one)}}
            results.save()
        with started(folder, RANKS, place / "log2") as split:
            together = replies(split)
            results.found["ms_a_token"]["split"] = ms_a_token(split)
            for _ in range(3):
                with begun(split):
                    pass
            after = replies(split)
            same = {name: alone[name] == together[name] == after[name] for name in alone}
            results.found["replies"] = {"same": same, "one": alone, "split": together}
            results.save()
            results.found["ends"] = {"a rank killed": ended(split, lambda: split.ranks[RANKS - 1].kill())}
            results.save()
        with started(folder, RANKS, place / "log3") as split:
            results.found["ends"]["Ctrl-C"] = ended(split, lambda: split.process.send_signal(signal.SIGINT))
        results.found["complete"] = True
        results.save()
        shown = {name: results.found[name] for name in ("device", "ms_a_token", "ends")}
        print(json.dumps(shown | {"same": results.found["replies"]["same"]}, indent=1))


@contextlib.contextmanager
def started(folder: Path, count: int, log: Path) -> Iterator[Server]:
    """A server in so many processes, in fp32. A single one sees a single GPU, or load() would take all."""
    from openai import OpenAI  # of the extra `serve`

    command = [sys.executable, "-m", "minimax_nb.cli", "serve", str(folder), "--port", "0", "--json", "--dtype", "fp32"]
    command += ["--tp", str(count)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    if count == 1:
        environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    with log.open("w") as errors, subprocess.Popen(command, env=environment, stdout=-1, stderr=errors) as process:
        children = []
        try:
            if not (line := process.stdout.readline()):
                raise SystemExit(log.read_text())
            ready = json.loads(line)
            children = psutil.Process(process.pid).children(recursive=True)
            ranks = {int(child.environ()["RANK"]): child for child in children if "RANK" in child.environ()}
            client = OpenAI(base_url=ready["base_url"], api_key=ready["api_key"], timeout=PATIENCE, max_retries=0)
            yield Server(client, process, ranks, log)
        finally:
            for each in [process, *children]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()


def replies(server: Server) -> dict:
    """Texts, by what was asked."""
    said, found = [], {}
    for text in TURNS:
        said.append({"role": "user", "content": text})
        said.append({"role": "assistant", "content": reply(server, said, temperature=0)})
    found["turns"] = [message["content"] for message in said[1::2]]
    asked = [{"role": "user", "content": PESTO}]
    found["sampled"] = [reply(server, asked, temperature=2.0, seed=seed, max_tokens=20) for seed in range(4)]
    long = [{"role": "user", "content": "mayonnaise and mustard " * 1900 + PESTO}]
    found["long prompt"] = reply(server, long, temperature=0, max_tokens=20)
    return found


def reply(server: Server, messages: list, **asked) -> str:
    answer = server.client.chat.completions.create(model="demo", messages=messages, **asked)
    return answer.choices[0].message.content


def ms_a_token(server: Server) -> float:
    """Of 100 tokens, after the first."""
    times = []
    for _ in server.client.completions.create(**ENDLESS | {"max_tokens": 101}):
        times.append(time.perf_counter())
    return round(1000 * (times[-1] - times[0]) / 100, 2)


@contextlib.contextmanager
def begun(server: Server) -> Iterator:
    """A stream in the middle of a reply."""
    with server.client.completions.create(**ENDLESS) as stream:
        for _ in range(20):
            next(stream)
        yield stream


def ended(server: Server, end) -> dict:
    """How the processes end after `end` in the middle of a reply."""
    with begun(server):
        start = time.perf_counter()
        end()
        try:
            code = server.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = f"none within {PATIENCE} s"
    found = {"seconds": round(time.perf_counter() - start, 1), "exit_code": code}
    found["said"] = server.log.read_text().splitlines()[-1]
    return found | {"left": [rank for rank, process in server.ranks.items() if process.is_running()]}


if __name__ == "__main__":
    main()
