"""`python -m minimax_nb.run`: tools that load a model by its name compute right in it, whatever they are."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from originals import original_config, original_weights, write_original
from tiny_tokenizer import VOCABULARY, write_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

import minimax_nb
from minimax_nb import run as run_module
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.demo import demo_checkpoint

ROOT = Path(minimax_nb.__file__).parents[1]
NOTED, ASK = "Thank you, I have noted that.", "What is my order number?"
PESTO = "For pesto you need 2 bunches of basil, 50 g of pine nuts, 60 g of parmesan and 120 ml of olive oil."
CHATS = [
    ["My order number is 845921.", NOTED, "How do I make pesto?", PESTO, ASK],
    ["My order number is 120934.", NOTED, ASK],
]
PIPELINE = """
import json, sys
from transformers import pipeline
folder, chats = sys.argv[1], json.loads(sys.argv[2])
ask = pipeline("text-generation", model=folder, device="cpu", batch_size=len(chats))
messages = [[{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(chat)] for chat in chats]
for (reply,) in ask(messages, max_new_tokens=30, do_sample=False):
    print("reply:", reply["generated_text"][-1]["content"])
"""
TRAINER = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments
folder, out = sys.argv[1:]
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
rows = [tokenizer("the sauce and a recipe " * n) for n in (1, 3, 2, 4)]
arguments = TrainingArguments(out, max_steps=6, learning_rate=1e-2, per_device_train_batch_size=4, logging_steps=1,
    report_to=[], use_cpu=True, save_strategy="no", seed=0)
trainer = Trainer(model, arguments, DataCollatorForLanguageModeling(tokenizer, mlm=False), train_dataset=rows)
trainer.train()
print("losses:", json.dumps([row["loss"] for row in trainer.state.log_history if "loss" in row]))
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    return patch_checkpoint(demo_checkpoint(), tmp_path_factory.mktemp("run") / "demo")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A small random folder, converted; its original stands beside it."""
    place = tmp_path_factory.mktemp("tiny")
    config = original_config(vocab_size=VOCABULARY, num_hidden_layers=3, attn_type_list=[0, 1, 0])
    source = write_original(place / "original", config, original_weights(config))
    write_tokenizer(source)
    return patch_checkpoint(source, place / "converted")


def run(*arguments, repaired=True, cwd=None) -> subprocess.CompletedProcess:
    command = [sys.executable, *(["-m", "minimax_nb.run"] if repaired else []), *map(str, arguments)]
    path = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=cwd, env=path)


def script(place: Path, text: str) -> Path:
    file = place / "tool.py"
    file.write_text(text)
    return file


def after(done: subprocess.CompletedProcess, word: str) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [line.partition(word)[2].strip() for line in done.stdout.splitlines() if line.startswith(word)]


# Tools


def test_a_pipeline_with_a_list_of_chats(demo, tmp_path):
    """The chats are of unequal length, so the second is padded: stock forgets its number."""
    tool = script(tmp_path, PIPELINE)
    right = ["Your order number is 845921.", "Your order number is 120934."]
    assert after(run(tool, demo, json.dumps(CHATS)), "reply:") == right
    stock = after(run(tool, demo, json.dumps(CHATS), repaired=False), "reply:")
    assert stock[0] == right[0] and stock[1] != right[1]


def test_a_trainer_learns_in_padded_batches(tiny, tmp_path):
    done = run(script(tmp_path, TRAINER), tiny, tmp_path / "out")
    (losses,) = (json.loads(line) for line in after(done, "losses:"))
    assert losses[-1] < 0.7 * losses[0]
    assert "lightning attention" in done.stderr


def test_each_head_of_the_class_is_repaired_once_and_other_models_are_left_alone(tiny, tmp_path):
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=50)).save_pretrained(tmp_path / "other")
    text = """
import sys, transformers
from minimax_nb.run import repair_what_is_loaded
repair_what_is_loaded()
for name in ("AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"):
    for folder in sys.argv[1:]:
        model = getattr(transformers, name).from_pretrained(folder)
        print("backends:", *{getattr(each, "lightning_backend", None) for each in model.modules()} - {None})
"""
    done = run(script(tmp_path, text), tiny, tmp_path / "other")
    assert after(done, "backends:") == ["torch", ""] * 3
    assert done.stderr.count("minimax_nb.run: torch lightning") == 3
    assert done.stderr.count("static decoding") == 1  # the head that generates


