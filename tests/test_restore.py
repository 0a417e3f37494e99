"""restore_checkpoint: what patch, training and save_pretrained made, in MiniMax's format again, bit by bit."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_tokenizer
import torch
from originals import original_config, original_weights, relative_error, write_original, yardstick
from safetensors.torch import load_file, save_file
from test_checkpoint import CASES, snapshot

from minimax_nb import cli
from minimax_nb.check import check
from minimax_nb.checkpoint import convert, patch_checkpoint, restore, restore_checkpoint, shards, staging
from minimax_nb.checkpoint.folder import INDEX
from minimax_nb.errors import CheckpointError, ConfigError
from minimax_nb.loading import load

CONFIG = original_config(vocab_size=tiny_tokenizer.VOCABULARY)
IDS = torch.randint(128, (1, 40), generator=torch.Generator().manual_seed(1))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder; of those that are in two files, the last one, as Transformers takes it."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    alike = one.keys() == other.keys() and all(one[name].dtype == other[name].dtype for name in one)
    return alike and all(torch.equal(one[name], other[name]) for name in one)


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


def config_of(folder: Path) -> dict:
    return read(folder, "config.json")


def without_code(config: dict) -> dict:
    return {key: value for key, value in config.items() if key != "auto_map"}


def change(model, seed: int = 5):
    """As training would: every weight becomes another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """original, converted (linked to it), and tuned, which was trained and saved; tests must not change them."""
    folder = tmp_path_factory.mktemp("restore")
    write_original(folder / "original", CONFIG, original_weights(CONFIG))
    tiny_tokenizer.write_tokenizer(folder / "original")
    (folder / "original/modeling_minimax_text_01.py").write_text("raise SystemExit('executed')")
    converted = patch_checkpoint(folder / "original", folder / "converted")
    model, tokenizer = load(converted, dtype="float32", quiet=True)
    change(model).save_pretrained(folder / "tuned")
    tokenizer.save_pretrained(folder / "tuned")
    return folder


# Weights


SHAPES = CASES | {"tied": dict(tie_word_embeddings=True, shards=1)}


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("case", SHAPES)
def test_patch_then_restore_gives_the_original_and_patch_the_same_again(tmp_path, case, link):
    changes = dict(SHAPES[case])
    count = changes.pop("shards", 3)
    config = original_config(**changes)
    weights = {name: tensor.bfloat16() for name, tensor in original_weights(config).items()}
    if config["tie_word_embeddings"]:
        del weights["lm_head.weight"]
    converted = patch_checkpoint(write_original(tmp_path / "src", config, weights, count), tmp_path / "dst", link=link)
    back = restore_checkpoint(converted, tmp_path / "back")
    assert same(tensors_of(back), weights)
    assert config_of(back) == without_code(config)
    again = patch_checkpoint(back, tmp_path / "again", link=False)
    assert same(tensors_of(again), tensors_of(converted))
    assert without_source(config_of(again)) == without_source(config_of(converted))


def without_source(config: dict) -> dict:
    return config | {"minimax_nb": config["minimax_nb"] | {"source": ""}}


SAVED = {
    "one file": {},
    "many files": dict(max_shard_size="100KB"),
    "fused experts": dict(save_original_format=False),
    "fused experts, many files": dict(save_original_format=False, max_shard_size="100KB"),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("how", SAVED)
def test_a_trained_model_computes_the_same_taken_as_original(place, tmp_path, how, dtype):
    model, tokenizer = load(place / "converted", dtype=dtype, quiet=True)
    change(model).save_pretrained(tmp_path / "saved", **SAVED[how])
    tokenizer.save_pretrained(tmp_path / "saved")
    back = restore_checkpoint(tmp_path / "saved", tmp_path / "back")
    weights, index = tensors_of(back), read(back, INDEX)
    assert sorted(weights) == sorted(original_weights(CONFIG)) == sorted(index["weight_map"])
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights.values())
    config = config_of(back)
    assert config.pop("torch_dtype") == dtype and config == without_code(CONFIG)
    again, _ = load(patch_checkpoint(back, tmp_path / "again"), dtype=dtype, quiet=True)
    assert same(dict(again.named_parameters()), dict(model.named_parameters()))
    with torch.no_grad():
        got = load(tmp_path / "again", dtype="float32", quiet=True)[0](IDS).logits[0]
    assert relative_error(got, yardstick(config, weights, IDS.tolist())[0]) < 1e-6


def test_check_compares_a_tuned_folder_with_the_restored_one(place, tmp_path):
    back = restore_checkpoint(place / "tuned", tmp_path / "back")
    results = {result.name: result for result in check(place / "tuned", against=back)}
    assert [result for result in results.values() if result.ok is False] == []
    assert results["q/k rows"].ok and results["logits"].ok
    other = check(place / "tuned", against=place / "original")
    assert {result.name for result in other if result.ok is False} == {"q/k rows", "logits"}
    (marker,) = check(back)
    assert marker.ok is False and f"minimax-nb patch {back} back-converted" in marker.detail


