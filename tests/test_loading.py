"""load(): what it takes, what it refuses, and that nothing arrives in the model silently changed."""

import json
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_tokenizer
import torch
import transformers
from originals import original_config, original_weights, relative_error, write_original, yardstick
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import MiniMaxForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxLightningAttention
from transformers.utils import logging

from minimax_nb import cli
from minimax_nb.attention import NAME, register
from minimax_nb.cache import CACHE_ARGUMENT, stock_cache
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.checkpoint.folder import INDEX
from minimax_nb.checkpoint.layout import original_weights as original_weights_of
from minimax_nb.demo import demo_checkpoint
from minimax_nb.errors import CheckpointError, ConfigError
from minimax_nb.loading import TESTED, _attention, _on_gpu, _placement, load, report
from minimax_nb.original import DECAY_TABLES

CONFIG = original_config(vocab_size=tiny_tokenizer.VOCABULARY, num_hidden_layers=3, attn_type_list=[0, 1, 0])
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = write_original(tmp_path_factory.mktemp("loading") / "original", CONFIG, original_weights(CONFIG))
    tiny_tokenizer.write_tokenizer(folder)
    return folder


@pytest.fixture
def converted(original, tmp_path):
    """A converted folder of one's own: links resolved, so that files can be changed."""
    return Path(shutil.copytree(patch_checkpoint(original, tmp_path / "linked"), tmp_path / "converted"))


def edit_index(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("attention", [None, "eager"])
def test_loads_and_computes_right(converted, attention, capfd):
    with stock_cache():
        model, tokenizer = load(converted, attn_implementation=attention)
        assert MiniMaxCache().get_seq_length() == 0 and "get_seq_length" in vars(MiniMaxCache)
    out, err = capfd.readouterr()
    assert out.count("\n") == 1 and err == ""  # one line; no load report, no progress bar
    place = "bf16 on" if torch.cuda.is_available() else f"fp32 on CPU ({torch.get_num_threads()} thread"
    assert out.startswith(f"{place}") and f"{attention or 'sdpa'}, torch lightning attention, fp32 state" in out
    assert "cache repaired: length, mask sizes, beams, repeat, select, reset" in out
    if not torch.cuda.is_available():
        ids = tokenizer("a recipe for the sauce").input_ids
        (want,) = yardstick(CONFIG, original_weights(CONFIG), [ids])
        assert relative_error(model(torch.tensor([ids])).logits[0].detach(), want) < 1e-5
    assert not model.training


def test_dtype_and_device_as_asked(converted, capsys):
    model, _ = load(converted, dtype="bfloat16", device_map="cpu", lightning="stock")
    assert model.dtype == torch.bfloat16 and model.device.type == "cpu"
    assert capsys.readouterr().out.startswith("bf16 as asked on CPU")
    assert load(converted, dtype=torch.float32, device_map="cpu")[0].dtype == torch.float32


@pytest.mark.parametrize("bf16, said", [(True, "bf16 on H100 x 2"), (False, "fp32 (it has no bf16) on H100 x 2")])
def test_choice_on_gpus(monkeypatch, bf16, said):
    pretended = {"is_available": True, "device_count": 2, "get_device_name": "H100", "is_bf16_supported": bf16}
    for name, value in pretended.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value, **_: value)
    assert _placement(None, "auto") == ("bfloat16" if bf16 else "float32", "auto", said)
    assert _placement("float16", "auto")[2] == "fp16 as asked on H100 x 2"
    assert _placement(None, "cpu")[2].startswith("fp32 on CPU")


def test_copied_one_file_and_saved_again(original, tmp_path):
    weights = original_weights(CONFIG)
    single = write_original(tmp_path / "single", CONFIG, weights, shards=1)
    tiny_tokenizer.write_tokenizer(single)
    first, tokenizer = load(patch_checkpoint(original, tmp_path / "copied", link=False), device_map="cpu")
    ids = torch.tensor([[5, 9, 70, 8]])
    want = first(ids).logits
    assert load(patch_checkpoint(single, tmp_path / "one"), device_map="cpu")[0](ids).logits.equal(want)
    first.save_pretrained(tmp_path / "again")
    tokenizer.save_pretrained(tmp_path / "again")
    assert load(tmp_path / "again", device_map="cpu")[0](ids).logits.equal(want)


