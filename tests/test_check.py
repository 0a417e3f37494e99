"""check: a good folder passes, and each way to spoil one is named."""

import json
import shutil

import pytest
import tiny_tokenizer
import torch
from originals import original_config, original_weights, write_original
from safetensors.torch import load_file, save_file
from traps import renamed_config

from minimax_nb import check as module
from minimax_nb.check import check
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.checkpoint.folder import INDEX
from minimax_nb.config import MARKER, patch_config
from minimax_nb.errors import CheckpointError, UsageMistake

NEW = "model-00004-of-00004.safetensors"


@pytest.fixture
def folders(tmp_path):
    config = original_config(vocab_size=tiny_tokenizer.VOCABULARY)
    src = write_original(tmp_path / "src", config, original_weights(config))
    tiny_tokenizer.write_tokenizer(src)
    return src, patch_checkpoint(src, tmp_path / "dst")


def outcome(*arguments, **options) -> dict[str, bool | None]:
    return {result.name: result.ok for result in check(*arguments, **options)}


def failure(*arguments, **options) -> str:
    """The details of what failed; there must be something."""
    failed = [result for result in check(*arguments, **options) if result.ok is False]
    assert failed
    return "; ".join(f"{result.name}: {result.detail}" for result in failed)


def edit_config(dst, **changes) -> None:
    path = dst / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_source_that_may_have_lost_rotary_dim_is_named(tmp_path):
    config = renamed_config(original_config())
    del config["rotary_dim"]
    src = write_original(tmp_path / "src", config, original_weights(original_config()))
    assert outcome(patch_checkpoint(src, tmp_path / "dst"), against=src)["rotation"] is None
    whole = original_config(rotary_dim=16)  # in MiniMax's own naming the key is there, and means it
    src = write_original(tmp_path / "whole", whole, original_weights(whole))
    assert "rotation" not in outcome(patch_checkpoint(src, tmp_path / "done"), against=src)


def test_a_good_folder_passes(folders):
    src, dst = folders
    names = ["marker", "frequencies", "files", "text files", "tokenizer", "load order", "q/k rows", "logits"]
    assert list(outcome(dst)) == names
    assert outcome(dst) == dict.fromkeys(names, True)
    assert outcome(dst, against=src) == dict.fromkeys(names, True) | {"source": True}


@pytest.mark.parametrize("layers", [1, 7, 8, 9, 16])
def test_the_first_layers_of_a_deeper_model(tmp_path, layers):
    """Decay depends on the whole depth, so a model cut off after 8 layers needs the slopes of 16."""
    config = original_config(num_hidden_layers=16, hidden_size=32)
    src = write_original(tmp_path / "src", config, original_weights(config), shards=1)
    dst = patch_checkpoint(src, tmp_path / "dst", link=False)
    logits = check(dst, layers=layers)[-1]
    assert logits.ok and f"{layers} of 16 layers" in logits.detail


def test_copies_have_no_rows_to_compare_with(folders, tmp_path):
    src, _ = folders
    copied = patch_checkpoint(src, tmp_path / "copied", link=False)
    assert outcome(copied)["q/k rows"] is None
    assert outcome(copied, against=src)["q/k rows"] is True


def test_whole_heads(tmp_path):
    config = original_config(rotary_dim=16)
    src = write_original(tmp_path / "src", config, original_weights(config))
    dst = patch_checkpoint(src, tmp_path / "dst")
    assert outcome(dst)["logits"] and outcome(dst, against=src)["q/k rows"]


def test_a_saved_model_passes(folders, tmp_path):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folders[1]).save_pretrained(tmp_path / "saved")
    assert False not in outcome(tmp_path / "saved", against=folders[0]).values()


def test_bf16_is_computed_in_float32(tmp_path):
    config = original_config()
    weights = {name: tensor.bfloat16() for name, tensor in original_weights(config).items()}
    src = write_original(tmp_path / "src", config, weights)
    assert outcome(patch_checkpoint(src, tmp_path / "dst"))["logits"]


def test_unconverted_folders_have_no_marker(folders):
    src, _ = folders
    assert f"Run: minimax-nb patch {src} src-converted" in failure(src)


