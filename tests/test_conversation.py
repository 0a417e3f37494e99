"""`minimax-nb chat`: a conversation on a terminal and in a pipe, and what it does with what it cannot take."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minimax_nb import cli
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.demo import demo_checkpoint

PESTO = "How do I make pesto?\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return patch_checkpoint(demo_checkpoint(), tmp_path_factory.mktemp("conversation") / "demo")


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    """A folder of links whose text files may be changed."""
    made = tmp_path / "changed"
    shutil.copytree(folder, made, copy_function=lambda src, dst: os.symlink(os.path.realpath(src), dst))
    return made


def rewrite(file: Path, text: str) -> None:
    file.unlink()
    file.write_text(text, encoding="utf-8")


def talk(folder, said: bytes, *options, env=None) -> subprocess.CompletedProcess:
    """The command in a process of its own, in a pipe."""
    command = [sys.executable, "-m", "minimax_nb.cli", "chat", str(folder), *options]
    return subprocess.run(command, input=said, capture_output=True, timeout=120, env=os.environ | (env or {}))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def in_process(monkeypatch, folder, said, *options, terminal=False) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of the command in this process; `said` are lines, or exceptions to raise."""
    lines = iter(said)

    def line(prompt=""):
        sys.stdout.write(prompt)
        text = next(lines, EOFError())
        if isinstance(text, BaseException):
            raise text
        return text

    out, err = (Terminal() if terminal else io.StringIO() for _ in range(2))
    monkeypatch.setattr("builtins.input", line)
    monkeypatch.setattr(sys, "stdin", Terminal() if terminal else io.StringIO())
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    code = cli.main(["chat", str(folder), *options])
    monkeypatch.undo()
    return code, out.getvalue(), err.getvalue()


def last_line(err: str) -> str:
    return err.splitlines()[-1]


# What is printed where


def test_in_a_pipe_nothing_but_replies_is_on_stdout(folder):
    done = talk(folder, (PESTO + "\n  \nDouble it.\n").encode())  # empty lines are no messages
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0 and len(lines) == 2
    assert "60 g of parmesan" in lines[0] and "120 g of parmesan" in lines[1]
    assert b"cache repaired" in done.stderr and b"you>" not in done.stderr and b"Traceback" not in done.stderr


def test_on_a_terminal_it_is_a_conversation(monkeypatch, folder):
    said = ["How do I make pesto?", KeyboardInterrupt(), "Double it.", "quit", "never read"]
    code, out, err = in_process(monkeypatch, folder, said, terminal=True)
    assert (code, err) == (0, "")
    assert out.count("you> ") == 4 and "Ctrl-D" in out and "cache repaired" in out and "120 g of parmesan" in out


def test_a_reply_that_was_cut_says_so(monkeypatch, folder):
    code, out, err = in_process(monkeypatch, folder, [PESTO], "--max-new-tokens", "4")
    assert code == 0 and "4 tokens" in last_line(err) and "4 tokens" not in out
    code, out, _ = in_process(monkeypatch, folder, [PESTO], "--max-new-tokens", "4", terminal=True)
    assert "4 tokens" in out
    code, _, err = in_process(monkeypatch, folder, [PESTO])
    assert "tokens" not in last_line(err)


def test_sampling_is_repeated_by_its_seed(monkeypatch, folder):
    def reply(*options) -> str:
        sampled = ("--temperature", "9", "--max-new-tokens", "8", *options)
        code, out, _ = in_process(monkeypatch, folder, ["Hello"], *sampled)
        assert code == 0
        return out

    assert reply("--seed", "1") == reply("--seed", "1") != reply("--seed", "2")
    assert reply("--seed", "1", "--top-p", "0") == reply("--seed", "2", "--top-p", "0")  # the likeliest token alone


def test_the_dtype_can_be_chosen(monkeypatch, folder):
    code, out, err = in_process(monkeypatch, folder, [PESTO], "--dtype", "bf16")
    assert code == 0 and err.startswith("bf16 as asked") and "parmesan" in out


