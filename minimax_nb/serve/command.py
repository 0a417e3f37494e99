"""`minimax-nb serve`: the port, the key and what is printed, around `make_app`.

With --tp it starts a process for each GPU (rank.py), and does none of the work itself.
"""

import contextlib
import functools
import ipaddress
import json
import os
import secrets
import shlex
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageMistake
from ..lazy import installed
from ..terminal import quiet_transformers

NEEDED = ("fastapi", "uvicorn", "openai")
KEY = "MINIMAX_NB_API_KEY"
GRACE = 2  # seconds that Ctrl-C leaves to replies in progress


def serve(
    dst: Annotated[Path, typer.Argument(help="A converted folder.")],
    host: Annotated[str, typer.Option(help="Where to listen; this machine only, if not given.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    key: Annotated[
        str | None,
        typer.Option("--api-key", envvar=KEY, help="What clients must send; made up if not given."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name for clients; the folder's if not given.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of a reply whose request names no limit.")] = 4096,
    dtype: Annotated[str | None, typer.Option(help="bf16, fp16 or fp32; as the machine allows if not given.")] = None,
    experts: Annotated[
        str | None, typer.Option(help="int8 halves their memory. As in the folder if not given.")
    ] = None,
    tp: Annotated[
        int | None, typer.Option(min=1, help="Split every layer over so many GPUs, a process for each.")
    ] = None,
    offload: Annotated[bool, typer.Option("--offload", help="Let what no GPU has room for go to the CPU.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="When ready, print address, key and name as JSON.")] = False,
) -> None:
    """Answer the requests of OpenAI's clients, until Ctrl-C."""
    if missing := [each for each in NEEDED if not installed(each)]:
        raise UsageMistake(f"{', '.join(missing)} is missing: pip install 'minimax-nb[serve]', or -e '.[serve]' here")
    if key is not None and (not key.strip() or not key.isascii() or not key.isprintable()):
        raise UsageMistake("the key is empty, or not plain text: give another, or none, and one is made")
    served = {"key": key, "name": name or dst.expanduser().resolve().name}
    served |= {"max_new_tokens": max_new_tokens, "as_json": as_json}
    how = {"dtype": dtype, "experts": experts, "offload": offload}
    with bound(host, port) as listener, contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        if tp is not None and tp > 1:
            listener.close()  # rank 0 has one of its own
            _in_ranks(tp, dst, how, host, port, served)
        else:
            cut = answer(listener, *loaded(dst, how), **served)
            print("stopped", flush=True)
            if cut:
                os._exit(0)  # Python's own end would abort in the thread that is within a forward pass


def _in_ranks(count: int, folder: Path, how: dict, host: str, port: int, served: dict) -> None:
    """The same by so many processes. UsageMistake, before they start, for a number that cannot be."""
    from ..parallel.launch import launch
    from .rank import require

    require(folder, count, how)
    settings = {"folder": str(folder), "how": how, "host": host, "port": port} | served
    key = settings.pop("key")  # everybody on the machine can read a command line
    code = launch(f"{__package__}.rank", settings, count, secrets={} if key is None else {KEY: key})
    if code:
        raise typer.Exit(code)
    print("stopped", flush=True)


def loaded(folder: Path, how: dict) -> tuple:
    """The model and its tokenizer, by `load`."""
    from ..dtypes import full_name
    from ..loading import load
    from ..memory import enough_memory

    if how["dtype"] is not None:
        how = how | {"dtype": full_name(how["dtype"])}
    with enough_memory(f"the weights of {folder}"):
        return load(folder, **how)


def answer(listener: socket.socket, model, tokenizer, *, key: str | None, name: str, as_json: bool, max_new_tokens):
    """Serve until Ctrl-C, and return whether that came within a forward pass, which goes on until it is done."""
    from .app import make_app

    made, key = key is None, key or secrets.token_urlsafe(24)
    app = make_app(model, tokenizer, name=name, key=key, max_new_tokens=max_new_tokens)
    say_ready = functools.partial(_say_ready, listener, name, as_json)
    server = _server(app, lambda: say_ready(key if made or as_json else "KEY"))
    # Transformers warns at each request otherwise. The interrupt is raised again when all connections are closed.
    with quiet_transformers(), contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return bool(app.turns.open)


def _server(app, when_ready):
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets)
            when_ready()

        async def shutdown(self, sockets=None) -> None:
            app.turns.stop()
            await super().shutdown(sockets)

    return Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE))


def bound(host: str, port: int) -> socket.socket:
    """A socket that has the port, before minutes of loading, and does not listen yet. UsageMistake if it is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UsageMistake(
            f"cannot listen on {host}, port {port} ({error.strerror}): try another --port, or --host"
        ) from None
    return listener


def _say_ready(listener: socket.socket, name: str, as_json: bool, key: str) -> None:
    host, port = listener.getsockname()[:2]
    outside = not ipaddress.ip_address(host).is_loopback
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    if as_json:
        print(json.dumps({"base_url": url, "api_key": key, "model": name}), file=sys.__stdout__, flush=True)
    else:
        body = json.dumps({"model": name, "messages": [{"role": "user", "content": "How do I make pesto?"}]})
        call = f"curl {url}/chat/completions -H 'Content-Type: application/json' -H 'Authorization: Bearer {key}'"
        print(f"serving {name} at {url}, key {key}; Ctrl-C ends it. Try:\n  {call} -d {shlex.quote(body)}", flush=True)
    if outside:
        print(f"warning: {host} can be reached from other machines, and keys and texts travel unencrypted; "
              "put a proxy with TLS before it", file=sys.stderr)  # fmt: skip