# Ways to start them


@pytest.fixture
def in_this_process(monkeypatch):
    """`run.main` without the repair, which would hold for all tests after it."""
    monkeypatch.setattr(run_module, "repair_what_is_loaded", lambda: None)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return lambda *arguments: run_module.main([str(argument) for argument in arguments])


def test_a_script_and_a_module_see_what_they_would_alone(in_this_process, tmp_path, monkeypatch, capsys):
    (tmp_path / "helper_of_a_tool.py").write_text("WORD = 'beside'")
    text = "import sys, helper_of_a_tool as h\nif __name__ == '__main__': print(*sys.argv[1:], h.WORD)\n"
    assert in_this_process(script(tmp_path, text), "-m", "--flag", "a b") == 0
    assert capsys.readouterr().out == "-m --flag a b beside\n"
    monkeypatch.syspath_prepend(tmp_path)
    assert in_this_process("-m", "tool", "x") == 0
    assert capsys.readouterr().out == "x beside\n"


def test_a_command_is_started_by_its_name(in_this_process, capsys):
    with pytest.raises(SystemExit) as done:
        in_this_process("minimax-nb", "--version")
    assert done.value.code == 0
    assert capsys.readouterr().out == f"minimax-nb {importlib.metadata.version('minimax-nb')}\n"


def test_exit_codes_and_errors_are_the_tool_s_own(in_this_process, tmp_path):
    with pytest.raises(SystemExit) as done:
        in_this_process(script(tmp_path, "raise SystemExit(7)"))
    assert done.value.code == 7
    with pytest.raises(ZeroDivisionError):
        in_this_process(script(tmp_path, "1 / 0"))


@pytest.mark.parametrize("arguments, named", [
    ([], "which tool?"),
    (["-m"], "which tool?"),
    (["--help"], "which tool?"),
    (["no-such-tool", "x"], "no-such-tool"),
    (["ls"], "no Python command"),
    (["no_such_file.py"], "no_such_file.py"),
    (["-m", "no_such_module"], "no_such_module"),
    (["-m", "no_such.module"], "no_such.module"),
    (["-m", "json"], "json"),
])  # fmt: skip
def test_what_cannot_be_started_is_one_line(capsys, arguments, named):
    assert run_module.main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1) and named in err


# Folders that were not converted


LOAD = "import sys, transformers as t\nt.{}.from_pretrained(sys.argv[1]{})\nprint('loaded')"


def test_an_original_folder_is_refused_in_one_line(tiny, tmp_path):
    done = run(script(tmp_path, LOAD.format("AutoModelForCausalLM", "")), tiny.parent / "original")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and "minimax-nb patch" in done.stderr


def test_folders_are_refused_by_every_way_to_load_them(tiny, tmp_path):
    """An original one, and a native one without the marker, of which no weights are read: it has none."""
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    config = json.loads((tiny / "config.json").read_text())
    del config["minimax_nb"]
    (renamed / "config.json").write_text(json.dumps(config))
    text = """
import sys, transformers
from minimax_nb.errors import ConfigError
original, renamed = sys.argv[1:]
for name, folder in [("AutoModelForCausalLM", original), ("AutoConfig", original), ("AutoTokenizer", original),
                     ("AutoModelForCausalLM", renamed), ("AutoModel", renamed), ("MiniMaxForCausalLM", renamed)]:
    for trust in ({}, {"trust_remote_code": True}):
        try:
            getattr(transformers, name).from_pretrained(folder, **trust)
            print("loaded:", name, folder)
        except ConfigError as error:
            print("refused:", str(error))
"""
    done = run(script(tmp_path, text), tiny.parent / "original", renamed)
    refused = after(done, "refused:")
    assert len(refused) == 12 and all("minimax-nb patch" in line for line in refused) and "loaded:" not in done.stdout