# What cannot be taken


@pytest.mark.parametrize("options, named", [
    (["--system", ""], "--system is empty"),
    (["--temperature", "1e-45"], "the temperature is"),
    (["--temperature", "nan"], "--temperature"),
    (["--top-p", "0.9"], "--temperature"),
    (["--top-p", "1.5"], "--top-p"),
    (["--dtype", "fp8"], "fp16"),
    (["--max-new-tokens", "0"], "--max-new-tokens"),
])  # fmt: skip
def test_a_wrong_option_is_one_line_before_anything_is_loaded(monkeypatch, options, named):
    monkeypatch.setattr("minimax_nb.loading.load", lambda *_, **__: pytest.fail("loaded"))
    code, out, err = in_process(monkeypatch, "nowhere", [PESTO], *options)
    assert (code, out, err.count("\n")) == (2, "", 1) and named in err


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{# nothing #}", "{% if %}"])
def test_a_template_that_cannot_be_used_is_one_line(monkeypatch, copied, template):
    rewrite(copied / "chat_template.jinja", template)
    code, out, err = in_process(monkeypatch, copied, [PESTO, PESTO])
    assert (code, out) == (2, "") and "chat_template.jinja" in last_line(err) and err.count("\n") == 2


def test_no_template_is_one_line(monkeypatch, copied):
    (copied / "chat_template.jinja").unlink()
    code, out, err = in_process(monkeypatch, copied, [PESTO])
    assert (code, out) == (2, "") and "chat_template.jinja" in last_line(err)


def test_beams_of_the_folder_do_not_end_the_conversation(monkeypatch, copied):
    config = json.loads((copied / "generation_config.json").read_text())
    rewrite(copied / "generation_config.json", json.dumps(config | {"num_beams": 4}))
    code, out, _ = in_process(monkeypatch, copied, [PESTO])
    assert code == 0 and "60 g of parmesan" in out


def test_a_line_that_is_not_utf8_is_refused_and_the_conversation_goes_on(folder):
    done = talk(folder, b"\xff\xfe pesto\n" + PESTO.encode() + b"Double it.\n", env={"PYTHONIOENCODING": "utf-8"})
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 2 and len(lines) == 2 and "120 g of parmesan" in lines[1]
    assert b"UTF-8" in done.stderr and b"Traceback" not in done.stderr


def test_a_terminal_of_ascii_gets_numbers_for_other_characters(folder):
    done = talk(folder, "蛋黄酱怎么做？\n".encode(), env={"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"})
    assert done.returncode in (0, 2) and b"Traceback" not in done.stderr
    done = talk(folder, "蛋黄酱怎么做？\n".encode(), "--max-new-tokens", "40", env={"PYTHONUTF8": "1"})
    assert done.returncode == 0 and any(ord(letter) > 0x4E00 for letter in done.stdout.decode())


def test_without_input_it_is_one_line(monkeypatch, folder, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert cli.main(["chat", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and "no input" in err


def test_too_little_memory_for_the_weights_is_one_line(monkeypatch, folder):
    def full(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 96 bytes")

    monkeypatch.setattr("minimax_nb.loading.load_model", full)
    code, out, err = in_process(monkeypatch, folder, [PESTO])
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{weights / 1e9:.2f} GB" in err and "GB are free" in err


def test_a_message_for_which_memory_is_too_little_is_forgotten(monkeypatch, folder):
    from minimax_nb.chat import Chat

    real = Chat.stream

    def stream(self, text, **settings):
        if "100,000" in text:
            raise MemoryError
        return real(self, text, **settings)

    monkeypatch.setattr(Chat, "stream", stream)
    code, out, err = in_process(monkeypatch, folder, [PESTO, "100,000 tokens", "Double it."])
    assert code == 2 and "120 g of parmesan" in out and "GB are free" in last_line(err)
