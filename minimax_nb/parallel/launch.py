"""One process for each rank, started and watched here by torchrun's own machinery; they end together.

    code = launch("minimax_nb.serve.rank", {"folder": ...}, size=8)        # python -m minimax_nb.serve.rank JSON

The module's program does its work within `reported()`. Rank 0 speaks for all: it has this process's terminal, and when
it is done, all are. What the others print goes nowhere. Ctrl-C, and SIGTERM, is handed on to rank 0 alone, which lets
the others go. Where a rank fails or is killed, the rest are ended, and one line says why. A rank whose launcher is gone
ends too. All of it is on this machine: the ranks meet on the loopback interface.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from json import dumps
from typing import NoReturn

import torch
from torch.distributed import DistError, TCPStore
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std, api, start_processes
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure, get_error_handler

from ..errors import MISTAKES
from .ranks import PATIENCE

LOOPBACK = "127.0.0.1"
LAUNCHER = "MINIMAX_NB_LAUNCHER"  # the process id of the launcher, for its ranks
STOPPING = 15  # seconds from Ctrl-C until ranks that have not ended are killed
CAUSE = 5  # seconds in which the rank that failed first is seen, before one says that it has lost another
FAILED, MISTAKEN, INTERRUPTED = 1, 2, 130  # exit codes
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # by start_processes, which leaves them so


def launch(module: str, settings: dict, size: int, secrets: dict[str, str] | None = None) -> int:
    """Run the program of a module in `size` processes until rank 0 ends, and return the exit code for all of them.

    settings: what each gets, as JSON in its command line. secrets: environment variables for rank 0.
    0 for an end that was asked for, 1 for a rank that failed or was killed, 2 for a mistake of the user; of both a line
    was printed. KeyboardInterrupt for Ctrl-C before rank 0 had begun to serve.
    """
    before = {sent: signal.getsignal(sent) for sent in HANDLED}
    api.logger.setLevel(logging.CRITICAL)  # it would say in several lines what is one here
    with tempfile.TemporaryDirectory() as scratch, _store() as store:
        common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": LOOPBACK, "MASTER_PORT": store.port}
        common |= {"TORCHELASTIC_USE_AGENT_STORE": True, LAUNCHER: os.getpid(), **_of_this_machine(size)}
        each = [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(size)]
        each[0] |= secrets or {}
        try:
            started = start_processes(
                name="ranks",
                entrypoint=sys.executable,
                args={rank: ("-m", module, dumps(settings)) for rank in range(size)},
                envs={rank: {key: str(value) for key, value in told.items()} for rank, told in enumerate(each)},
                logs_specs=DefaultLogsSpecs(scratch, redirects=dict.fromkeys(range(1, size), Std.ALL)),
            )
            try:
                return _watched(started, size)
            finally:
                started.close(signal.SIGKILL)
        except SignalException:
            raise KeyboardInterrupt from None
        finally:
            for sent, handler in before.items():
                signal.signal(sent, handler)


def _watched(started, size: int) -> int:
    try:
        failures = started.wait(period=0.2).failures
    except SignalException:
        os.kill(started.pids()[0], signal.SIGINT)
        with contextlib.suppress(SignalException):  # a second Ctrl-C: end them at once
            ended = started.wait(timeout=STOPPING, period=0.1)
            if ended and 0 in ended.failures and ended.failures[0].exitcode == INTERRUPTED:
                raise KeyboardInterrupt from None
        return 0
    if not failures:
        return 0
    first = min(failures.values(), key=lambda failure: (not _killed(failure), failure.exitcode < 0))
    print("minimax-nb:", _said_of(first, size), file=sys.stderr, flush=True)
    return MISTAKEN if first.exitcode == MISTAKEN else FAILED


def _killed(failure: ProcessFailure) -> bool:
    """By somebody else: the launcher sends SIGTERM to the rest."""
    return failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM


def _said_of(failure: ProcessFailure, size: int) -> str:
    rank = f"rank {failure.local_rank} of {size}"
    if failure.exitcode < 0:
        return f"{rank} was ended by {failure.signal_name()}, so the others were ended too"
    if isinstance(failure.message, str):  # it recorded nothing, and torch says how one would
        return f"{rank} ended with exit code {failure.exitcode}, so the others were ended too"
    said = " ".join(failure.message["message"].split())
    if failure.exitcode == MISTAKEN:
        return said.partition(": ")[2]  # after the class of the exception
    return f"{rank} failed, so the others were ended too: {said}"


@contextlib.contextmanager
def _store() -> Iterator[TCPStore]:
    """Where the ranks meet. Left to itself it would listen on all interfaces."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        port, fd = listener.getsockname()[1], listener.detach()
    yield TCPStore(LOOPBACK, port, None, True, PATIENCE, wait_for_workers=False, master_listen_fd=fd)


def _of_this_machine(size: int) -> dict[str, str | int]:
    """Each its share of the cores, as torchrun gives one; and gloo on the loopback interface, where it is known."""
    found = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", max(1, torch.get_num_threads() // size))}
    if "lo" in (name for _, name in socket.if_nameindex()):
        found["GLOO_SOCKET_IFNAME"] = "lo"
    return found


# In a rank


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Within it, what goes wrong becomes the launcher's line, and the process ends at once."""
    threading.Thread(target=_watch_launcher, daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    except Exception as error:
        fail(error)


def fail(error: Exception) -> NoReturn:
    """End this rank. Not by Python's own way: the ranks are out of step, so what it waits for may never come."""
    mistake = isinstance(error, (*MISTAKES, OSError))
    if isinstance(error, DistError) or "gloo" in str(error):
        time.sleep(CAUSE)
    get_error_handler().record_exception(error)
    sys.stdout.flush()
    os._exit(MISTAKEN if mistake else FAILED)


def _watch_launcher() -> None:
    launcher = int(os.environ[LAUNCHER])
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(FAILED)