def test_files_that_need_no_change_are_links_and_folders_can_move(place, tmp_path):
    shutil.copytree(place, tmp_path / "here", symlinks=True)
    back = restore_checkpoint(tmp_path / "here/converted", tmp_path / "here/deep/back")
    links = sorted(back.glob("*.safetensors"))
    assert [os.readlink(path) for path in links] == [f"../../original/{name}" for name in shards.shard_names(3)]
    (tmp_path / "here").rename(tmp_path / "there")
    shutil.rmtree(tmp_path / "there/converted")
    assert same(tensors_of(tmp_path / "there/deep/back"), original_weights(CONFIG))


def test_a_file_with_other_rows_than_the_model_has_is_not_linked(place, tmp_path):
    """The linked files of a converted folder hold q_proj and k_proj too. Here the ones that count were trained."""
    src = shutil.copytree(place / "converted", tmp_path / "src")
    last = src / "model-00004-of-00004.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(last).items()}, last, metadata={"format": "pt"})
    back = restore_checkpoint(src, tmp_path / "back")
    want = original_weights(CONFIG)
    want |= {name: want[name] + 1 for name in load_file(last)}
    assert same(tensors_of(back), want)
    names = [name for path in back.glob("*.safetensors") for name in load_file(path)]
    assert len(names) == len(set(names))  # none is in two files


def test_copies_where_links_are_refused(place, tmp_path, monkeypatch, caplog):
    def refuse(*arguments, **options):
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)
    back = restore_checkpoint(place / "converted", tmp_path / "back")
    assert "links are refused" in caplog.text and same(tensors_of(back), original_weights(CONFIG))


# Small files


@pytest.mark.parametrize("folder", ["converted", "tuned"])
def test_tokenizer_and_template_are_as_they_were(place, tmp_path, folder):
    back, original = restore_checkpoint(place / folder, tmp_path / "back"), place / "original"
    assert (back / "chat_template.jinja").read_bytes() == (original / "chat_template.jinja").read_bytes()
    assert read(back, "tokenizer_config.json") == read(original, "tokenizer_config.json")
    assert read(back, "generation_config.json") == {"eos_token_id": 1}
    assert not list(back.glob("*.py"))
    again = patch_checkpoint(back, tmp_path / "again")
    for name in ("tokenizer_config.json", "generation_config.json"):
        assert read(again, name) == read(place / "converted", name)
    assert (again / "chat_template.jinja").read_bytes() == (place / "converted/chat_template.jinja").read_bytes()


def test_a_template_within_the_tokenizer_config(place, tmp_path):
    src = shutil.copytree(place / "original", tmp_path / "src")
    template = (src / "chat_template.jinja").read_text()
    (src / "chat_template.jinja").unlink()
    settings = read(src, "tokenizer_config.json")
    settings["chat_template"] = [{"name": "default", "template": template}, {"name": "other", "template": "{{ 1 }}"}]
    (src / "tokenizer_config.json").write_text(json.dumps(settings))
    back = restore_checkpoint(patch_checkpoint(src, tmp_path / "dst"), tmp_path / "back")
    assert read(back, "tokenizer_config.json") == settings


def test_what_the_folder_cannot_know_is_said_and_taken_from_the_original(place, tmp_path, caplog):
    caplog.set_level("INFO", "minimax_nb")
    restore_checkpoint(place / "tuned", tmp_path / "alone")
    assert "--original ORIGINAL" in caplog.text and "auto_map" in caplog.text
    caplog.clear()
    back = restore_checkpoint(place / "tuned", tmp_path / "back", original=place / "original")
    assert "--original" not in caplog.text
    small = {name: content for name, content in snapshot(place / "original").items() if "safetensors" not in name}
    assert small.items() <= snapshot(back).items() and "modeling_minimax_text_01.py" in small
    assert same(tensors_of(back), tensors_of(tmp_path / "alone"))


def test_the_original_of_another_model_is_refused(place, tmp_path):
    config = original_config(rotary_dim=4)
    other = write_original(tmp_path / "other", config, original_weights(config))
    with pytest.raises(ConfigError, match="vocab_size is 128, in the model it is 300: not its original"):
        restore_checkpoint(place / "tuned", tmp_path / "back", original=other)
    with pytest.raises(CheckpointError, match="lies inside"):
        restore_checkpoint(place / "tuned", place / "original/back", original=place / "original")


def test_keys_that_choose_code_do_not_come_back_from_the_marker(place, tmp_path):
    src = shutil.copytree(place / "converted", tmp_path / "src", symlinks=True)
    config = config_of(place / "converted")
    config["minimax_nb"]["dropped"] |= {"attn_implementation": "kernels/owner", "auto_map": "evil.py", "note": 1}
    (src / "config.json").write_text(json.dumps(config))
    (tmp_path / "original").symlink_to(place / "original")
    back = config_of(restore_checkpoint(src, tmp_path / "back"))
    assert back["note"] == 1 and not {"attn_implementation", "auto_map"} & back.keys()


# Mistakes and accidents


def no_marker(src: Path) -> None:
    config = {key: value for key, value in config_of(src).items() if key != "minimax_nb"}
    (src / "config.json").write_text(json.dumps(config))


