"""int8 experts: as torchao rounds them, one matrix at a time; exact from there on; saved, read again, refused in words.

What the kernels compute on a GPU is in test_expert_kernels.py; here it is how they turn an int8 into floating point.
"""

import ast
import json
import os
import re
import struct
import subprocess
import sys
import weakref
from pathlib import Path

import ptx
import pytest
import torch
from originals import original_config, original_weights, write_original
from test_run import PIPELINE
from tiny_tokenizer import VOCABULARY, write_tokenizer

import minimax_nb
from minimax_nb import cli, reference, weights
from minimax_nb.check import check
from minimax_nb.checkpoint import original_weights as exported
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.checkpoint.folder import merge, read_config, read_headers
from minimax_nb.config import restore_config
from minimax_nb.decode.dispatch import _state, plainly, use_decoding
from minimax_nb.demo import card, corpus, evaluate
from minimax_nb.errors import CheckpointError, UsageMistake
from minimax_nb.experts import held
from minimax_nb.experts.plain import linear
from minimax_nb.first_layers import Weights
from minimax_nb.loading import load, report

torchao = pytest.importorskip("torchao", reason='pip install -e ".[int8]"')
ROOT = Path(minimax_nb.__file__).parents[1]
KERNELS = ROOT / "minimax_nb" / "experts" / "kernels_int8.py"
RESULTS = json.loads((ROOT / "notebooks" / "results" / "int8_demo.json").read_text())
IDS = torch.randint(VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Converted, with random weights: 4 layers, the third softmax."""
    place = tmp_path_factory.mktemp("int8")
    config = original_config(vocab_size=VOCABULARY, num_hidden_layers=4, attn_type_list=[0, 0, 1, 0])
    write_tokenizer(write_original(place / "original", config, original_weights(config)))
    return patch_checkpoint(place / "original", place / "converted")


@pytest.fixture(scope="module")
def loaded_int8(folder):
    return load(folder, experts="int8", quiet=True)


@pytest.fixture
def model(loaded_int8):
    return loaded_int8[0]


@pytest.fixture(scope="module")
def saved(loaded_int8, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("saved") / "int8"
    for part in loaded_int8:
        part.save_pretrained(place)
    return place


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def experts_of(model) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if ".experts." in name}


def definition(saved: Path) -> torch.Tensor:
    """Logits of IDS in float64, of what the integers and scales in the folder say."""
    config, tensors = read_config(saved), merge(read_headers(saved))
    held_there = Weights(tensors, unpermute_for=config)
    return torch.stack([reference.forward(restore_config(config), held_there, row) for row in IDS.tolist()])


# Loading


def test_it_is_what_transformers_and_torchao_would_load(folder, model):
    from transformers import MiniMaxForCausalLM

    from minimax_nb.experts.int8 import torchao_config

    theirs = MiniMaxForCausalLM.from_pretrained(folder, quantization_config=torchao_config(), dtype=torch.float32)
    found, wanted = experts_of(model), experts_of(theirs)
    assert len(found) == 8 and found.keys() == wanted.keys()
    for name, weight in wanted.items():
        assert type(found[name]) is type(weight) is torchao.quantization.Int8Tensor
        for part in ("qdata", "scale", "zero_point"):
            assert torch.equal(getattr(found[name], part), getattr(weight, part)), (name, part)
        assert (found[name].block_size, found[name].dtype) == (weight.block_size, weight.dtype)
    assert not any(held.is_int8(weight) for name, weight in model.named_parameters() if ".experts." not in name)


def test_one_matrix_of_one_expert_is_read_at_a_time(folder, monkeypatch):
    from minimax_nb.experts import int8

    alive, most = [], 0

    def watched(read, quantised=int8.quantised):
        def reading():
            nonlocal most
            matrix = read()
            alive[:] = [other for other in alive if other() is not None] + [weakref.ref(matrix)]
            most = max(most, len(alive))
            matrices.append(tuple(matrix.shape))
            return matrix

        return quantised(reading)

    matrices: list = []
    monkeypatch.setattr(int8, "quantised", watched)
    load(folder, experts="int8", quiet=True)
    config = read_config(folder)
    assert len(matrices) == 4 * 3 * config["num_local_experts"] and most == 1
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    assert set(matrices) == {(inner, hidden), (hidden, inner)}


def test_load_says_so(folder, model):
    found = report(model)
    assert found.experts == "int8" and "int8 experts" in found.line
    assert report(load(folder, quiet=True)[0]).experts == "plain"


# Computing


@torch.no_grad()
def test_it_computes_what_the_rounded_weights_say(model, saved, folder):
    want = definition(saved)
    assert relative(model(IDS).logits, want) < 1e-5
    assert 1e-4 < relative(model(IDS).logits, load(folder, quiet=True)[0](IDS).logits) < 2e-2  # and was rounded


def test_under_inference_mode_too(model):
    with torch.no_grad():
        want = model(IDS).logits
    with torch.inference_mode():
        assert torch.equal(model(IDS).logits, want)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 7])  # 2, 4 and 14 pairs: chosen ones alone, and expert by expert
def test_the_static_step_agrees_with_the_models_own_pass(model, rows):
    ids = IDS[:1].repeat(rows, 1)
    ids[:, -1] = torch.arange(rows)
    assert use_decoding(model, "static") == "static"
    with plainly(model):
        want = model(ids).logits[:, -1]
    cache = model(ids[:, :-1], use_cache=True).cache
    got = model(ids[:, -1:], cache=cache, use_cache=True).logits[:, -1]
    assert _state(model).decoder is not None and relative(got, want) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_in_half_precision_large_sums_do_not_overflow(model, dtype, tolerance):
    experts = model.model.layers[0].mlp.experts
    values, scales = held.values_and_scales(experts.gate_up_proj)
    x = 500 * values[1, 0].sign().float() + torch.randn(3, experts.hidden_dim)
    want = linear(x, 1, values, scales)
    assert (want / scales[1]).abs().max() > 65504  # of fp16, if the scale came after the sum
    assert relative(linear(x.to(dtype), 1, values, scales), want) < tolerance


def test_a_changed_int8_weight_is_noticed(model):
    weight = next(iter(experts_of(model).values()))
    assert held.address(weight) == weight.qdata.data_ptr() != 0 == weight.data_ptr()


def constants() -> dict[str, str]:
    """The instructions in kernels_int8, read without Triton."""
    tree = ast.parse(KERNELS.read_text())
    found = {node.targets[0].id: node.value.args[0] for node in tree.body if isinstance(node, ast.Assign)}
    return {name: value.value for name, value in found.items() if isinstance(value, ast.Constant)}


def test_the_instructions_turn_every_int8_into_its_number():
    for n in range(-128, 128):
        lanes = [n, -128, 127, -1 - n]  # of which the pairs see the first two
        word = struct.unpack("<I", struct.pack("<4b", *lanes))[0]
        numbers = [struct.pack("<I", register) for register in ptx.run(constants()["TO_FP32"], 4, word)]
        assert [struct.unpack("<f", number)[0] for number in numbers] == lanes
        for name, dtype in (("TO_FP16", torch.float16), ("TO_BF16", torch.bfloat16)):
            for pair in (lanes[:2], lanes[2:]):
                half = struct.unpack("<H", struct.pack("<2b", *pair))[0]
                (register,) = ptx.run(constants()[name], 1, half)
                assert ptx.pairs(dtype)(register)[0].tolist() == pair
            both = ptx.pairs(dtype)(*ptx.run(constants()[f"TWO_{name}"], 2, word))
            assert torch.cat(both).tolist() == lanes


def test_the_kernels_wait_for_products_before_they_convert_the_next_weights():
    """Without a use of the sum in the loop, Triton 3.6 lets registers be written that the matrix units still read.

    On an H200 that was seen in fp16 only (tests/triton_cases.py has the sums), so a missing wait would not show here.
    """
    seen = []
    for file in ("kernels.py", "kernels_sorted.py"):
        for loop in ast.walk(ast.parse((KERNELS.parent / file).read_text())):
            if not isinstance(loop, ast.For):
                continue
            text = [ast.unparse(node) for node in loop.body]
            for total in re.findall(r"^(\w+) = tl\.dot\((?:as_float|_factor)\(", "\n".join(text), re.MULTILINE):
                seen.append(total)
                assert any(f"finished({total})" in line for line in text), f"{file}: {total} is not waited for"
    assert sorted(seen) == ["gate", "total", "turned", "turned", "up"]


# Folders


def test_saved_it_loads_again(model, saved):
    from transformers import MiniMaxForCausalLM

    again = load(saved, quiet=True)[0]
    stock = MiniMaxForCausalLM.from_pretrained(saved, experts_implementation="eager")
    for other in (again, stock):
        for name, weight in experts_of(other).items():
            assert torch.equal(weight.qdata, experts_of(model)[name].qdata)
    assert report(again).experts == "int8" and report(load(saved, experts="int8", quiet=True)[0]).experts == "int8"
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, model(IDS).logits)
        assert relative(stock(IDS).logits, model(IDS).logits) < 1e-5


def test_check_compares_with_the_rounded_weights(saved, folder):
    results = {result.name: result for result in check(saved, against=folder.parent / "original")}
    assert all(result.ok is not False for result in results.values())
    assert results["logits"].ok and results["q/k rows"].ok


def test_a_folder_that_lost_a_scale_is_refused(saved, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(saved / "model.safetensors")
    name = "model.layers.0.block_sparse_moe.experts._down_proj_scale"
    for change, message in ((tensors[name][:, :-1].contiguous(), "has shape"), (tensors[name].half(), "F16")):
        for file in saved.iterdir():
            if file.suffix != ".safetensors":
                (tmp_path / file.name).write_bytes(file.read_bytes())
        save_file(tensors | {name: change}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path, quiet=True)


def test_what_cannot_be_had_is_said(folder, saved, model, tmp_path, monkeypatch, capsys):
    with pytest.raises(UsageMistake, match="'int4', not 'plain' or 'int8'"):
        load(folder, experts="int4")
    with pytest.raises(UsageMistake, match="int8 already"):
        load(saved, experts="plain")
    with pytest.raises(UsageMistake, match="no int8"):
        exported(model, restore_config(read_config(folder)))
    assert cli.main(["chat", str(folder), "--experts", "int4"]) == 2
    assert cli.main(["patch", str(saved), str(tmp_path / "again")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and not (tmp_path / "again").exists()
    monkeypatch.setattr(weights, "installed", lambda *_: False)
    for place, asked in ((folder, "int8"), (saved, None)):
        with pytest.raises(UsageMistake, match=r'pip install -e "\.\[int8\]"'):
            load(place, experts=asked)


def test_tools_that_load_by_name(saved, tmp_path):
    (tmp_path / "ask.py").write_text(PIPELINE)
    command = [
        sys.executable,
        "-m",
        "minimax_nb.run",
        str(tmp_path / "ask.py"),
        str(saved),
        json.dumps([["the sauce"]]),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "reply:" in run.stdout and "int8 experts" in run.stderr


# The demo


def test_the_recorded_figures_keep_what_is_promised():
    (plain,) = [form for form in RESULTS["forms"] if form["form"] == "fp32"]
    (int8,) = [form for form in RESULTS["forms"] if form["form"] == "int8"]
    assert abs(int8["perplexity"] / plain["perplexity"] - 1) < 0.01
    assert int8["replies_unchanged"][0] >= 0.95 * int8["replies_unchanged"][1] >= 250
    for distance in ("125", "250", "500", "750", "1000"):
        right, asked = int8["recall"][distance]
        assert abs(right - plain["recall"][distance][0]) <= 0.02 * asked and asked >= 50


def test_the_demo_hardly_changes(demo_model, tmp_path_factory):
    from minimax_nb.demo import demo_checkpoint

    plain, tokenizer = demo_model
    folder = patch_checkpoint(demo_checkpoint(), tmp_path_factory.mktemp("demo8") / "demo")
    int8 = load(folder, experts="int8", quiet=True)[0]
    times = card.perplexity(int8, tokenizer, 2) / card.perplexity(plain, tokenizer, 2)
    assert abs(times - 1) < 0.01
    prompts = [evaluate.prompt(tokenizer, turn) for turn in corpus.held_out_questions()[:12]]
    replies, others = (card.stock_replies(each, tokenizer)(prompts) for each in (plain, int8))
    assert sum(a == b for a, b in zip(replies, others, strict=True)) >= 11
