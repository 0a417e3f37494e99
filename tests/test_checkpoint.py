"""patch_checkpoint: stock Transformers on the result against the float64 yardstick, and all that can go wrong."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from originals import original_config, original_weights, relative_error, write_original, yardstick
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_config import renamed_config

from minimax_nb import terminal as progress
from minimax_nb.checkpoint import convert as checkpoint
from minimax_nb.checkpoint import patch_checkpoint, shards, staging
from minimax_nb.checkpoint.folder import INDEX
from minimax_nb.checkpoint.shards import permute, unpermute
from minimax_nb.config import MARKER, patch_config
from minimax_nb.errors import CheckpointError

IDS = torch.randint(128, (1, 40), generator=torch.Generator().manual_seed(1))
QK = ["model.layers.7.self_attn.q_proj.weight", "model.layers.7.self_attn.k_proj.weight"]


def stock_logits(folder: Path, ids=IDS, dtype=torch.float32, attention="eager") -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    with torch.no_grad():
        return model(ids, use_cache=False).logits[0]


def make(folder: Path, shards: int = 3, **changes) -> tuple[Path, dict, dict]:
    config = original_config(**changes)
    weights = original_weights(config)
    return write_original(folder, config, weights, shards), config, weights


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> tuple[Path, dict, dict]:
    """Three shards; tests must not change it."""
    return make(tmp_path_factory.mktemp("original") / "src")


CASES = {
    "quarter": dict(rotary_dim=4, rope_theta=1e6),
    "half": dict(rotary_dim=8, shards=1),
    "half, short base": dict(rotary_dim=8, rope_theta=1e4, shards=5),
    "three quarters": dict(rotary_dim=12, rope_theta=5e5, shards=1),
    "whole": dict(rotary_dim=16, rope_theta=1e5),
    "whole, one file": dict(rotary_dim=16, shards=1),
    "M1": dict(model_type="minimax_m1", architectures=["MiniMaxM1ForCausalLM"]),
    "one KV head": dict(num_key_value_heads=1, head_dim=24, rotary_dim=12),
    "no groups": dict(num_attention_heads=8, num_key_value_heads=8, head_dim=8, rotary_dim=4, num_local_experts=3),
    "lost pair": dict(head_dim=44, rotary_dim=30),
    "two softmax layers first": dict(num_hidden_layers=3, attn_type_list=[1, 1, 0], rotary_dim=4, rope_theta=1e4),
    "16 layers": dict(num_hidden_layers=16, hidden_size=32, intermediate_size=16, shards=7),
}


@pytest.mark.parametrize("case", CASES)
def test_stock_transformers_computes_the_converted_folder_right(tmp_path, case):
    src, config, weights = make(tmp_path / "src", **CASES[case])
    dst = patch_checkpoint(src, tmp_path / "dst")
    want = yardstick(config, weights, IDS.tolist())[0]
    for attention in ("eager", "sdpa"):
        assert relative_error(stock_logits(dst, attention=attention), want) < 1e-5
    if config["rotary_dim"] < config["head_dim"]:
        assert relative_error(stock_logits(half_converted(src, config)), want) > 5e-2


def half_converted(src: Path, config: dict) -> Path:
    """Only the keys renamed, as guides do it: whole heads rotate."""
    native = patch_config(config) | {"rope_parameters": {"rope_type": "default", "rope_theta": config["rope_theta"]}}
    folder = shutil.copytree(src, src.parent / "half")
    (folder / "config.json").write_text(json.dumps(native))
    return folder


def test_longer_than_a_lightning_block(original, tmp_path):
    src, config, weights = original
    ids = torch.randint(128, (1, 300), generator=torch.Generator().manual_seed(2))
    want = yardstick(config, weights, ids.tolist())[0]
    assert relative_error(stock_logits(patch_checkpoint(src, tmp_path / "dst"), ids), want) < 1e-5


def test_a_new_shard_that_sorts_first_is_overridden(original, tmp_path):
    """Why the new shard is the last one: Transformers reads all tensors of all files, and the last one wins."""
    src, config, weights = original
    dst = patch_checkpoint(src, tmp_path / "dst")
    (dst / "model-00004-of-00004.safetensors").rename(dst / "model-00000-of-00004.safetensors")
    index = (dst / INDEX).read_text().replace("model-00004", "model-00000")
    (dst / INDEX).write_text(index)
    assert relative_error(stock_logits(dst), yardstick(config, weights, IDS.tolist())[0]) > 5e-2


def test_links_and_copies_give_the_same_bits(original, tmp_path):
    src, config, weights = original
    linked, copied = patch_checkpoint(src, tmp_path / "linked"), patch_checkpoint(src, tmp_path / "copied", link=False)
    assert torch.equal(stock_logits(linked), stock_logits(copied))
    assert [p.is_symlink() for p in sorted(linked.glob("*.safetensors"))] == [True, True, True, False]
    assert not any(p.is_symlink() for p in copied.iterdir())
    tensors = {}
    for path in copied.glob("*.safetensors"):
        part = load_file(path)
        assert not tensors.keys() & part.keys()
        tensors |= part
    assert tensors.keys() == weights.keys()
    for name, tensor in weights.items():
        want = permute(tensor, 16, 8) if name in QK else tensor
        assert torch.equal(tensors[name], want)
    assert torch.equal(unpermute(tensors[QK[0]], 16, 8), weights[QK[0]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes_are_kept(tmp_path, dtype):
    config = original_config()
    weights = {name: tensor.to(dtype) for name, tensor in original_weights(config).items()}
    dst = patch_checkpoint(write_original(tmp_path / "src", config, weights), tmp_path / "dst")
    shard = load_file(dst / "model-00004-of-00004.safetensors")
    assert {tensor.dtype for tensor in shard.values()} == {dtype}
    assert relative_error(stock_logits(dst), yardstick(config, weights, IDS.tolist())[0]) < 1e-5


def test_mixed_dtypes(tmp_path):
    config = original_config(num_key_value_heads=1)
    weights = original_weights(config)
    weights[QK[1]] = weights[QK[1]].bfloat16()
    dst = patch_checkpoint(write_original(tmp_path / "src", config, weights), tmp_path / "dst")
    assert relative_error(stock_logits(dst), yardstick(config, weights, IDS.tolist())[0]) < 1e-5


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    "config", [renamed_config(), original_config(model_type="minimax"), renamed_config(attn_type_list=[0] * 7 + [1])]
)
def test_hf_and_half_renamed_folders(tmp_path, config, shards):
    weights = original_weights(original_config())
    dst = patch_checkpoint(write_original(tmp_path / "src", config, weights, shards), tmp_path / "dst")
    want = yardstick(original_config(), weights, IDS.tolist())[0]
    assert relative_error(stock_logits(dst), want) < 1e-5


def test_native_without_rotary_dim_is_linked_with_a_warning(tmp_path, caplog):
    config = renamed_config()
    del config["rotary_dim"]
    weights = original_weights(original_config())
    dst = patch_checkpoint(write_original(tmp_path / "src", config, weights), tmp_path / "dst")
    assert "has no rotary_dim" in caplog.text
    assert all(path.is_symlink() for path in dst.glob("*.safetensors"))
    want = yardstick(original_config(rotary_dim=16), weights, IDS.tolist())[0]
    assert relative_error(stock_logits(dst), want) < 1e-5


def test_a_model_saved_by_transformers_converts(tmp_path, original):
    """save_pretrained adds decay buffers; and a converted, saved model keeps its marker and its logits."""
    from transformers import AutoModelForCausalLM

    src, config, weights = original
    dst = patch_checkpoint(src, tmp_path / "dst")
    AutoModelForCausalLM.from_pretrained(dst).save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/config.json").read_text())
    assert saved[MARKER]["qk_rows"] == "permuted"
    assert torch.equal(stock_logits(tmp_path / "saved"), stock_logits(dst))
    with pytest.raises(ValueError, match="already converted"):
        patch_checkpoint(tmp_path / "saved", tmp_path / "twice")


def test_tied_embeddings(tmp_path):
    config = original_config(tie_word_embeddings=True)
    weights = original_weights(config)
    del weights["lm_head.weight"]
    dst = patch_checkpoint(write_original(tmp_path / "src", config, weights), tmp_path / "dst")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    assert relative_error(stock_logits(dst), yardstick(config, weights, IDS.tolist())[0]) < 1e-5


def test_hub_cache_links_are_resolved_and_both_folders_can_move(tmp_path):
    src, config, weights = make(tmp_path / "made", shards=2)
    blobs, snapshots = tmp_path / "hub/blobs", tmp_path / "hub/snapshots/abc"
    blobs.mkdir(parents=True), snapshots.mkdir(parents=True)
    for path in src.iterdir():
        path.rename(blobs / f"blob-{path.name}")
        (snapshots / path.name).symlink_to(Path("../../blobs") / f"blob-{path.name}")
    before = snapshot(tmp_path / "hub")
    dst = patch_checkpoint(snapshots, tmp_path / "hub/work/deep/dst")
    link = dst / "model-00001-of-00003.safetensors"
    assert os.readlink(link) == "../../../blobs/blob-model-00001-of-00002.safetensors"
    (tmp_path / "hub").rename(tmp_path / "moved")
    want = yardstick(config, weights, IDS.tolist())[0]
    assert relative_error(stock_logits(tmp_path / "moved/work/deep/dst"), want) < 1e-5
    shutil.rmtree(tmp_path / "moved/work")
    assert snapshot(tmp_path / "moved") == before


def test_no_code_comes_along_and_the_source_stays(original, tmp_path):
    src = shutil.copytree(original[0], tmp_path / "src")
    (src / "modeling_minimax_text_01.py").write_text("raise SystemExit('executed')")
    before = snapshot(src)
    dst = patch_checkpoint(src, tmp_path / "dst")
    assert snapshot(src) == before
    assert not list(dst.glob("*.py")) and "auto_map" not in (dst / "config.json").read_text()
    assert stock_logits(dst).isfinite().all()


def refuse_links(monkeypatch, *names):
    def refuse(*arguments, **options):
        raise OSError(errno.EPERM, "not permitted")

    for name in names:
        monkeypatch.setattr(os, name, refuse)


def test_hard_links_where_symlinks_are_refused(original, tmp_path, monkeypatch):
    src = shutil.copytree(original[0], tmp_path / "src")
    refuse_links(monkeypatch, "symlink")
    dst = patch_checkpoint(src, tmp_path / "dst")
    assert (dst / "model-00001-of-00004.safetensors").samefile(src / "model-00001-of-00003.safetensors")
    assert relative_error(stock_logits(dst), yardstick(*original[1:], IDS.tolist())[0]) < 1e-5


def test_copies_where_all_links_are_refused(original, tmp_path, monkeypatch, caplog):
    refuse_links(monkeypatch, "symlink", "link")
    dst = patch_checkpoint(original[0], tmp_path / "dst")
    assert "links are refused" in caplog.text
    assert sorted(p.name for p in dst.glob("*.safetensors")) == shards.shard_names(3)
    assert relative_error(stock_logits(dst), yardstick(*original[1:], IDS.tolist())[0]) < 1e-5


@pytest.mark.parametrize("link", [True, False])
def test_a_second_run_changes_nothing(original, tmp_path, caplog, link):
    dst = patch_checkpoint(original[0], tmp_path / "dst", link=link)
    before = {path.name: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in dst.iterdir()}
    caplog.set_level("INFO", "minimax_nb")
    assert patch_checkpoint(original[0], dst, link=link) == dst
    assert "already converted" in caplog.text
    assert {path.name: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in dst.iterdir()} == before


def test_another_or_changed_source_is_not_taken_for_done(original, tmp_path):
    src = shutil.copytree(original[0], tmp_path / "src")
    dst = patch_checkpoint(src, tmp_path / "dst")
    before = (dst / "config.json").read_bytes()
    save_file({n: t + 1 for n, t in load_file(src / "model-00001-of-00003.safetensors").items()}, src / "new")
    (src / "new").replace(src / "model-00001-of-00003.safetensors")
    with pytest.raises(CheckpointError, match="was not made from"):
        patch_checkpoint(src, dst)
    assert (dst / "config.json").read_bytes() == before


def test_a_damaged_finished_folder_is_not_taken_for_done(original, tmp_path):
    src = shutil.copytree(original[0], tmp_path / "src")
    dst = patch_checkpoint(src, tmp_path / "dst")
    (dst / "model-00002-of-00004.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00004.safetensors is missing.*convert again"):
        patch_checkpoint(src, dst)


def flip(path: Path, at: int) -> None:
    """Change one byte, `at` a place counted from the start or, if negative, from the end."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", ["start", "middle", "end"])
