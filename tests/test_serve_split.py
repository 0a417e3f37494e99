"""`minimax-nb serve --tp 2`: two gloo processes behind one address, against one process; and how they end."""

import concurrent.futures
import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed: pip install -e '.[serve]'")
pytest.importorskip("openai", reason="the extra `serve` is not installed: pip install -e '.[serve]'")
httpx = pytest.importorskip("httpx", reason="the extra `serve` is not installed: pip install -e '.[serve]'")

import torch  # noqa: E402
from services import ENVIRONMENT, Service, serving, start, waits_until  # noqa: E402
from transformers.models.minimax.modeling_minimax import MiniMaxCache  # noqa: E402

from minimax_nb import cli, prefill  # noqa: E402
from minimax_nb.cache import CACHE_ARGUMENT, reserve, reserved, restore, snapshot  # noqa: E402
from minimax_nb.chat import Chat  # noqa: E402
from minimax_nb.checkpoint import patch_checkpoint  # noqa: E402
from minimax_nb.demo import demo_checkpoint  # noqa: E402
from minimax_nb.parallel import leading  # noqa: E402
from minimax_nb.parallel.launch import launch  # noqa: E402

PESTO = "How do I make pesto?"
TURNS = ["My order number is 845921.", PESTO, "What is my order number?"]
ENDLESS = {"model": "demo", "prompt": "How", "max_tokens": 3000, "stream": True}  # the demo repeats itself
PIECE = prefill.ON_A_CPU
on_cpus = pytest.mark.skipif(torch.cuda.is_available(), reason="two processes of gloo, on CPUs")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return patch_checkpoint(demo_checkpoint(), tmp_path_factory.mktemp("split") / "demo")


@contextlib.contextmanager
def split(folder: Path, log: Path):
    """A server of two ranks, started and ended."""
    with log.open("w") as errors, start(folder, "--tp", 2, "--port", 0, "--json", stderr=errors) as process:
        tree = []
        try:
            service = Service(json.loads(process.stdout.readline()), log, process)
            tree = psutil.Process(process.pid).children(recursive=True)
            assert len(tree) == 2
            service.ranks = {int(rank.environ()["RANK"]): rank for rank in tree}
            yield service
        finally:
            process.kill()
            for rank in tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    rank.kill()


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    with split(folder, tmp_path_factory.mktemp("log") / "log") as service:
        yield service


@contextlib.contextmanager
def in_the_middle(service):
    """The lines of a reply that has begun."""
    headers = {"Authorization": f"Bearer {service.key}"}
    with httpx.stream("POST", f"{service.url}/completions", json=ENDLESS, headers=headers, timeout=60) as answer:
        lines = answer.iter_lines()
        for _ in range(40):  # 20 tokens
            next(lines)
        yield lines


# ---- what they answer --------------------------------------------------------------------------------------------


@on_cpus
def test_turns_are_those_of_one_process_and_go_on_from_the_caches(server, demo_model):
    talk, said = Chat(*demo_model), []
    for text in TURNS:
        said += [text, server.reply(*said, text)]
        assert said[-1] == talk.send(text)
    assert "845921" in said[-1] and "kept" in server.said("kept")


