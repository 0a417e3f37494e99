"""A reply through the server, as `minimax-nb serve` gives it, of a model that lies in no folder."""

import tempfile
import threading
import time
from pathlib import Path

from torch import nn

from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.demo import demo_checkpoint
from minimax_nb.serve.command import _server, bound

NAME, KEY = "random", "benchmark"
PATIENCE = 60  # seconds for the server to begin


def serve(model: nn.Module, tokens: int) -> dict:
    """Milliseconds of a reply of so many tokens, and of a token after the first; through the `openai` client.

    The tokenizer is the demo's. Most of the ids that a random model draws are unknown to it and become no text, but
    they are drawn, counted and sent as any others.
    """
    from openai import OpenAI
    from transformers import AutoTokenizer

    from minimax_nb.serve.app import make_app

    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = AutoTokenizer.from_pretrained(patch_checkpoint(demo_checkpoint(), Path(scratch) / "demo"))
    app = make_app(model, tokenizer, name=NAME, key=KEY)
    ready = threading.Event()
    with bound("127.0.0.1", 0) as listener:
        server = _server(app, ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            if not ready.wait(PATIENCE):
                raise RuntimeError(f"the server did not begin within {PATIENCE} s")
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            return replies(OpenAI(base_url=url, api_key=KEY, timeout=300, max_retries=0), tokens)
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


def replies(client, tokens: int) -> dict:
    def reply(count: int) -> tuple[float, object]:
        start = time.perf_counter()
        asked = [{"role": "user", "content": "How do I make pesto?"}]
        found = client.chat.completions.create(model=NAME, messages=asked, max_tokens=count, temperature=0)
        return time.perf_counter() - start, found

    reply(3)
    (first, _), (whole, found) = reply(1), reply(tokens)
    drawn = found.usage.completion_tokens
    row = {"prompt": found.usage.prompt_tokens, "tokens": drawn, "first_ms": round(1000 * first, 1)}
    row["whole_ms"] = round(1000 * whole, 1)
    if drawn > 1:
        each = 1000 * (whole - first) / (drawn - 1)
        row |= {"ms_a_token": round(each, 2), "tokens_s": round(1000 / each, 2)}
    return row