def test_original_rows_under_a_patched_config(folders):
    """patch_config without patch_checkpoint: only the logits and SRC can tell."""
    src, _ = folders
    bare = shutil.copytree(src, src.parent / "bare")
    config = json.loads((src / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps(patch_config(config)))
    assert "q/k rows: model.layers.7.self_attn.q_proj.weight is not the permuted" in failure(bare, against=src)
    assert "logits: stock Transformers is off" in failure(bare, against=src)


def test_a_shard_that_sorts_first(folders):
    dst = folders[1]
    (dst / NEW).rename(dst / NEW.replace("00004-of", "00000-of"))
    (dst / INDEX).write_text((dst / INDEX).read_text().replace("00004-of", "00000-of"))
    assert "load order: Transformers takes model.layers.7.self_attn" in failure(dst)


def test_dangling_links_are_named(folders):
    src, dst = folders
    src.rename(src.parent / "moved")
    assert "model-00001-of-00004.safetensors is a dangling link to ../src/model-00001" in failure(dst)


def test_spoiled_rows(folders):
    src, dst = folders
    tensors = load_file(dst / NEW)
    tensors["model.layers.7.self_attn.k_proj.weight"][3] += 1
    save_file(tensors, dst / NEW)
    for options in ({}, {"against": src}):
        assert "model.layers.7.self_attn.k_proj.weight is not the permuted" in failure(dst, **options)


def test_changed_configs(folders):
    src, dst = folders
    config = json.loads((dst / "config.json").read_text())
    edit_config(dst, rope_parameters={"rope_type": "default", "rope_theta": 1e7})
    assert "frequencies: " in failure(dst)
    edit_config(dst, rope_parameters=config["rope_parameters"], mlp_alpha_factor=1.0)
    assert "source: layernorm_mlp_alpha is 1.0 here and 2.0 there" in failure(dst, against=src)
    edit_config(dst, mlp_alpha_factor=2.0, num_local_experts=8)
    assert "files: " in failure(dst)
    edit_config(dst, num_local_experts=4, auto_map={"AutoConfig": "x.Y"})
    assert "remote code" in failure(dst)
    edit_config(dst, layer_types=["other"] * 8)
    assert "marker: " in failure(dst)
    edit_config(dst, **{MARKER: {"qk_rows": "permuted", "version": 1}})
    assert "changed after the conversion" in failure(dst)
    edit_config(dst, **{MARKER: {"qk_rows": "permuted", "version": 2}})
    assert "version 2" in failure(dst)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "README.md"]
)
def test_a_lost_text_file_is_named_and_patch_writes_it_again(folders, name):
    src, dst = folders
    before = (dst / name).read_bytes()
    (dst / name).unlink()
    assert f"{name} is missing: run `minimax-nb patch` again" in failure(dst, layers=1)
    patch_checkpoint(src, dst)
    assert (dst / name).read_bytes() == before
    assert False not in outcome(dst, layers=1).values()


def test_a_damaged_text_file_is_named(folders):
    _, dst = folders
    (dst / "generation_config.json").write_text('{"max_new_tokens": ')
    assert "text files: " in failure(dst, layers=1)


def test_a_weight_file_too_many_is_named(folders):
    src, dst = folders
    shutil.copy(dst / NEW, dst / "model-00005-of-00005.safetensors")
    assert "model-00005-of-00005.safetensors is named by no index: remove it" in failure(dst)
    with pytest.raises(CheckpointError, match="named by no index: remove it"):
        patch_checkpoint(src, dst)


def test_a_tokenizer_that_is_read_otherwise_is_named(folders):
    _, dst = folders
    settings = json.loads((dst / "tokenizer_config.json").read_text())
    (dst / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "GPT2Tokenizer"}))
    path = dst / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    single = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [single, tokenizer["pre_tokenizer"]]}
    path.write_text(json.dumps(tokenizer))
    assert "tokenizer: " in failure(dst, layers=1) and "GPT2Tokenizer" in failure(dst, layers=1)
    path.write_text("{")
    assert "tokenizer: " in failure(dst, layers=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.7.self_attn.v_proj.weight"])
def test_logits_that_are_not_finite_fail(tmp_path, name, value):
    config = original_config()
    weights = original_weights(config)
    weights[name][3] = value
    dst = patch_checkpoint(write_original(tmp_path / "src", config, weights), tmp_path / "dst")
    assert "logits: the definition computes NaN or infinity" in failure(dst)


def test_stock_logits_that_are_not_finite_fail(folders, monkeypatch):
    model = module.first_layers(folders[1], 8)
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    monkeypatch.setattr(module, "first_layers", lambda *arguments: model)
    assert "logits: stock Transformers computes NaN or infinity" in failure(folders[1])


def test_results_come_as_they_are_known(folders, monkeypatch):
    monkeypatch.setattr(module, "_check_logits", None)  # not callable: it would raise if it were reached
    results = module.checks(folders[1])
    assert [next(results).name for _ in range(7)][-1] == "q/k rows"


@pytest.mark.parametrize("key", ["attn_implementation", "_experts_implementation", "use_kernel_forward_from_hub"])
def test_keys_that_choose_code_are_named(folders, key):
    edit_config(folders[1], **{key: "someone/kernel"})
    assert f"files: {key} is 'someone/kernel'" in failure(folders[1])


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes.")],
)
def test_memory_that_runs_out_is_a_mistake_of_one_line(folders, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(module, "first_layers", fail)
    with pytest.raises(UsageMistake, match=r"^not enough memory for the check of logits: [0-9.]+ GB are free.*$"):
        check(folders[1])
    monkeypatch.setattr(module, "first_layers", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        check(folders[1])


def test_one_layer(tmp_path):
    config = original_config(num_hidden_layers=1, attn_type_list=[0])
    src = write_original(tmp_path / "src", config, original_weights(config))
    assert False not in outcome(patch_checkpoint(src, tmp_path / "dst"), against=src).values()


def test_another_source(folders, tmp_path):
    config = original_config(vocab_size=tiny_tokenizer.VOCABULARY, rotary_dim=4, rope_theta=1e4)
    other = write_original(tmp_path / "other", config, original_weights(config))
    assert "source: rope_theta is 10000000 here and 10000.0 there" in failure(folders[1], against=other)


def test_too_little_memory_is_a_reason_not_a_failure(folders, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000})())
    last = check(folders[1])[-1]
    assert last.ok is None and "8 layers need about" in last.detail


def test_user_mistakes(folders, tmp_path):
    src, dst = folders
    with pytest.raises(CheckpointError, match="does not exist"):
        check(tmp_path / "nowhere")
    with pytest.raises(UsageMistake, match="give 1 to 8"):
        check(dst, layers=9)
    with pytest.raises(CheckpointError, match="does not exist"):
        check(dst, against=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="already converted"):
        check(dst, against=dst)


def test_transformers_is_as_talkative_as_before(folders):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    check(folders[1], layers=1)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert module.BOUND == 1e-5
