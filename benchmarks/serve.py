"""Tokens a second of `minimax-nb serve` with 1, 4 and 8 clients, and what its kept caches save in a second turn.

    pip install -e ".[serve]"
    python benchmarks/serve.py --json FILE                    # the demo; 3 minutes on a CPU core
    python benchmarks/serve.py FOLDER --json FILE             # a converted folder

Beside it the same requests go to `transformers serve`, started through minimax_nb.run so that it computes right. Each
request is a question whose reply is streamed. `first_s` is the median wait for the first token from when the request
was sent, so with several clients it includes the waiting for each other. `cpu_s` is the processor time of the server,
which on a busy machine says more than seconds. A long conversation is asked twice: the first
time no cache is kept of it, the second time one is.
"""

import argparse
import concurrent.futures
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402

from minimax_nb.bench.results import Results  # noqa: E402
from minimax_nb.checkpoint import patch_checkpoint  # noqa: E402
from minimax_nb.demo import corpus, demo_checkpoint  # noqa: E402
from minimax_nb.hardware import package_version  # noqa: E402
from minimax_nb.workshop import free_port  # noqa: E402

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
OURS, STOCK = "minimax-nb serve", "transformers serve"
QUESTIONS = [turn.user for turn in corpus.held_out_questions()]
FILLER = [("How do I make pesto?", "For pesto you need 2 bunches of basil. "), ("And then?", "Then serve it. ")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--clients", default="1,4,8")
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--conversation", default="1000,3000", help="words of the long conversations")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    command = f"python benchmarks/serve.py {asked.folder or ''}".strip()
    with tempfile.TemporaryDirectory() as scratch, Results(asked.json, command) as results:
        folder = asked.folder or patch_checkpoint(demo_checkpoint(), Path(scratch) / "demo")
        results.found["versions"] |= {name: package_version(name) for name in ("openai", "fastapi", "uvicorn")}
        results.found["load_average"] = round(os.getloadavg()[0], 1)  # of the machine, whose cores may be busy
        for server, start in ((OURS, ours), (STOCK, stock)):
            with start(folder) as (client, model, process):
                spent = functools.partial(processor_time, process.pid)
                run(client, model, QUESTIONS[0], 8)  # what the first request compiles or allocates
                for clients in map(int, asked.clients.split(",")):
                    row = throughput(client, model, spent, clients, asked.requests, asked.max_tokens)
                    print(json.dumps(results.add("throughput", {"server": server} | row)), flush=True)
                for words in map(int, asked.conversation.split(",")):
                    for row in second_turn(client, model, spent, words):
                        print(json.dumps(results.add("turns", {"server": server} | row)), flush=True)
        results.found["complete"] = True
        results.save()


def run(client, model: str, messages: str | list, max_tokens: int) -> dict:
    """One streamed request: tokens of prompt and reply, seconds to the first token and to the last."""
    messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    began, first, text, usage = time.perf_counter(), None, "", None
    for chunk in client.chat.completions.create(model=model, messages=messages, max_tokens=max_tokens, stream=True):
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.perf_counter() - began
            text += chunk.choices[0].delta.content
        usage = chunk.usage or usage
    found = {"prompt": usage.prompt_tokens, "tokens": usage.completion_tokens, "first_s": first or 0.0, "text": text}
    return found | {"seconds": time.perf_counter() - began}


def processor_time(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system


def throughput(client, model: str, spent: Callable, clients: int, requests: int, max_tokens: int) -> dict:
    questions = (QUESTIONS * requests)[:requests]
    began, before = time.perf_counter(), spent()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        rows = list(pool.map(lambda question: run(client, model, question, max_tokens), questions))
    seconds, tokens = time.perf_counter() - began, sum(row["tokens"] for row in rows)
    found = {"clients": clients, "requests": requests, "tokens": tokens, "tokens_per_s": round(tokens / seconds, 1)}
    found |= {"cpu_s": round(spent() - before, 2)}
    return found | {"first_s": round(statistics.median(row["first_s"] for row in rows), 3)}


def second_turn(client, model: str, spent: Callable, words: int) -> list[dict]:
    """A conversation of about so many words, and its next turn."""
    messages = [{"role": "system", "content": f"You talk about {words} words."}]
    while sum(len(message["content"].split()) for message in messages) < words:
        for question, reply in FILLER:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply * 8}]
    rows = []
    for turn in ("first", "second"):
        messages.append({"role": "user", "content": QUESTIONS[len(rows)]})
        before = spent()
        found = run(client, model, messages, 1)
        used = {"first_s": round(found["first_s"], 3), "cpu_s": round(spent() - before, 2)}
        messages.append({"role": "assistant", "content": found["text"]})
        rows.append({"turn": turn, "prompt": found["prompt"]} | used)
    return rows


def client_of(url: str, key: str):
    from openai import OpenAI  # of the extra `serve`

    return OpenAI(base_url=url, api_key=key, timeout=600)


@contextlib.contextmanager
def ours(folder: Path) -> Iterator[tuple]:
    command = [sys.executable, "-m", "minimax_nb.cli", "serve", str(folder), "--port", "0", "--json"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            ready = json.loads(server.stdout.readline())
            yield client_of(ready["base_url"], ready["api_key"]), ready["model"], server
        finally:
            server.terminate()


@contextlib.contextmanager
def stock(folder: Path) -> Iterator[tuple]:
    port = free_port()
    command = [sys.executable, "-m", "minimax_nb.run", "transformers", "serve", str(folder), "--port", str(port)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(f"http://localhost:{port}/health", server)
            yield client_of(f"http://localhost:{port}/v1", "none"), str(folder), server
        finally:
            server.terminate()


def wait_for(page: str, server: subprocess.Popen) -> None:
    while server.poll() is None:
        try:
            return urllib.request.urlopen(page, timeout=5).close()
        except OSError:
            time.sleep(1)
    raise SystemExit(f"the server ended with code {server.returncode}")


if __name__ == "__main__":
    main()