def lost_tensor(src: Path) -> None:
    tensors = load_file(src / "model.safetensors")
    del tensors["model.layers.3.block_sparse_moe.experts.2.w3.weight"]
    save_file(tensors, src / "model.safetensors")


MISTAKES = {
    "already original": (lambda src: (src / "config.json").write_text(json.dumps(CONFIG)), "format already"),
    "no marker": (no_marker, "has no minimax_nb marker"),
    "no config": (lambda src: (src / "config.json").unlink(), "has no config.json"),
    "lost tensor": (lost_tensor, r"experts.2.w3.weight is in no weight file"),
    "damaged": (lambda src: (src / "model.safetensors").write_bytes(b"half"), "is damaged"),
    "tokenizer": (lambda src: (src / "tokenizer_config.json").write_text("[]"), "tokenizer_config.json holds a list"),
    "template": (lambda src: (src / "chat_template.jinja").write_bytes(b"\xff"), "not as expected"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(place, tmp_path, mistake, capsys):
    spoil, words = MISTAKES[mistake]
    spoil(src := shutil.copytree(place / "tuned", tmp_path / "src"))
    for option in ([], ["--dry-run"]):
        assert cli.main(["restore", str(src), str(tmp_path / "dst"), *option]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
    with pytest.raises((ConfigError, CheckpointError), match=words):
        restore_checkpoint(src, tmp_path / "dst")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_the_command(place, tmp_path, capsys):
    dst = tmp_path / "dst"
    assert cli.main(["restore", str(place / "converted"), str(dst), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "link   model-00001-of-00003.safetensors" in out and "0 bytes of weights written" in out
    assert not list(tmp_path.iterdir())
    assert cli.main(["restore", str(place / "converted"), str(dst), "--copy"]) == 0
    assert capsys.readouterr().out == f"{dst}\n"
    for option in ([], ["--dry-run"]):
        assert cli.main(["restore", str(place / "converted"), str(dst), *option]) == 0
        assert "nothing to do" in capsys.readouterr().err
    assert not [path for path in dst.iterdir() if path.is_symlink()]


def test_another_source_is_not_taken_for_done(place, tmp_path):
    back = restore_checkpoint(place / "tuned", tmp_path / "back")
    before = snapshot(back)
    with pytest.raises(CheckpointError, match="was not made from"):
        restore_checkpoint(place / "converted", back)
    with pytest.raises(CheckpointError, match="was not made from"):
        restore_checkpoint(place / "tuned", place / "original")
    assert snapshot(back) == before
    (back / "model-00001-of-00001.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing.*restore again"):
        restore_checkpoint(place / "tuned", back)


def test_free_space_is_checked_before_writing(place, tmp_path, monkeypatch):
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(CheckpointError, match="GB free, .* GB are needed"):
        restore_checkpoint(place / "tuned", tmp_path / "back")
    assert not list(tmp_path.iterdir())


def fail_with(error: BaseException):
    def fail(*arguments):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(errno.ENOSPC, "No space left on device"), CheckpointError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_full_disk_and_ctrl_c_leave_nothing(place, tmp_path, monkeypatch, error, raised):
    monkeypatch.setattr(shards, "sync_file", fail_with(error))
    with pytest.raises(raised):
        restore_checkpoint(place / "tuned", tmp_path / "back")
    assert not list(tmp_path.iterdir())


def test_a_source_that_changes_meanwhile_is_noticed(place, tmp_path, monkeypatch):
    src, sync = shutil.copytree(place / "tuned", tmp_path / "src"), shards.sync_file

    def changed_before(file):
        change_one = {name: tensor + 1 for name, tensor in load_file(src / "model.safetensors").items()}
        save_file(change_one, src / "model.safetensors")
        sync(file)

    monkeypatch.setattr(shards, "sync_file", changed_before)
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        restore_checkpoint(src, tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


STUCK = """
import sys, time
from minimax_nb.checkpoint import restore, shards
shards.sync_file = lambda file: (print("writing", flush=True), time.sleep(60))
restore.restore_checkpoint(sys.argv[1], sys.argv[2])
"""


def test_a_killed_run_leaves_no_dst_and_the_next_one_tidies_up(place, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(convert.__file__).parents[2])}
    command = [sys.executable, "-c", STUCK, place / "tuned", tmp_path / "back"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert run.stdout.readline() == b"writing\n"
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    assert sorted(path.name[:14] for path in tmp_path.iterdir()) == [".back.lock", ".back.partial-"]
    restore_checkpoint(place / "tuned", tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["back"]


def test_one_run_writes_and_the_others_wait(place, tmp_path, monkeypatch):
    import threading

    writers, write = [], restore._write
    monkeypatch.setattr(restore, "_write", lambda plan, partial: (writers.append(partial), write(plan, partial)))
    target = [place / "tuned", tmp_path / "back"]
    runs = [threading.Thread(target=restore_checkpoint, args=target) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(writers) == 1 and [path.name for path in tmp_path.iterdir()] == ["back"]