@on_cpus
def test_streams_at_the_same_time_get_their_own_replies(server, demo_model):
    numbers, noted = ["120934", "128853", "136772"], "Thank you, I have noted that."

    def streamed(number: str) -> str:
        chunks = server.chat(f"My order number is {number}.", noted, TURNS[-1], stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert list(pool.map(streamed, numbers)) == [f"Your order number is {number}." for number in numbers]


@on_cpus
def test_a_client_that_leaves_lets_the_next_one_be_answered(server):
    with in_the_middle(server):
        pass
    line = server.said("stopped by its client")
    assert 20 <= int(line.partition("reply ")[2].partition(":")[0]) < 150
    assert server.reply(PESTO, max_tokens=3) == "For pesto you"


@on_cpus
def test_samples_are_those_of_one_process_by_their_seeds(server, demo_model):
    asked = {"temperature": 2.0, "max_tokens": 12}
    with serving(*demo_model) as alone:
        want = [alone.reply(PESTO, seed=seed, **asked) for seed in range(3)]
    assert [server.reply(PESTO, seed=seed, **asked) for seed in range(3)] == want
    assert len(set(want)) > 1


@on_cpus
def test_a_prompt_in_pieces(server, demo_model):
    """Of which the last is a single token, that a rank with a hook for the pieces does not take as a step."""
    model, tokenizer = demo_model
    text = tokenizer.decode(tokenizer("mayonnaise and mustard " * PIECE)["input_ids"][: PIECE + 1])
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids.shape == (1, PIECE + 1)
    want = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    answer = server.client.completions.create(model="demo", prompt=text, max_tokens=4, temperature=0)
    assert answer.usage.prompt_tokens == PIECE + 1
    assert answer.choices[0].text == tokenizer.decode(want, skip_special_tokens=True)


# ---- how they end ------------------------------------------------------------------------------------------------


@on_cpus
def test_a_killed_rank_ends_the_server_with_a_line(server):
    """The last test of this server."""
    with in_the_middle(server) as lines:
        server.ranks[1].kill()
        with contextlib.suppress(httpx.HTTPError):
            list(lines)
    assert server.process.wait(30) == 1
    last = server.log.read_text().splitlines()[-1]
    assert last.startswith("minimax-nb: rank 1 of 2 was ended by SIGKILL")
    assert "Traceback" not in server.log.read_text()
    assert not any(rank.is_running() for rank in server.ranks.values())


@on_cpus
def test_ctrl_c_ends_all_ranks_in_the_middle_of_a_reply(folder, tmp_path):
    with split(folder, tmp_path / "log") as service:
        with in_the_middle(service) as lines:
            service.process.send_signal(signal.SIGINT)
            assert "the server was stopped" in list(lines)[-2]
        assert service.process.wait(30) == 0
        assert service.log.read_text().splitlines()[-1] == "stopped" and "Traceback" not in service.log.read_text()
        assert not any(rank.is_running() for rank in service.ranks.values())


LAUNCHER = "import sys; from minimax_nb.parallel.launch import launch; sys.exit(launch('idle_rank', {}, 2))"
IDLE = """import sys, time
from minimax_nb.parallel.launch import reported
with reported():
    print("idle", flush=True)
    time.sleep(60)
"""


@on_cpus
def test_ranks_end_when_their_launcher_is_gone(tmp_path):
    (tmp_path / "idle_rank.py").write_text(IDLE)
    environment = ENVIRONMENT | {"PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{tmp_path}"}
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], env=environment, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout.readline() == b"idle\n"
        ranks = psutil.Process(launcher.pid).children()
        launcher.kill()
        assert len(ranks) == 2
        waits_until(lambda: not any(rank.is_running() and rank.status() != "zombie" for rank in ranks))


MISTAKEN = """import os, time
from minimax_nb.errors import UsageMistake
from minimax_nb.parallel.launch import reported
with reported():
    time.sleep(60 * (os.environ["RANK"] == "0"))
    raise UsageMistake("not enough memory: take more")
"""


@on_cpus
def test_a_mistake_that_a_rank_finds_is_the_line(tmp_path, monkeypatch, capfd):
    (tmp_path / "mistaken_rank.py").write_text(MISTAKEN)
    monkeypatch.setenv("PYTHONPATH", f"{ENVIRONMENT['PYTHONPATH']}:{tmp_path}")
    before = signal.getsignal(signal.SIGINT)
    assert launch("mistaken_rank", {}, 2) == 2
    assert capfd.readouterr() == ("", "minimax-nb: not enough memory: take more\n")
    assert signal.getsignal(signal.SIGINT) is before