def test_whole_heads_rotated(tmp_path):
    config = CONFIG | {"rotary_dim": 16}
    source = write_original(tmp_path / "original", config, original_weights(config))
    tiny_tokenizer.write_tokenizer(source)
    load(patch_checkpoint(source, tmp_path / "converted"))


@pytest.mark.parametrize("name", ["original", "two words", "it's"])
def test_an_original_folder_gets_a_command_that_works(original, tmp_path, monkeypatch, name):
    """It writes to the current directory, not beside the source."""
    folder = Path(shutil.copytree(original, tmp_path / "package" / name))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ConfigError, match="is not converted") as refusal:
        load(folder)
    assert cli.main(shlex.split(str(refusal.value).partition("Run: minimax-nb ")[2])) == 0
    load(f"{name}-converted", device_map="cpu")
    assert [path.name for path in folder.parent.iterdir()] == [name]


def test_from_within_an_original_folder_the_command_names_all_of_it(original, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(original, tmp_path / "original"))
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError) as refusal:
        load(".")
    assert f"in another directory: minimax-nb patch {folder} original-converted" in str(refusal.value)


def test_a_model_of_the_hub_is_downloaded_converted_and_then_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as refusal:
        load("MiniMaxAI/MiniMax-Text-01")
    steps = (
        "hf download MiniMaxAI/MiniMax-Text-01 --local-dir MiniMax-Text-01",
        "minimax-nb patch MiniMax-Text-01 MiniMax-Text-01-converted",
        "load MiniMax-Text-01-converted",
    )
    at = [str(refusal.value).index(step) for step in steps]
    assert at == sorted(at) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("path", ["_work/demo", "work/demo", "demo", "/a/b", "../a/b", "a/b/c"])
def test_a_mistyped_path_is_no_model_of_the_hub(tmp_path, monkeypatch, path):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist: give the folder"):
        load(path)


