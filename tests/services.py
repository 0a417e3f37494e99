"""Servers that tests call: the command in a process of its own, or the app in this one; and a client of either."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import uvicorn

import minimax_nb
from minimax_nb.serve import make_app

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(minimax_nb.__file__).parents[1])}


class Service:
    """A server that runs: a client of it, and what it has said on stderr."""

    def __init__(self, ready: dict, log: Path | None = None, process=None):
        self.url, self.key, self.model = ready["base_url"], ready["api_key"], ready["model"]
        self.client = openai.OpenAI(base_url=self.url, api_key=self.key, max_retries=0, timeout=60)
        self.log, self.process = log, process

    def chat(self, *messages, **asked):
        """A completion; strings are messages, of the user first and then in turn."""
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(messages)]
        asked = {"model": self.model, "messages": messages} | asked
        return self.client.chat.completions.create(**asked)

    def reply(self, *messages, **asked) -> str:
        return self.chat(*messages, **asked).choices[0].message.content

    def raw(self, method: str, path: str, **options) -> "httpx.Response":
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.request(method, self.url.removesuffix("/v1") + path, **{"headers": headers} | options)

    def said(self, wanted: str) -> str:
        """The last line of the log, once it holds what is wanted."""
        for _ in range(100):
            last = self.log.read_text().splitlines()[-1]
            if wanted in last:
                return last
            time.sleep(0.1)
        raise AssertionError(f"not {wanted!r} but {last!r}")


def start(*arguments, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "minimax_nb.cli", "serve", *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, **options)


def waits_until(true) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("ten seconds, and it did not happen")


@contextlib.contextmanager
def serving(model, tokenizer, **options):
    """A server in this process."""
    app = make_app(model, tokenizer, name="here", key="secret", **options)
    inside = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=inside.run)
    thread.start()
    while not inside.started:
        time.sleep(0.02)
    port = inside.servers[0].sockets[0].getsockname()[1]
    service = Service({"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "secret", "model": "here"})
    service.turns = app.turns
    try:
        yield service
    finally:
        inside.should_exit = True
        thread.join()