@pytest.mark.parametrize("shard", [1, 2, 3])
def test_the_fingerprint_looks_at_all_weight_files_and_not_only_at_their_start(original, tmp_path, shard, place):
    src = shutil.copytree(original[0], tmp_path / "src")
    path = src / f"model-{shard:05d}-of-00003.safetensors"
    size = path.stat().st_size
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    dst = patch_checkpoint(src, tmp_path / "dst", link=False)
    flip(path, {"start": header, "middle": size // 2 + 4, "end": -1}[place])
    with pytest.raises(CheckpointError, match="was not made from"):
        patch_checkpoint(src, dst, link=False)


def test_frequencies_that_stock_would_compute_otherwise_are_refused(original, tmp_path, monkeypatch):
    from minimax_nb import config

    monkeypatch.setattr(config, "stock_frequencies", lambda native: [0.5] * 8)
    with pytest.raises(ValueError, match="config.json: rotary_dim, rope_theta: for pair 0"):
        patch_checkpoint(original[0], tmp_path / "dst")
    assert not list(tmp_path.iterdir())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def replace(path: Path) -> None:
    """Another file of the same size, with the same start, middle and end."""
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    (path.parent / "new").write_bytes(content)
    (path.parent / "new").replace(path)


CHANGES = {
    "cut": lambda src: cut(src / "model-00002-of-00003.safetensors"),
    "replaced": lambda src: replace(src / "model-00002-of-00003.safetensors"),
    "gone": lambda src: (src / "model-00003-of-00003.safetensors").unlink(),
    "config edited": lambda src: (src / "config.json").write_text(
        (src / "config.json").read_text().replace('"rms_norm_eps": 1e-05', '"rms_norm_eps": 1e-06')
    ),
    "generation edited": lambda src: (src / "generation_config.json").write_text('{"temperature": 0.5}'),
}


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_meanwhile_is_noticed(original, tmp_path, monkeypatch, change, link):
    src = shutil.copytree(original[0], tmp_path / "src")
    sync = shards.sync_file

    def changed_before(file):
        monkeypatch.setattr(shards, "sync_file", sync)
        CHANGES[change](src)
        sync(file)

    monkeypatch.setattr(shards, "sync_file", changed_before)
    with pytest.raises(CheckpointError) as error:
        patch_checkpoint(src, tmp_path / "dst", link=link)
    assert str(src) in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_a_source_cut_while_it_is_read_is_noticed(original, tmp_path, monkeypatch):
    src = shutil.copytree(original[0], tmp_path / "src")
    monkeypatch.setattr(checkpoint, "_require_unchanged", lambda plan: None)
    monkeypatch.setattr(shards, "_chunks", lambda path: [path.read_bytes()[:-7]])
    with pytest.raises(CheckpointError, match="and gave .*wait until nothing writes to it"):
        patch_checkpoint(src, tmp_path / "dst", link=False)


def test_what_was_edited_is_kept_and_what_was_lost_is_written_again(original, tmp_path, caplog):
    src = shutil.copytree(original[0], tmp_path / "src")
    (src / "generation_config.json").write_text('{"temperature": 0.5}')
    dst = patch_checkpoint(src, tmp_path / "dst")
    (dst / "generation_config.json").write_text('{"temperature": 0.9}')
    (dst / "README.md").unlink()
    caplog.set_level("INFO", "minimax_nb")
    patch_checkpoint(src, dst)
    assert "it has lost README.md" in caplog.text and "README.md is written again" in caplog.text
    assert json.loads((dst / "generation_config.json").read_text()) == {"temperature": 0.9}
    assert (dst / "README.md").is_file()
    assert not [path.name for path in dst.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("link", [True, False])
def test_the_folder_says_what_it_is(original, tmp_path, link):
    dst = patch_checkpoint(original[0], tmp_path / "dst", link=link)
    text = (dst / "README.md").read_text()
    for words in ("repair_cache()", "python -m minimax_nb.run -m lm_eval", "vLLM and llama.cpp", "`src`", "8 of 16"):
        assert words in text
    assert str(tmp_path) not in text and ("links" in text) == link


def test_a_weight_file_that_may_not_be_read_is_not_called_missing(original, tmp_path, monkeypatch):
    src = shutil.copytree(original[0], tmp_path / "src")
    shard, opened = src / "model-00002-of-00003.safetensors", Path.open

    def refuse(path, *arguments, **options):
        if path == shard:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match=r"00002-of-00003.safetensors cannot be read \(Permission denied\)"):
        patch_checkpoint(src, tmp_path / "dst")


def test_a_folder_that_may_not_be_entered_is_not_called_missing(original, tmp_path, monkeypatch):
    src = shutil.copytree(original[0], tmp_path / "src")
    shard, stat = src / "model-00002-of-00003.safetensors", Path.stat

    def refuse(path, **options):
        if path == shard:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(CheckpointError, match=r"00002-of-00003.safetensors cannot be read \(Permission denied\)"):
        patch_checkpoint(src, tmp_path / "dst")


def test_a_stored_lm_head_beside_a_tied_flag_names_the_flag(tmp_path):
    src = write_original(
        tmp_path / "src", original_config(tie_word_embeddings=True), original_weights(original_config())
    )
    with pytest.raises(CheckpointError, match="lm_head.weight .*tie_word_embeddings .*set it to false"):
        patch_checkpoint(src, tmp_path / "dst")


def test_one_layer(tmp_path):
    config = original_config(num_hidden_layers=1, attn_type_list=[0])
    weights = original_weights(config)
    dst = patch_checkpoint(write_original(tmp_path / "src", config, weights), tmp_path / "dst")
    assert relative_error(stock_logits(dst), yardstick(config, weights, IDS.tolist())[0]) < 1e-5


def test_an_empty_folder_is_filled(original, tmp_path):
    (tmp_path / "dst").mkdir()
    assert (patch_checkpoint(original[0], tmp_path / "dst") / "config.json").is_file()


@pytest.mark.parametrize("link", [True, False])
def test_a_full_disk_leaves_nothing(original, tmp_path, monkeypatch, link):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "sync_file", full)  # the writer's last step, when the data are on their way
    with pytest.raises(CheckpointError, match="no space left"):
        patch_checkpoint(original[0], tmp_path / "dst", link=link)
    assert not list(tmp_path.iterdir())


def test_free_space_is_checked_before_writing(original, tmp_path, monkeypatch):
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(CheckpointError, match="GB free, .* GB are needed"):
        patch_checkpoint(original[0], tmp_path / "dst")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_leaves_nothing(original, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "read_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        patch_checkpoint(original[0], tmp_path / "dst")
    assert not list(tmp_path.iterdir())


STUCK = """
import sys, time
from minimax_nb.checkpoint import convert, shards
shards.sync_file = lambda file: (print("writing", flush=True), time.sleep(60))
convert.patch_checkpoint(sys.argv[1], sys.argv[2])
"""


def test_a_killed_run_leaves_no_dst_and_the_next_one_tidies_up(original, tmp_path):
    dst = tmp_path / "dst"
    root = Path(checkpoint.__file__).parents[2]
    command = [sys.executable, "-c", STUCK, original[0], dst]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(root)})
    assert run.stdout.readline() == b"writing\n"
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    assert sorted(path.name[:13] for path in tmp_path.iterdir()) == [".dst.lock", ".dst.partial-"]
    patch_checkpoint(original[0], dst)
    assert [path.name for path in tmp_path.iterdir()] == ["dst"]


def test_the_new_shard_and_the_index(original, tmp_path):
    """The shard's header is written by hand: the safetensors library must find it whole and aligned."""
    dst = patch_checkpoint(original[0], tmp_path / "dst")
    path = dst / "model-00004-of-00004.safetensors"
    with safe_open(path, "pt") as file:
        assert sorted(file.keys()) == sorted(QK) and file.metadata() == {"format": "pt"}
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0
    index = json.loads((dst / INDEX).read_text())
    assert {index["weight_map"][name] for name in QK} == {path.name}
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in original[2].values())


def test_progress_on_a_terminal(original, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SHOWN_FROM", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert patch_checkpoint(original[0], tmp_path / "linked").is_dir()
    assert patch_checkpoint(original[0], tmp_path / "copied", link=False).is_dir()