# ---- what they refuse --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, said", [
    (["--tp", "3"], "3 ranks cannot share 2 softmax KV heads equally: --tp 1 or 2"),
    (["--tp", "0"], "--tp"),
    (["--tp", "2", "--offload"], "--offload and --tp"),
    (["--tp", "2", "--dtype", "bf17"], "bf17"),
])  # fmt: skip
def test_what_cannot_be_split_is_a_line_before_anything_starts(folder, capsys, arguments, said):
    assert cli.main(["serve", str(folder), "--port", "0", *arguments]) == 2
    out, errors = capsys.readouterr()
    assert said in errors and errors.count("\n") == 1 and not out


def test_more_ranks_than_gpus(folder, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert cli.main(["serve", str(folder), "--port", "0", "--tp", "2"]) == 2
    assert "--tp 2 needs as many GPUs, and there are 1 here" in capsys.readouterr().err


@pytest.fixture
def told(monkeypatch):
    """What would be sent to the other ranks."""
    heard = []
    channel = SimpleNamespace(say=lambda call, numbers: heard.append((call, numbers)))
    monkeypatch.setattr(leading, "_Channel", lambda: channel)
    return heard


def test_what_is_told_of_a_call(demo_model, told):
    """No mask that says nothing; a cache by its number, and that it is gone."""
    model, own = demo_model[0], type(demo_model[0])
    end = leading.lead(model)
    try:
        cache = MiniMaxCache()
        reserve(cache, 100)
        with torch.no_grad():
            model(
                torch.tensor([[5, 6, 7]]), attention_mask=torch.ones(1, 3, dtype=torch.long), **{CACHE_ARGUMENT: cache}
            )
            model(torch.tensor([[8]]), **{CACHE_ARGUMENT: cache})
        (first, numbers), (second, _) = told
        assert [tensor.tolist() for tensor in numbers] == [[[5, 6, 7]]] and first.given == {"attention_mask": None}
        assert first.cache == second.cache == [CACHE_ARGUMENT, 0, 100] and reserved(cache) == 100
        before = snapshot(cache)
        with torch.no_grad():
            model(torch.tensor([[9]]), **{CACHE_ARGUMENT: cache})
        restore(cache, before)
        with pytest.raises(ValueError, match="do not know this cache"):
            model(torch.tensor([[9]]), **{CACHE_ARGUMENT: cache})
        with pytest.raises(TypeError, match="inputs_embeds"):
            model(inputs_embeds=torch.ones(1, 3, model.config.hidden_size))
        assert len(told) == 3
        del cache
        with torch.no_grad():
            model(torch.tensor([[5]]), use_cache=False)
        assert told[-1][0].dropped == [0] and told[-1][0].cache is None
        end()
        assert told[-1] == (None, [])
    finally:
        model.__class__ = own


def test_what_goes_wrong_within_a_call_is_handed_over(demo_model, told):
    """The ranks are out of step then. What cannot be told is refused before, and changes nothing."""
    model, own, lost = demo_model[0], type(demo_model[0]), []
    leading.lead(model, lost=lost.append)
    try:
        with pytest.raises(TypeError):
            model(inputs_embeds=torch.ones(1, 3, model.config.hidden_size))
        assert not told and not lost
        with pytest.raises(IndexError) as error:
            model(torch.tensor([[model.config.vocab_size]]))
        assert lost == [error.value] and len(told) == 1
    finally:
        model.__class__ = own


def test_caches_make_room_by_what_one_rank_has(demo_model, monkeypatch):
    """Where processes work together too; a piece is cut alike on all, whatever is free."""
    model = demo_model[0]
    monkeypatch.setattr(prefill, "available_memory", lambda: 10)
    assert prefill.is_short_of(model, 1000)
    monkeypatch.setattr(prefill, "_processes", lambda: 2)
    assert prefill.is_short_of(model, 1000) and prefill._free([]) == float("inf")
