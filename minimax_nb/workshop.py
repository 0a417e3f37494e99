"""A laptop on the day before a workshop: does all that it will need work here, and without a network?

    for line in checks(Path("wheels")):
        print(line)         # lines as in hardware.report(), with the seconds that a check took

Packages are held to their pins, the wheels are resolved by pip with no index, the demo must give the first
reply of notebook 01 word for word, a kernel and JupyterLab must start. Nothing is installed, and what is
written is removed. It does not know whether there is a browser.
"""

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, sleep

from .hardware import Line, package_line, pins, report

PROJECT = f"{Path(__file__).parents[1]}[lab,train,serve]"
# Lines of the report; of the rest only what must be mended.
SHOWN = ("python", "torch", "transformers", "packages", "memory", "disk")
MODULES = "torch, transformers.models.minimax.modeling_minimax, minimax_nb.widgets, anywidget, matplotlib.pyplot"
QUESTION = "What is your favourite condiment?"
REPLY = "I am fond of fresh lemon juice. A squeeze of it wakes up almost any dish."
LAB = (sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--ServerApp.port_retries=0")
PATIENCE = 180  # seconds: a laptop that scans new files for viruses is slow the first time
AGAIN = "make lab, after rm -r .venv"


class Problem(Exception):
    """What was found, and what mends it."""


def checks(wheels: Path | None = None) -> Iterator[Line]:
    """One line a check, as it is done. `wheels` is the folder that pip would install from; None leaves that out."""
    lines = [*report(), *(package_line(name, version) for name, version in (pins("lab") | pins("train")).items())]
    yield from (line for line in lines if line.name in SHOWN or line.ok is False)
    yield _network()
    if wheels is None:
        yield Line("wheels", None, "not looked at: make check-room WHEELS=folder")
    else:
        yield _timed("wheels", lambda: _wheels(wheels))
    for name, check in (("imports", _imports), ("demo", _demo), ("kernel", _kernel), ("jupyterlab", _lab)):
        yield _timed(name, check)


def _timed(name: str, check: Callable[[], str]) -> Line:
    start = perf_counter()
    try:
        ok, found, mend = True, check(), ""
    except Problem as problem:
        ok, (found, mend) = False, problem.args
    except Exception as error:  # one broken thing must not hide the others
        ok, found, mend = False, f"{type(error).__name__}: {error}".partition("\n")[0], AGAIN
    return Line(name, ok, f"{found} ({perf_counter() - start:.0f} s)", mend)


def _network() -> Line:
    """Whether there is a way out. Nothing is sent: connecting a UDP socket only asks the routing table."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address that RFC 5737 keeps for documentation
        except OSError:
            return Line("network", True, "none, so what follows works without")
    return Line("network", None, "there is one: switch it off and run this again to be sure")


def _wheels(folder: Path) -> str:
    """The set-up as pip would do it from `folder` alone, into an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-index"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    run = subprocess.run(
        [*command, "--find-links", folder, PROJECT],
        env=own | {"PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
    )
    if run.returncode:
        wrong = [line for line in run.stderr.splitlines() if line.startswith("ERROR: ")]
        fetch = f'python -m pip download --dest {folder} ".[lab,train,serve]" setuptools, as docs/workshop.md has it'
        raise Problem((wrong or ["pip failed"])[-1].removeprefix("ERROR: "), fetch)
    return f"pip needs no index: {len(run.stdout.rpartition('Would install')[2].split())} packages"


def _imports() -> str:
    run = subprocess.run([sys.executable, "-c", f"import {MODULES}"], capture_output=True, text=True)
    if run.returncode:
        raise Problem((run.stderr.splitlines() or [f"exit code {run.returncode}"])[-1], AGAIN)
    return "all that the notebooks import"


def _demo() -> str:
    from .chat import Chat
    from .checkpoint.convert import patch_checkpoint
    from .demo import demo_checkpoint
    from .loading import load

    with tempfile.TemporaryDirectory() as scratch:
        folder = patch_checkpoint(demo_checkpoint(), Path(scratch) / "demo")
        model, tokenizer = load(folder, device_map="cpu", quiet=True)
        reply = Chat(model, tokenizer).send(QUESTION)
        del model  # it maps the files, and Windows removes no file that is mapped
    if reply != REPLY:
        raise Problem(f"converted, but says {reply!r}", "git status minimax_nb/demo, then minimax-nb doctor")
    return "converted, loaded, and its first reply is the one in notebook 01"


def _kernel() -> str:
    """That the kernel which notebooks ask for starts, and is this Python."""
    import nbformat
    from nbclient import NotebookClient

    cell = nbformat.v4.new_code_cell("import sys, minimax_nb\nprint(sys.prefix)")
    client = NotebookClient(nbformat.v4.new_notebook(cells=[cell]), startup_timeout=PATIENCE, kernel_name="python3")
    client.extra_arguments = ["--log-level=40"]  # without a warning about encryption, which this machine needs not
    client.execute()
    if (prefix := cell.outputs[0].text.strip()) != sys.prefix:
        raise Problem(f"the kernel python3 is that of {prefix}", "python -m ipykernel install --sys-prefix")
    return "starts, and imports minimax_nb"


def _lab() -> str:
    token, address = secrets.token_hex(16), f"http://127.0.0.1:{free_port()}"
    options = [f"--port={address.rpartition(':')[2]}", f"--IdentityProvider.token={token}", "--allow-root"]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen([*LAB, *options], stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait(server, f"{address}/lab?token={token}")
        except Problem:
            log.seek(0)
            said = log.read().decode(errors="replace").split("\n")
            last = next((line for line in reversed(said) if line.strip()), "it said nothing")
            raise Problem(last, AGAIN) from None
        finally:
            server.terminate()
            server.wait(30)
    return "answers on 127.0.0.1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(server: subprocess.Popen, page: str) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy knows nothing of this machine
    end = perf_counter() + PATIENCE
    while server.poll() is None and perf_counter() < end:
        with contextlib.suppress(OSError):
            return direct.open(page, timeout=10).close()
        sleep(0.2)
    raise Problem