@pytest.mark.parametrize("break_it, message", [
    (lambda folder: shutil.rmtree(folder), "does not exist"),
    (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
    (lambda folder: (folder / INDEX).unlink(), "has neither"),
    (lambda folder: next(folder.glob("*1-of*.safetensors")).unlink(), "is missing"),
    (lambda folder: next(folder.glob("*1-of*.safetensors")).write_bytes(b"no"), "is damaged"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
])  # fmt: skip
def test_broken_folder_is_one_clear_error(converted, break_it, message):
    break_it(converted)
    with pytest.raises(CheckpointError, match=message):
        load(converted)


def test_missing_and_mismatched_tensors_are_named(converted):
    shard = converted / json.loads((converted / INDEX).read_text())["weight_map"]["model.norm.weight"]
    tensors = load_file(shard)
    norm = tensors.pop("model.norm.weight")
    save_file(tensors | {"model.norm.weight": norm[:-1]}, shard, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has shape"):
        load(converted)
    save_file(tensors, shard, metadata={"format": "pt"})
    edit_index(converted, lambda weight_map: weight_map.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is in no weight file"):
        load(converted)


def test_what_transformers_does_not_load_is_named(converted, monkeypatch):
    monkeypatch.setattr("minimax_nb.weights.DECAY_BUFFERS", ("slope_rate",))  # as if a key were unknown to us
    with pytest.raises(CheckpointError, match=r"did not load model\.layers\.0\.self_attn\.diagonal_decay"):
        load(converted)


def test_loading_changes_nothing_of_transformers(converted):
    before = dict(vars(MiniMaxForCausalLM))
    model, _ = load(converted)
    assert dict(vars(MiniMaxForCausalLM)) == before and isinstance(model, MiniMaxForCausalLM)
    assert type(load(converted, decoding="plain")[0]) is MiniMaxForCausalLM


def test_file_that_overrides_the_permuted_rows_is_found(original, converted):
    with safe_open(original / "model-00001-of-00003.safetensors", "pt") as first:
        names = list(first.keys())
        later = {names[0]: first.get_tensor(names[0]), Q_PROJ: original_weights(CONFIG)[Q_PROJ]}
    save_file(later, converted / "model-99999.safetensors", metadata={"format": "pt"})
    load(converted)  # named by no index, it is not read
    edit_index(converted, lambda weight_map: weight_map.update({names[0]: "model-99999.safetensors"}))
    with pytest.raises(CheckpointError, match=r"q_proj\.weight in the model is not the one in model-0000"):
        load(converted)


def test_frequencies_are_tested(converted):
    config = json.loads((converted / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] *= 2
    (converted / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="pair"):
        load(converted)


def test_unknown_lightning_is_named(converted):
    with pytest.raises(ValueError, match="'auto', 'fused', 'torch', 'stock'"):
        load(converted, lightning="fast")


def test_lightning_as_asked(converted, capsys):
    load(converted)
    assert "torch lightning attention, fp32 state" in capsys.readouterr().out
    model, _ = load(converted, lightning="stock")
    assert "stock lightning attention, plain decoding" in capsys.readouterr().out
    assert type(model.model.layers[0].self_attn) is MiniMaxLightningAttention


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_fused_kernels_need_a_gpu(converted):
    with pytest.raises(RuntimeError, match="need a CUDA GPU"):
        load(converted, lightning="fused")


@pytest.fixture
def another_version(monkeypatch):
    monkeypatch.setattr("minimax_nb.loading.TESTED", "0.0.0")


def test_another_version_is_tested_in_this_process(converted, another_version, capsys):
    model, _ = load(converted, quiet=True)
    assert capsys.readouterr().out == ""
    found = report(model)
    ways = ("one pass", "token by token", "second turn", "padded batch", "pads in between", "beams", "static steps")
    assert found.tested == ways and found.decoding == "static"
    assert "is not the tested 0.0.0: one pass, token by token" in found.line


@pytest.mark.parametrize("renamed", [CACHE_ARGUMENT, "attention_mask"])
@pytest.mark.parametrize("lightning", ["torch", "stock"])
def test_a_version_that_renames_an_argument_is_refused(converted, another_version, monkeypatch, renamed, lightning):
    """What calls the lightning layers calls it something else, as 5.24 did."""

    def call(self, **given):
        names = {name: f"new_{name}" if name == renamed else name for name in given}
        return torch.nn.Module.__call__(self, **{names[name]: value for name, value in given.items()})

    monkeypatch.setattr(MiniMaxLightningAttention, "__call__", call, raising=False)
    monkeypatch.setattr("minimax_nb.loading.load_model", None)  # it is refused before anything is loaded
    with pytest.raises(RuntimeError, match="pip install transformers=="):
        load(converted, lightning=lightning)


def test_a_version_whose_cache_does_not_know_its_length_is_refused(converted, another_version, monkeypatch):
    monkeypatch.setattr("minimax_nb.cache.repair_cache", lambda: [])
    with stock_cache(), pytest.raises(RuntimeError, match=r"token by token is \d+\.\d% off, second turn is"):
        load(converted, lightning="stock")


def test_what_was_chosen_is_data(converted, capsys):
    model, _ = load(converted, dtype="bfloat16", device_map="cpu")
    found = report(model)
    assert (found.dtype, found.attention, found.lightning) == ("bfloat16", "sdpa", "torch")
    assert found.repaired == ("length", "mask sizes", "beams", "repeat", "select", "reset")
    assert bool(found.tested) == (transformers.__version__ != TESTED)
    assert capsys.readouterr().out == found.line + "\n"
    with pytest.raises(ValueError, match="was not loaded by"):
        report(MiniMaxForCausalLM(model.config))


def test_parts_of_a_model_on_a_gpu(monkeypatch):
    for device_map in ("auto", "cuda", "cuda:1", 0, torch.device("cuda"), {"": 0}, {"model": "cpu", "lm_head": 1}):
        for gpu in (True, False):
            monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
            assert _on_gpu(device_map) is gpu
            for cpu in (None, "cpu", torch.device("cpu"), {"": "cpu"}, {"model": "cpu", "lm_head": "disk"}):
                assert _on_gpu(cpu) is False


def test_a_cpu_asked_for_by_a_map_beside_a_gpu(converted, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = report(load(converted, device_map={"": "cpu"})[0])
    assert found.dtype == "float32" and found.line.startswith("fp32 on CPU") and found.attention == "sdpa"


IN_ANOTHER_PROCESS = """
import sys, torch
from transformers.models.minimax.modeling_minimax import MiniMaxCache
model = torch.load(sys.argv[1], weights_only=False)
from minimax_nb.cache import CACHE_ARGUMENT
ids, cache = torch.tensor([[5, 9, 70, 8, 11, 12]]), MiniMaxCache()
with torch.no_grad():
    for piece in ids.split(3, 1):
        logits = model(piece, **{CACHE_ARGUMENT: cache, "use_cache": True}).logits
torch.save(logits, sys.argv[2])
"""


@pytest.mark.parametrize("attention", [None, NAME])
def test_a_loaded_model_in_another_process(converted, tmp_path, attention):
    """Saved whole and read back, as spawned workers do: its cache is repaired there, its attention known."""
    register()
    model, _ = load(converted, device_map="cpu", attn_implementation=attention)
    torch.save(model, tmp_path / "model.pt")
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path / "model.pt"), str(tmp_path / "logits.pt")]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
    (want,) = yardstick(CONFIG, original_weights(CONFIG), [[5, 9, 70, 8, 11, 12]])
    assert relative_error(torch.load(tmp_path / "logits.pt")[0], want[3:]) < 1e-5


def test_decays_rounded_in_a_saved_folder_are_computed_anew(converted, tmp_path):
    """As stock saves them in bf16; loaded in fp32, both forms of attention compute with exact ones."""
    stock = MiniMaxForCausalLM.from_pretrained(converted, dtype="bfloat16")
    stock.save_pretrained(tmp_path / "half")
    shutil.copy(converted / "tokenizer.json", tmp_path / "half")
    shutil.copy(converted / "tokenizer_config.json", tmp_path / "half")
    model, _ = load(tmp_path / "half", dtype="float32", device_map="cpu", lightning="stock")
    layer = model.model.layers[0].self_attn
    exact = layer.decay_factors(layer.get_slope_rate())
    assert all(getattr(layer, name).equal(table) for name, table in zip(DECAY_TABLES, exact, strict=True))
    assert layer.slope_rate.equal(layer.get_slope_rate())
    halved = original_weights_of(model, CONFIG)
    ids = torch.tensor([[5, 9, 70, 8]])
    (want,) = yardstick(CONFIG, halved, ids.tolist())
    for lightning in ("stock", "torch"):
        got = load(tmp_path / "half", dtype="float32", device_map="cpu", lightning=lightning)[0](ids).logits[0]
        assert relative_error(got.detach(), want) < 1e-5


def test_tested_version_is_the_pinned_one():
    pins = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"transformers=={TESTED}" in pins


def test_progress_bar_setting_is_left_as_it_was(converted):
    before = logging.is_progress_bar_enabled()
    load(converted)
    assert logging.is_progress_bar_enabled() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_flash_attention_that_cannot_run_is_one_sentence_before_anything_is_read(converted, monkeypatch):
    monkeypatch.setattr("minimax_nb.loading.load_model", None)
    with pytest.raises(RuntimeError) as refusal:
        load(converted, attn_implementation="flash_attention_2")
    assert "cannot run on a CPU" in str(refusal.value) and "'sdpa'" in str(refusal.value)
    assert "\n" not in str(refusal.value) and refusal.value.__cause__ is refusal.value.__context__ is None


def test_flash_attention_on_a_gpu_is_looked_at_first(monkeypatch):
    asked = []

    def status(dtype):
        asked.append(dtype)
        return SimpleNamespace(runs=dtype != "float32", advice="not in float32: give bfloat16")

    monkeypatch.setattr("minimax_nb.hardware.flash_attention_status", status)
    assert _attention("flash_attention_2", True, "bfloat16") == ("flash_attention_2", "flash_attention_2")
    with pytest.raises(RuntimeError, match="not in float32"):
        _attention("flash_attention_2", True, "float32")
    assert asked == ["bfloat16", "float32"]


def test_the_attention_chosen_comes_with_its_reason():
    name, words = _attention(None, True, "bfloat16")
    assert name == "sdpa_by_length" and words.startswith("sdpa by length (") and "FlashAttention-2" in words
    assert _attention(None, False, "float32") == ("sdpa", "sdpa")
    assert _attention("eager", True, "bfloat16") == ("eager", "eager")


def test_a_tokenizer_that_is_read_otherwise_than_its_file_is_refused(tmp_path):
    """The demo's class is MiniMax's, for which Transformers replaces the pre-tokenizer of tokenizer.json."""
    folder = patch_checkpoint(demo_checkpoint(), tmp_path / "demo")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "GPT2Tokenizer"}))
    with pytest.raises(CheckpointError, match="on digits .*set tokenizer_class to PreTrainedTokenizerFast"):
        load(folder)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_folder_that_chooses_code_is_refused(tmp_path, key):
    folder = patch_checkpoint(demo_checkpoint(), tmp_path / "demo")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: "someone/kernel"}))
    with pytest.raises(ConfigError, match=f"{key} is 'someone/kernel'"):
        load(folder)
