"""Weight files of a folder that is converted or restored: linked, copied, or written with rows in another order.

Rows are moved as bytes: any dtype, one tensor in memory, no torch.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..config import MARKER, row_order
from ..errors import CheckpointError
from .files import readable
from .folder import FLOATS, Header, TensorInfo, read_bytes, read_headers, refuse_stray_weights
from .staging import FULL, sync_file

CHUNK = 16 << 20
Advance = Callable[[int], None]  # told how many bytes were written
WAIT = "wait until nothing writes to it, and convert again"


def permute(weight, head_dim: int, rotary_dim: int):
    """Rows of a q_proj or k_proj, from the original to stock's order.

    `weight` is a tensor or array of (heads * head_dim, columns).
    """
    return _take_rows(weight, row_order(head_dim, rotary_dim))


def unpermute(weight, head_dim: int, rotary_dim: int):
    """The inverse of `permute`."""
    order = row_order(head_dim, rotary_dim)
    return _take_rows(weight, sorted(range(head_dim), key=order.__getitem__))


def require_whole(dst: Path, again: str) -> None:
    """CheckpointError if the weight files of `dst` are not as they were made; `again` is what to do once more."""
    try:
        read_headers(dst)
        refuse_stray_weights(dst)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {dst} is not as it was made, remove it and {again} again") from None


def shard_names(count: int) -> list[str]:
    """File names that sort in the order given, as Transformers numbers its own shards."""
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def link_weights(links: dict[Path, Path], place: Path) -> bool:
    """Make `links`, link -> target; False, and nothing left, where the file system refuses links.

    The links' folder will be renamed to `place`. Hard links are second best: they keep both folders on one volume.
    """
    for make in (lambda target, link: _symlink(target, link, place), os.link):
        try:
            for link, target in links.items():
                make(target, link)
            return True
        except OSError as error:
            if error.errno in FULL:  # links are not refused, there is no room for them
                raise
            for link in links:
                link.unlink(missing_ok=True)
    return False


def copy_shard(path: Path, copy: Path, permuted: Header, config: dict, advance: Advance) -> None:
    """Copy one weight file, then write its `permuted` tensors again, with their rows in stock's order."""
    size, copied = path.stat().st_size, 0
    with copy.open("xb") as target:
        for chunk in _chunks(path):
            target.write(chunk)
            copied += len(chunk)
            advance(len(chunk))
        if copied != size:
            raise CheckpointError(f"{path} had {size:,} bytes and gave {copied:,}: {WAIT}")
        for info in permuted.values():
            target.seek(info.start)
            target.write(permuted_bytes(info, config))
        sync_file(target)


def write_shard(path: Path, tensors: Header, content: Callable[[str], bytes], advance: Advance) -> None:
    """A safetensors file of `tensors`, whose bytes `content` gives by name: one in memory at a time."""
    # Wide dtypes first, as the format's own writer does, so that each tensor starts at a multiple of its size.
    names = sorted(tensors, key=lambda name: (-FLOATS[tensors[name].dtype], name))
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        info = tensors[name]
        header[name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": [at, at + info.size]}
        at += info.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(content(name))
            advance(tensors[name].size)
        sync_file(file)


def permuted_bytes(info: TensorInfo, config: dict, reorder: Callable = permute) -> memoryview:
    """The bytes of one q_proj or k_proj, its rows in stock's order, or with `unpermute` in the original's."""
    import numpy as np

    rows = np.frombuffer(read_bytes(info), np.uint8).reshape(info.shape[0], -1)
    return reorder(rows, config["head_dim"], config[MARKER]["rotary_dim"]).data


def _chunks(path: Path) -> Iterator[bytes]:
    with readable(path), path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _symlink(target: Path, link: Path, place: Path) -> None:
    """A link that holds once its folder is renamed to `place`: relative on one volume, so both can move."""
    together = target.stat().st_dev == link.parent.stat().st_dev
    os.symlink(os.path.relpath(target, place) if together else target, link)


def _take_rows(weight, order: list[int]):
    return weight.reshape(-1, len(order), weight.shape[-1])[:, order].reshape(weight.shape)
