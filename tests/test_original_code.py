"""docs/upstream/original_code.py without MiniMax's file: a stand-in takes its place that computes by definition."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import logging

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "upstream" / "original_code.py"
COMMITTED = json.loads((ROOT / "notebooks" / "results" / "original_code.json").read_text())

STAND_IN = """
import types
import torch
from minimax_nb import reference
from .configuration_minimax_text_01 import MiniMaxText01Config

class MiniMaxText01ForCausalLM(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config.values

    def load_state_dict(self, weights, strict):
        self.weights = weights

    def forward(self, input_ids, position_ids=None, past_key_values=None, use_cache=None):
        ids = (past_key_values or []) + input_ids[0].tolist()
        logits = reference.forward(self.config, self.weights, ids)[-input_ids.shape[1] :]
        return types.SimpleNamespace(logits=logits[None], past_key_values=ids)
"""
ITS_CONFIGURATION = """
class MiniMaxText01Config:
    def __init__(self, **values):
        self.values = values
"""


def _imported():
    spec = importlib.util.spec_from_file_location("original_code", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CODE = _imported()


@pytest.fixture(autouse=True)
def logging_as_it_was():
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(level)
    (logging.enable_progress_bar if bars else logging.disable_progress_bar)()


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The stand-in's modeling file; the script then takes 12 tokens."""
    monkeypatch.setattr(CODE, "TOKENS", 12)
    (tmp_path / "configuration_minimax_text_01.py").write_text(ITS_CONFIGURATION)
    file = tmp_path / "modeling_minimax_text_01.py"
    file.write_text(STAND_IN)
    return file


def test_a_code_that_computes_the_definition_is_not_far(stand_in, tmp_path, capsys):
    found = tmp_path / "found.json"
    assert CODE.main([str(stand_in), "--python", sys.executable, "--json", str(found)]) == 0
    result = json.loads(found.read_text())
    assert result.keys() == COMMITTED.keys()
    assert [row["code"] for row in result["rows"]] == [row["code"] for row in COMMITTED["rows"]]
    assert all(0 < row[way] < 1e-6 for row in result["rows"] for way in CODE.WAYS)
    assert CODE.table(result["rows"]) in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.pyc"))  # nothing is written beside the reader's file


def test_a_code_that_computes_something_else_is(stand_in, monkeypatch, capsys):
    dumped = {way: torch.randn(12, 1536) for way in CODE.WAYS}
    monkeypatch.setattr(CODE, "original_logits", lambda *_: (dumped, {"transformers": "4.45.2"}))
    assert CODE.main([str(stand_in), "--python", sys.executable]) == 1
    assert "float64 reference" in capsys.readouterr().out


def test_distances():
    generator = torch.Generator().manual_seed(0)
    original = {way: torch.randn(5, 9, generator=generator) for way in CODE.WAYS}
    other = {"one pass": original["one pass"] * 1.25, "token by token": original["token by token"].clone()}
    other["token by token"][3] = -other["token by token"][3]
    same, off = CODE.distances(original, {"same": original, "off": other})
    assert same == {"code": "same", "one pass": 0.0, "token by token": 0.0, "other tokens": 0}
    want = 2 * original["token by token"][3].norm() / original["token by token"].norm()
    assert off["one pass"] == pytest.approx(0.25)
    assert off["token by token"] == pytest.approx(want.item(), rel=1e-5)
    assert off["other tokens"] == 1


@pytest.mark.parametrize("new", [7, 3, 1])
def test_causal_softmax_is_attention_on_a_cache(new):
    """Grouped KV heads; the last tokens of seven get what they get in one pass of all seven."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 7, heads, 16, generator=generator) for heads in (6, 2, 2))
    want = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True, enable_gqa=True
    ).transpose(1, 2)
    got = CODE.causal_softmax(q[:, -new:], k, v, 0.0, softmax_scale=None, causal=True)
    torch.testing.assert_close(got, want[:, -new:], rtol=1e-5, atol=1e-6)


def _refused(capsys, *arguments) -> str:
    """What the script says, in one line, when it exits with 2."""
    assert CODE.main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if " ..." not in line]  # not the lines of progress
    assert said.out == ""
    return line


def test_paths_that_are_wrong_are_refused_at_once(stand_in, tmp_path, capsys):
    alone = tmp_path / "alone" / "modeling.py"
    alone.parent.mkdir()
    alone.write_text(STAND_IN)
    python = ["--python", sys.executable]
    assert "missing.py is no file" in _refused(capsys, tmp_path / "missing.py", *python)
    assert "configuration_minimax_text_01.py is no file" in _refused(capsys, alone, *python)
    line = _refused(capsys, stand_in, "--python", tmp_path / "python")
    assert f"{tmp_path / 'python'} is no file" in line and "transformers==4.45.2" in line
    assert "no/found.json" in _refused(capsys, stand_in, *python, "--json", tmp_path / "no" / "found.json")
    assert str(tmp_path) in _refused(capsys, stand_in, *python, "--json", tmp_path)


def test_what_the_other_process_raises_is_said(stand_in, capsys):
    stand_in.write_text("from transformers import is_gone\n")
    line = _refused(capsys, stand_in, "--python", sys.executable)
    assert str(stand_in) in line and "ImportError" in line and "is_gone" in line


def test_the_docstring_makes_the_environment_that_the_script_looks_for():
    folder = CODE.PYTHON.relative_to(ROOT).parents[1].as_posix()
    assert f"python -m venv {folder}\n" in CODE.__doc__
    assert f"{folder}/bin/pip install {CODE.NEEDS}\n" in CODE.__doc__


def test_the_document_has_the_figures():
    assert all(max(row[way] for way in CODE.WAYS) < CODE.RIGHT for row in COMMITTED["rows"])
    document = (ROOT / "docs" / "upstream.md").read_text(encoding="utf-8")
    assert CODE.table(COMMITTED["rows"]) in document
    versions = COMMITTED["original"]["versions"]["transformers"], COMMITTED["versions"]["transformers"]
    (section,) = re.findall(r"## Against MiniMax's own code\n(.+?)\n## ", document, re.DOTALL)
    assert all(text in section for text in (*versions, COMMITTED["date"], COMMITTED["original"]["sha256"][:8]))
