"""The command line: every mistake is one line on stderr, exit code 2, and no DST."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from originals import original_config, original_weights, write_original
from safetensors.torch import load_file, save_file
from test_checkpoint import snapshot
from test_config import BAD, bad_config

from minimax_nb import cli
from minimax_nb.checkpoint import patch_checkpoint, shards, staging
from minimax_nb.checkpoint.folder import INDEX


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    config = original_config()
    return write_original(tmp_path_factory.mktemp("cli") / "src", config, original_weights(config))


@pytest.fixture
def src(original, tmp_path) -> Path:
    return shutil.copytree(original, tmp_path / "src")


def refused(capsys, *arguments) -> str:
    """Run a command line that must be refused, and return its one line."""
    code = cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.strip()]
    assert (code, out, len(lines)) == (2, "", 1), (code, out, err)
    assert "Traceback" not in err
    return lines[0]


def refused_patch(capsys, src: Path, dst: Path, *options) -> str:
    before = snapshot(src)
    line = refused(capsys, "patch", src, dst, *options)
    assert snapshot(src) == before
    assert not os.path.lexists(dst) and not list(dst.parent.glob(".*.partial-*"))
    return line


def edit_index(src: Path, change) -> None:
    index = json.loads((src / INDEX).read_text())
    change(index["weight_map"])
    (src / INDEX).write_text(json.dumps(index))


def shard_of(src: Path, tensor: str) -> int:
    return int(json.loads((src / INDEX).read_text())["weight_map"][tensor][6:11])


def edit_shard(src: Path, change, number: int) -> None:
    path = src / f"model-{number:05d}-of-00003.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("changes, message", BAD, ids=[message for _, message in BAD])
def test_bad_config_values(src, tmp_path, capsys, changes, message):
    (src / "config.json").write_text(json.dumps(bad_config(changes)))
    line = refused_patch(capsys, src, tmp_path / "dst")
    assert message in line and str(src / "config.json") in line


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "no config.json"),
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("\x00\x01", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("{}", "empty object"),
        ("[]", "holds a list"),
        ("null", "holds a NoneType"),
    ],
)
def test_broken_config_files(src, tmp_path, capsys, text, message):
    (src / "config.json").unlink()
    if text is not None:
        (src / "config.json").write_text(text)
    assert message in refused_patch(capsys, src, tmp_path / "dst")


def test_config_that_is_not_utf8(src, tmp_path, capsys):
    (src / "config.json").write_bytes(b"\xff\xfe{}")
    assert "not valid JSON" in refused_patch(capsys, src, tmp_path / "dst")


def test_not_a_folder(src, tmp_path, capsys):
    assert "does not exist" in refused(capsys, "patch", tmp_path / "nowhere", tmp_path / "dst")
    assert "is not a folder" in refused(capsys, "patch", src / "config.json", tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize(
    "changes, tensor",
    [
        ({"num_hidden_layers": 9, "attn_type_list": [0] * 7 + [1, 0]}, "model.layers.8"),
        ({"num_hidden_layers": 7, "attn_type_list": [0] * 7}, "model.layers.7"),
        ({"attn_type_list": [1] + [0] * 7}, "model.layers.0.self_attn.q_proj"),
        ({"num_attention_heads": 8}, "self_attn.qkv_proj"),
        ({"num_key_value_heads": 4}, "self_attn.k_proj"),
        ({"head_dim": 32}, "self_attn.qkv_proj"),
        ({"num_local_experts": 8}, "block_sparse_moe.gate"),
        ({"num_local_experts": 10**12}, "block_sparse_moe.gate"),
        ({"head_dim": 10**12, "rotary_dim": 10**12}, "self_attn.qkv_proj"),
        ({"hidden_size": 64}, "embed_tokens"),
        ({"intermediate_size": 64}, "w1"),
        ({"vocab_size": 100}, "embed_tokens"),
    ],
)
def test_config_that_contradicts_the_tensors(src, tmp_path, capsys, changes, tensor):
    (src / "config.json").write_text(json.dumps(original_config(**changes)))
    assert tensor in refused_patch(capsys, src, tmp_path / "dst")


EMBED = "model.embed_tokens.weight"
BAD_INDEX = {
    "names a missing shard": (lambda m: m.update({EMBED: "model-00009-of-00003.safetensors"}), "is missing"),
    "names a file outside": (lambda m: m.update({EMBED: "../secret.safetensors"}), "'../secret.safetensors'"),
    "names an absolute path": (lambda m: m.update({EMBED: "/etc/x.safetensors"}), "'/etc/x.safetensors'"),
    "names a Windows path": (lambda m: m.update({EMBED: "..\\x.safetensors"}), "inside the folder"),
    "names a pickle": (lambda m: m.update({EMBED: "pytorch_model.bin"}), "must be .safetensors"),
    "names a number": (lambda m: m.update({EMBED: 5}), "must be .safetensors"),
    "names an absent tensor": (lambda m: m.update({"model.extra": "model-00001-of-00003.safetensors"}), "model.extra"),
    "names another shard": (lambda m: m.update({EMBED: "model-00003-of-00003.safetensors"}), EMBED),
    "is empty": (lambda m: m.clear(), "no weight_map"),
}


@pytest.mark.parametrize("case", BAD_INDEX)
def test_bad_index(src, tmp_path, capsys, case):
    change, message = BAD_INDEX[case]
    edit_index(src, change)
    assert message in refused_patch(capsys, src, tmp_path / "dst")


def test_missing_and_dangling_shards(src, tmp_path, capsys):
    shard = src / "model-00002-of-00003.safetensors"
    shard.unlink()
    assert f"{shard} is missing" in refused_patch(capsys, src, tmp_path / "dst")
    shard.symlink_to("gone")
    assert f"{shard} is a dangling link to gone" in refused_patch(capsys, src, tmp_path / "dst")


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda data: data[:-100], "is damaged"),
        (lambda data: data[:100], "is damaged"),
        (lambda data: b"", "is damaged"),
        (lambda data: b"garbage " * 100, "is damaged"),
        (lambda data: data + b"more", "is damaged"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_damaged_shards(src, tmp_path, capsys, content, message):
    shard = src / "model-00002-of-00003.safetensors"
    shard.write_bytes(content(shard.read_bytes()))
    line = refused_patch(capsys, src, tmp_path / "dst")
    assert message in line and shard.name in line


Q = "model.layers.7.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.update({EMBED: torch.zeros(128, 48).to(torch.float8_e4m3fn)}), "F8_E4M3, quantised"),
        (lambda t: t.update({EMBED: torch.zeros(128, 48, dtype=torch.int8)}), "I8, quantised"),
        (lambda t: t.update({Q + "_scale_inv": torch.ones(1)}), "belongs to quantised weights"),
        (lambda t: t.update({"model.layers.0.shared_mlp.up.weight": torch.ones(1)}), "shared_mlp"),
    ],
)
def test_other_tensors(src, tmp_path, capsys, change, message):
    edit_shard(src, change, shard_of(src, EMBED))
    assert message in refused_patch(capsys, src, tmp_path / "dst")


def test_a_tensor_in_two_files(src, tmp_path, capsys):
    other = shard_of(src, EMBED) % 3 + 1
    edit_shard(src, lambda tensors: tensors.update({EMBED: torch.zeros(128, 48)}), other)
    assert f"{EMBED} is in both" in refused_patch(capsys, src, tmp_path / "dst")


def test_no_weights_pickles_and_two_sets(src, tmp_path, capsys):
    (src / "model.safetensors").write_bytes(b"")
    assert "remove one" in refused_patch(capsys, src, tmp_path / "dst")
    for path in src.glob("model*"):
        path.unlink()
    assert "neither" in refused_patch(capsys, src, tmp_path / "dst")
    (src / "pytorch_model.bin").write_bytes(b"\x80\x02")
    assert "can execute any code" in refused_patch(capsys, src, tmp_path / "dst")


def test_overlapping_folders(src, tmp_path, capsys):
    assert "lies inside" in refused_patch(capsys, src, src / "dst")
    assert "lies inside" in refused_patch(capsys, src, src / "a" / ".." / "dst")
    (tmp_path / "alias").symlink_to(src)
    assert "lies inside" in refused_patch(capsys, src, tmp_path / "alias" / "dst")
    before = snapshot(tmp_path)
    assert "lies inside" in refused(capsys, "patch", src, src)
    assert "contains" in refused(capsys, "patch", src, tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", ["folder", "file", "dangling", "broken config"])
def test_a_foreign_dst_is_kept(src, tmp_path, capsys, kind):
    dst = tmp_path / "dst"
    if kind == "file":
        dst.write_text("mine")
    elif kind == "dangling":
        dst.symlink_to("gone")
    else:
        dst.mkdir()
        (dst / ("config.json" if kind == "broken config" else "notes.txt")).write_text("mine")
    before = snapshot(tmp_path)
    assert "remove it or name another" in refused(capsys, "patch", src, dst)
    assert snapshot(tmp_path) == before and os.path.lexists(dst)


def test_no_space(src, tmp_path, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "sync_file", full)
    assert "no space left" in refused_patch(capsys, src, tmp_path / "dst")
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    assert "0.00 GB free" in refused_patch(capsys, src, tmp_path / "dst", "--copy")


def test_a_dst_that_cannot_be_made(src, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused_patch(capsys, src, tmp_path / "file" / "dst")


@pytest.mark.parametrize(
    "arguments",
    [[], ["patch"], ["patch", "a"], ["patch", "a", "b", "c"], ["patch", "--what", "a", "b"], ["nope"], ["check"]]
    + [["check", "a", "--layers", "x"], ["check", "a", "--layers", "0"], ["check", "a"]],
)
def test_usage_errors(capsys, arguments):
    if arguments:
        refused(capsys, *arguments)
    else:  # help comes along
        assert cli.main(arguments) == 2


def test_patch_and_a_second_run(src, tmp_path, capsys):
    dst = tmp_path / "dst"
    assert cli.main(["patch", str(src), str(dst), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "link   model-00001-of-00003.safetensors" in out and "18,432 bytes of weights written" in out and not err
    assert not dst.exists()
    assert cli.main(["patch", str(src), str(dst)]) == 0
    assert capsys.readouterr() == (f"{dst}\n", "")
    for option in ([], ["--dry-run"], ["--copy"]):
        assert cli.main(["patch", str(src), str(dst), *option]) == 0
        assert "already converted" in capsys.readouterr().err


def test_ctrl_c(src, tmp_path, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "read_bytes", interrupt)
    assert cli.main(["patch", str(src), str(tmp_path / "dst")]) == 130
    assert capsys.readouterr().err == "minimax-nb: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_check_prints_lines_or_json(src, tmp_path, capsys):
    dst = patch_checkpoint(src, tmp_path / "dst")
    assert cli.main(["check", str(dst), "--layers", "1"]) == 0
    out = capsys.readouterr().out
    marks = {line[8:21].strip(): line.split()[0] for line in out.splitlines()}
    assert marks.pop("tokenizer") == "-" and list(marks.values()) == ["ok"] * 7
    assert cli.main(["check", str(dst), "--against", str(src), "--layers", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] and [result["name"] for result in report["results"]][:2] == ["marker", "source"]
    assert cli.main(["check", str(src)]) == 1
    out = capsys.readouterr().out
    assert "no minimax_nb marker" in out and f"minimax-nb patch {src} src-converted" in out


def test_doctor_of_a_folder_that_does_not_exist(tmp_path, capsys):
    line = refused(capsys, "doctor", "--folder", tmp_path / "nope")
    assert "nope is not a folder" in line and "Errno" not in line
    assert "Errno" not in refused(capsys, "doctor", "--json", "--folder", __file__)


def test_help_is_quick_and_imports_no_torch():
    code = "import sys; from minimax_nb import cli; cli.main(['--help']); sys.exit('torch' in sys.modules)"
    root = Path(cli.__file__).parents[1]
    run = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True)
    assert run.returncode == 0 and b"patch" in run.stdout


def test_the_version_is_printed(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"minimax-nb {importlib.metadata.version('minimax-nb')}\n"


@pytest.mark.parametrize("arguments", [["doctor", "--json", "-"], ["check", "DST", "--json", "-", "--layers", "1"]])
def test_json_to_a_dash_is_printed(src, tmp_path, capsys, arguments):
    dst = str(patch_checkpoint(src, tmp_path / "dst"))
    assert cli.main([dst if argument == "DST" else argument for argument in arguments]) == 0
    json.loads(capsys.readouterr().out)


def test_what_the_system_refuses_is_one_line(src, tmp_path, capsys, monkeypatch):
    def refuse(*arguments, **settings):
        raise PermissionError(13, "Permission denied", "weights")

    monkeypatch.setattr("minimax_nb.hardware.report", refuse)
    line = refused(capsys, "doctor")
    assert "Permission denied" in line and "weights" in line
