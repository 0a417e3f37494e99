"""Folders written all or nothing: one writer at a time, full disks, mount points, modes, parents, leftovers."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from originals import original_config, original_weights, write_original

import minimax_nb
from minimax_nb.checkpoint import convert, patch_checkpoint, shards, staging
from minimax_nb.checkpoint.folder import INDEX, read_headers
from minimax_nb.checkpoint.staging import one_writer, temporary_folder
from minimax_nb.errors import CheckpointError


@pytest.fixture(scope="module")
def src(tmp_path_factory) -> Path:
    """Three shards; tests must not change it."""
    config = original_config()
    return write_original(tmp_path_factory.mktemp("original") / "src", config, original_weights(config))


def write(dst: Path, text: str = "done") -> None:
    with one_writer(dst), temporary_folder(dst) as partial:
        (partial / "file").write_text(text)


def fail(dst: Path) -> None:
    with pytest.raises(ZeroDivisionError), one_writer(dst), temporary_folder(dst) as partial:
        (partial / "nested").mkdir()
        (partial / "nested/file").write_text("half")
        raise ZeroDivisionError


# One writer


def test_threads_into_one_folder_all_return_it(src, tmp_path, monkeypatch):
    writers, returned, write = [], [], convert._write

    def counted(plan, partial):
        writers.append(partial)
        write(plan, partial)

    monkeypatch.setattr(convert, "_write", counted)
    runs = [threading.Thread(target=lambda: returned.append(patch_checkpoint(src, tmp_path / "dst"))) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert returned == [tmp_path / "dst"] * 4 and len(writers) == 1
    assert len(read_headers(tmp_path / "dst")) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["dst"]


def test_processes_into_one_folder_all_return_it(src, tmp_path):
    """As the ranks of torchrun do."""
    code = f"from minimax_nb.checkpoint import patch_checkpoint as p; print(p({str(src)!r}, 'dst', link=False))"
    environment = os.environ | {"PYTHONPATH": str(Path(minimax_nb.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    runs = [subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) for _ in range(3)]
    assert [run.communicate()[0].strip() for run in runs] == [b"dst"] * 3
    assert len(read_headers(tmp_path / "dst")) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["dst"]


def test_who_waited_for_a_run_that_failed_writes(tmp_path):
    dst, entered, waiting = tmp_path / "dst", threading.Event(), threading.Event()

    def failing():
        with pytest.raises(ZeroDivisionError), one_writer(dst), temporary_folder(dst):
            entered.set()
            waiting.wait(10)
            raise ZeroDivisionError

    first = threading.Thread(target=failing)
    first.start()
    entered.wait(10)
    second = threading.Thread(target=write, args=[dst])
    second.start()
    second.join(0.3)
    assert second.is_alive() and not dst.exists()
    waiting.set()
    first.join()
    second.join()
    assert (dst / "file").read_text() == "done"
    assert [path.name for path in tmp_path.iterdir()] == ["dst"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_written_all_the_same(tmp_path, monkeypatch, caplog, number):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    leftover = tmp_path / ".dst.partial-0123456789ab"
    leftover.mkdir()
    write(tmp_path / "dst")
    assert "only one conversion into it at a time" in caplog.text
    assert (tmp_path / "dst/file").is_file()
    assert leftover.is_dir()  # it may belong to a run that is alive


def test_a_lock_that_may_not_be_made_is_one_line(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(CheckpointError, match="dst cannot be written .*choose another place"):
        write(tmp_path / "dst")


# What was there


@pytest.mark.parametrize("name", ["0123456789ab", "ffffffffffff"])
def test_leftovers_of_killed_runs_are_removed(tmp_path, name):
    (tmp_path / f".dst.partial-{name}/nested").mkdir(parents=True)
    write(tmp_path / "dst")
    assert [path.name for path in tmp_path.iterdir()] == ["dst"]


@pytest.mark.parametrize("name", [".dst.partial-²", ".dst.partial-", ".dst.partial-x.partial-0123456789ab", ".dst.x"])
def test_what_only_looks_like_a_leftover_stays(tmp_path, name):
    (tmp_path / name).mkdir()
    write(tmp_path / "dst")
    assert (tmp_path / name).is_dir()


@pytest.mark.parametrize("how", [write, fail])
def test_an_empty_folder_keeps_its_mode(tmp_path, how):
    dst = tmp_path / "dst"
    dst.mkdir()
    dst.chmod(0o2750)
    how(dst)
    assert stat.S_IMODE(dst.stat().st_mode) == 0o2750
    assert [path.name for path in dst.iterdir()] == ([] if how is fail else ["file"])
    assert [path.name for path in tmp_path.iterdir()] == ["dst"]


@pytest.mark.parametrize("how", [write, fail])
def test_a_link_to_an_empty_folder_is_filled_where_it_leads(tmp_path, how):
    (tmp_path / "disk/real").mkdir(parents=True)
    (tmp_path / "dst").symlink_to("disk/real")
    how(tmp_path / "dst")
    assert (tmp_path / "dst").is_symlink()
    assert [path.name for path in (tmp_path / "disk/real").iterdir()] == ([] if how is fail else ["file"])
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real"]


def test_links_hold_behind_a_linked_destination(src, tmp_path):
    (tmp_path / "far/away/real").mkdir(parents=True)
    (tmp_path / "dst").symlink_to("far/away/real")
    assert len(read_headers(patch_checkpoint(src, tmp_path / "dst"))) == 4


def test_a_mount_point_is_refused_before_anything_is_written(src, tmp_path, monkeypatch):
    dst = tmp_path / "dst"
    dst.mkdir()
    monkeypatch.setattr(shards, "link_weights", None)
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "ismount", lambda path: Path(path) == dst)
        with pytest.raises(CheckpointError, match="is a mount point"):
            patch_checkpoint(src, dst)

    def busy(self, target):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", busy)  # a bind mount, which only the system knows
    with pytest.raises(CheckpointError, match="is a mount point"):
        patch_checkpoint(src, dst)
    assert dst.is_dir() and [path.name for path in tmp_path.iterdir()] == ["dst"]


@pytest.mark.parametrize("stands", [False, True])
def test_parents_made_for_a_run_that_failed_go_again(tmp_path, stands):
    if stands:
        (tmp_path / "a").mkdir()
        (tmp_path / "a/other").write_text("")
    fail(tmp_path / "a/b/c/dst")
    assert [path.name for path in tmp_path.rglob("*")] == (["a", "other"] if stands else [])
    write(tmp_path / "a/b/c/dst")
    assert (tmp_path / "a/b/c/dst/file").is_file()


def test_parents_go_after_a_refusal(src, tmp_path, monkeypatch):
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: staging.shutil._ntuple_diskusage(1000, 1000, 10))
    with pytest.raises(CheckpointError, match="GB are needed"):
        patch_checkpoint(src, tmp_path / "a/b/dst")
    assert not list(tmp_path.iterdir())


# Full disks, power cuts


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["symlink", "fsync"])
def test_a_full_disk_is_called_full(src, tmp_path, monkeypatch, number, call):
    def full(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(CheckpointError, match="no space left"):
        patch_checkpoint(src, tmp_path / "dst")
    assert not list(tmp_path.iterdir())


def test_no_inodes_left_is_not_taken_for_refused_links(src, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    status = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "symlink", full)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result([*status[:5], 1000, 0, 0, *status[8:]]))
    with pytest.raises(CheckpointError, match="no inodes left"):
        patch_checkpoint(src, tmp_path / "dst")


@pytest.mark.parametrize("link", [True, False])
def test_what_is_written_is_on_the_disk_before_it_has_its_name(src, tmp_path, monkeypatch, link):
    """A power cut after the rename must not leave a finished-looking folder."""
    synced, fsync = {}, os.fsync

    def noted(descriptor):
        synced[os.fstat(descriptor).st_ino] = (tmp_path / "dst").exists()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    dst = patch_checkpoint(src, tmp_path / "dst", link=link)
    written = [path for path in (dst, *dst.rglob("*")) if not path.is_symlink()]
    assert {dst / INDEX, dst / "config.json"} <= {*written}
    assert [path for path in written if synced.get(path.stat().st_ino) is not False] == []
