"""Writing a folder all or nothing: beside its destination first, renamed at the end, removed after any error.

It knows nothing of what is written. One run at a time writes a destination; others wait, on other machines
too where the disk is shared. A run that is killed leaves a hidden `.NAME.partial-...` and `.NAME.lock`, never
a NAME; the next run removes them.

    refuse_overlap(src, dst)
    written_once(dst, lambda: not is_free(dst), lambda partial: (partial / "config.json").write_text("{}"))
"""

import errno
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import CheckpointError

log = logging.getLogger("minimax_nb")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)  # file systems that cannot lock


def final_place(dst: Path) -> Path:
    """Where `dst` will really be: its target, if it is a link, while that is moved aside too."""
    return dst.resolve()


@contextmanager
def one_writer(dst: Path) -> Iterator[None]:
    """Hold the only right to write `dst`, waiting for it first. Parents made for a run that fails go again."""
    from filelock import FileLock

    place = final_place(dst)
    lock = FileLock(place.parent / f".{place.name}.lock")
    with _parents(place.parent, dst):
        with explained(dst):
            locked = _acquire(lock, dst)
        try:
            if locked:
                _remove_leftovers(place)
            yield
        finally:
            if locked:
                with suppress(OSError):  # Windows removes it when it is released
                    os.unlink(lock.lock_file)
                lock.release()


@contextmanager
def temporary_folder(dst: Path) -> Iterator[Path]:
    """A folder beside `dst` that becomes `dst` at the end, and is gone after any error.

    If `dst` is an empty folder, it is that folder that is filled, so that its mode and owner stay. A mount point
    cannot be moved, which is found out here, before anything is written.
    """
    place = final_place(dst)
    partial = place.parent / f"{_partial_prefix(place)}{uuid.uuid4().hex[:12]}"
    was_empty = place.is_dir() and not any(place.iterdir())
    try:
        with explained(dst):  # while what was written is still there: then it is known what is used up
            if was_empty:
                _move_aside(place, partial, dst)
            else:
                partial.mkdir()
            yield partial
            sync_folder(partial)
            partial.rename(place)
            sync_folder(place.parent)
    finally:
        if partial.is_dir():  # something failed
            _clear(partial)
            if was_empty:
                partial.rename(place)
            else:
                shutil.rmtree(partial, ignore_errors=True)


def written_once(dst: Path, is_made: Callable[[], bool], write: Callable[[Path], None]) -> bool:
    """Let `write` fill a temporary folder that becomes `dst`, unless `dst` is made; whether it was not.

    is_made says whether a whole `dst` is there, and raises CheckpointError for one that is something else. It is asked
    again as the only writer, because another run may have written `dst` meanwhile.
    """
    if is_made():
        return False
    with one_writer(dst):
        if not is_made():
            with temporary_folder(dst) as partial:
                write(partial)
    return True


def is_free(dst: Path) -> bool:
    """Whether nothing is at `dst`, or an empty folder."""
    return not os.path.lexists(dst) or (dst.is_dir() and not any(dst.iterdir()))


def made_from_another(dst: Path, src: Path) -> CheckpointError:
    return CheckpointError(f"{dst} exists and was not made from {src} as it is now: remove it or name another")


@contextmanager
def explained(dst: Path) -> Iterator[None]:
    """What the file system refuses, as a CheckpointError of one line that says what to do."""
    try:
        yield
    except OSError as error:
        folder = next(path for path in final_place(dst).parents if path.exists())
        if error.errno in FULL:
            what = "no inodes left" if _has_no_inodes(folder) else "no space left"
            raise CheckpointError(f"{what} in {folder} while writing ({error.strerror}): free some") from None
        raise CheckpointError(f"{dst} cannot be written ({error}): choose another place") from None


def sync_file(file) -> None:
    """Write an open file to the disk: a power cut after the rename must leave no finished-looking folder."""
    file.flush()
    os.fsync(file.fileno())


def write_file(path: Path, content: bytes) -> None:
    """Write a new file, down to the disk."""
    with path.open("xb") as file:
        file.write(content)
        sync_file(file)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, where the system can."""
    with suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def refuse_overlap(src: Path, dst: Path) -> None:
    inner, outer = dst.resolve(), src.resolve()
    if inner == outer or outer in inner.parents:
        raise CheckpointError(f"{dst} lies inside {src}, which is never written to: name a folder beside it")
    if inner in outer.parents:
        raise CheckpointError(f"{dst} contains {src}: name a folder beside it")


def refuse_mount_point(dst: Path) -> None:
    """A folder is written beside `dst` and renamed, and nothing can be renamed to a mount point."""
    if os.path.ismount(dst):
        raise CheckpointError(f"{dst} is a mount point: name a folder inside it")


def require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{folder} has {free / 1e9:.2f} GB free, {needed / 1e9:.2f} GB are needed: free some space"
        )


def _acquire(lock, dst: Path) -> bool:
    """Whether the lock is held; False where the file system has none, and only unique names keep runs apart."""
    from filelock import Timeout

    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            log.info("another run is writing %s: waiting for it", dst)
            lock.acquire()
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        advice = "start only one conversion into it at a time"
        log.warning("%s cannot be locked (%s): %s", dst, error.strerror, advice)
        return False


@contextmanager
def _parents(folder: Path, dst: Path) -> Iterator[None]:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with explained(dst):
            folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):  # not empty: someone else uses it
                path.rmdir()
        raise


def _move_aside(place: Path, partial: Path, dst: Path) -> None:
    try:
        place.rename(partial)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EXDEV):
            raise CheckpointError(f"{dst} is a mount point: name a folder inside it") from None
        raise


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _has_no_inodes(folder: Path) -> bool:
    with suppress(OSError, AttributeError):  # no statvfs on Windows
        status = os.statvfs(folder)
        return status.f_files > 0 and status.f_favail == 0
    return False


def _partial_prefix(place: Path) -> str:
    return f".{place.name}.partial-"


def _remove_leftovers(place: Path) -> None:
    """Remove what killed runs left beside `place`. Whoever holds the lock is the only one to write there."""
    leftover = re.compile(re.escape(_partial_prefix(place)) + "[0-9a-f]{12}")
    for path in place.parent.iterdir():
        if leftover.fullmatch(path.name):
            log.info("removing %s, left by a run that was killed", path)
            shutil.rmtree(path, ignore_errors=True)
