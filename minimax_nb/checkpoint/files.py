"""One file of a folder from outside, read with care: what is wrong with it is a CheckpointError."""

import json
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError

DOWNLOAD = "download the file again"
DEPTH = 100  # of nested JSON; deeper, Python's own reader and writer reach their limits at different places
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # half of a pair can be read, but not written as UTF-8


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """For reading `path` and nothing else: rights that lack, a broken disk, too little memory to map it."""
    try:
        yield
    except OSError as error:
        fix = "make it readable, or download it again"
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}): {fix}") from None


def file_state(path: Path) -> tuple:
    """Size, time of change and inode: what differs once a file was edited or replaced."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def require_file(path: Path) -> None:
    """`path` must be there; what cannot be looked at is not called missing."""
    try:
        found = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        if path.is_symlink():
            target = path.readlink()
            raise CheckpointError(
                f"{path} is a dangling link to {target}: restore that file, or convert again"
            ) from None
        raise CheckpointError(f"{path} is missing: complete the download") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): make it readable") from None
    if not found:
        raise CheckpointError(f"{path} is not a file: {DOWNLOAD}")


def read_json(path: Path) -> dict:
    """A JSON file that must hold an object which can be written again."""
    with readable(path):
        text = path.read_bytes()
    try:
        value = json.loads(text.decode("utf-8"))
        if SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        if _is_deeper(value, DEPTH):
            raise ValueError(f"nested more than {DEPTH} deep")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}): {DOWNLOAD}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not a JSON object: {DOWNLOAD}")
    return value


def _is_deeper(value, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        nested = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in nested for child in (item.values() if isinstance(item, dict) else item)]
    return bool(level)
