"""An original MiniMax folder, converted on disk into one that stock Transformers computes right.

Almost all weights stay as they are and are linked; only q_proj and k_proj of the softmax layers get new rows (1.1 of
912 GB) in one new shard. Stock reads every tensor of every file in sorted order and keeps the last, so that shard must
sort last: all weight files are numbered afresh, which also turns a single model.safetensors, which stock would prefer
to any index, into a shard. Rows are moved as bytes: any dtype, one tensor in memory, no torch. SRC is only read.

    folder = patch_checkpoint("MiniMax-Text-01", "MiniMax-Text-01-patched")
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..config import MARKER, patch_config, row_order, verify_frequencies
from ..errors import CheckpointError, ConfigError
from ..terminal import byte_progress
from .folder import (
    FLOATS,
    INDEX,
    Header,
    TensorInfo,
    byte_size,
    check_tensors,
    merge,
    qk_names,
    read_bytes,
    read_config,
    read_headers,
)
from .staging import refuse_overlap, require_space, temporary_folder
from .text_files import convert_tokenizer, to_json

log = logging.getLogger("minimax_nb")
CHUNK = 16 << 20


class Plan(NamedTuple):
    """What a conversion will do, decided before anything is written."""

    src: Path
    dst: Path
    link: bool
    config: dict  # of the converted folder
    files: dict[str, bytes]  # the small files beside it
    headers: dict[Path, Header]  # of the source's weight files, in loading order
    permuted: list[str]  # tensors that get new rows; none where whole heads rotate

    @property
    def tensors(self) -> Header:
        return merge(self.headers)

    @property
    def bytes_to_write(self) -> int:
        """Of weights; the small files are not counted."""
        if self.link:
            tensors = self.tensors
            return byte_size(tensors[name] for name in self.permuted)
        return sum(path.stat().st_size for path in self.headers)


def patch_checkpoint(src: str | Path, dst: str | Path, *, link: bool = True) -> Path:
    """Write the converted folder `dst` for the original folder `src` and return its path.

    With `link`, unchanged weights are relative symlinks to the original files (hard links or, at last, copies where
    the file system refuses them); without it every tensor is written once and `dst` stands alone. A `dst` already made
    from this `src` is left as it is. Raises ConfigError or CheckpointError; `dst` is then absent, or as it was.
    """
    plan = plan_conversion(src, dst, link=link)
    if not is_finished(plan):
        with temporary_folder(plan.dst) as partial:
            _write(plan, partial)
    return plan.dst


def plan_conversion(src: str | Path, dst: str | Path, *, link: bool = True) -> Plan:
    """Read and check everything that can be checked without writing. Raises ConfigError or CheckpointError."""
    src, dst = Path(src), Path(dst)
    original = read_config(src)
    refuse_overlap(src, dst)
    try:
        config = patch_config(original)
        headers = read_headers(src)
        check_tensors(config, merge(headers, unique=True))
        verify_frequencies(config)
    except ConfigError as error:
        raise ConfigError(f"{src / 'config.json'}: {error}") from None
    if original["model_type"] == "minimax" and original.get("rotary_dim") is None:
        log.warning(
            "%s has no rotary_dim: taking it that whole heads rotate; Text-01 and M1 need 64", src / "config.json"
        )
    permuted = qk_names(config) if config[MARKER]["rotary_dim"] < config["head_dim"] else []
    plan = Plan(src, dst, link, config, convert_tokenizer(src, original), headers, permuted)
    config[MARKER]["source"] = _fingerprint(plan)
    return plan


def is_finished(plan: Plan) -> bool:
    """Whether DST was already made from this SRC; a foreign or damaged DST is an error, an empty folder is not."""
    dst = plan.dst
    if not os.path.lexists(dst) or (dst.is_dir() and not any(dst.iterdir())):
        return False
    try:
        marker = read_config(dst).get(MARKER)
    except CheckpointError:
        marker = None
    if not isinstance(marker, dict) or marker.get("source") != plan.config[MARKER]["source"]:
        raise CheckpointError(f"{dst} exists and was not made from {plan.src} as it is now: remove it or name another")
    try:
        read_headers(dst)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {dst} is incomplete, remove it and convert again") from None
    log.info("%s is already converted from %s: nothing to do", dst, plan.src)
    return True


def describe(plan: Plan) -> list[str]:
    """What a conversion would read, link and write, one line each."""
    total = sum(path.stat().st_size for path in plan.headers)
    verb = "link" if plan.link else "copy"
    lines = [f"read   {plan.src}: {len(plan.headers)} weight files, {total:,} bytes", f"write  {plan.dst}"]
    names = shard_names(len(plan.headers) + bool(plan.link and plan.permuted))
    for path, name in zip(plan.headers, names, strict=False):
        lines.append(f"{verb}   {path.name} as {name}: {path.stat().st_size:,} bytes")
    if plan.permuted:
        place = names[-1] if plan.link else "the copies"
        lines.append(f"write  {len(plan.permuted)} q_proj and k_proj with new rows, into {place}")
    lines += [f"write  {name}: {len(content):,} bytes" for name, content in sorted(plan.files.items())]
    return [*lines, "write  config.json and the index", f"total  {plan.bytes_to_write:,} bytes of weights written"]


def permute(weight, head_dim: int, rotary_dim: int):
    """Rows of a q_proj or k_proj (heads * head_dim, columns), tensor or array, from the original to stock's order."""
    return _take_rows(weight, row_order(head_dim, rotary_dim))


def unpermute(weight, head_dim: int, rotary_dim: int):
    """The inverse of `permute`."""
    order = row_order(head_dim, rotary_dim)
    return _take_rows(weight, sorted(range(head_dim), key=order.__getitem__))


def shard_names(count: int) -> list[str]:
    """File names that sort in the order given, as Transformers numbers its own shards."""
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def _write(plan: Plan, partial: Path) -> None:
    """Fill the temporary folder; config.json comes last."""
    require_space(plan.dst.parent, plan.bytes_to_write)
    if plan.link and not _link_weights(plan, partial):
        plan = plan._replace(link=False)
        log.warning("links are refused in %s: copying %.2f GB", plan.dst.parent, plan.bytes_to_write / 1e9)
        require_space(plan.dst.parent, plan.bytes_to_write)
    names = shard_names(len(plan.headers) + bool(plan.link and plan.permuted))
    file_of = dict(zip(plan.headers, names, strict=False))
    weight_map = {name: file_of[info.file] for name, info in plan.tensors.items()}
    with byte_progress(plan.bytes_to_write) as advance:
        if not plan.link:
            for path, name in file_of.items():
                _copy_shard(plan, path, partial / name, advance)
        elif plan.permuted:
            _write_shard(plan, partial / names[-1], advance)
            weight_map |= dict.fromkeys(plan.permuted, names[-1])
    index = {"metadata": {"total_size": byte_size(plan.tensors.values())}, "weight_map": weight_map}
    for name, content in {INDEX: to_json(index), **plan.files, "config.json": to_json(plan.config)}.items():
        (partial / name).parent.mkdir(exist_ok=True)
        (partial / name).write_bytes(content)


def _link_weights(plan: Plan, partial: Path) -> bool:
    """Link every weight file under its new name; False, and nothing left, where the file system refuses links."""
    place = plan.dst.parent.resolve() / plan.dst.name
    names = shard_names(len(plan.headers) + bool(plan.permuted))
    links = {partial / name: path.resolve() for name, path in zip(names, plan.headers, strict=False)}
    for make in (lambda target, link: _symlink(target, link, place), os.link):
        try:
            for link, target in links.items():
                make(target, link)
            return True
        except OSError:
            for link in links:
                link.unlink(missing_ok=True)
    return False


def _symlink(target: Path, link: Path, place: Path) -> None:
    """A link that holds once its folder is renamed to `place`: relative on one volume, so both can move."""
    together = target.stat().st_dev == link.parent.stat().st_dev
    os.symlink(os.path.relpath(target, place) if together else target, link)


def _copy_shard(plan: Plan, path: Path, copy: Path, advance: Callable[[int], None]) -> None:
    """Copy one weight file and reorder the rows of its q and k tensors in the copy."""
    with path.open("rb") as source, copy.open("xb") as target:
        while chunk := source.read(CHUNK):
            target.write(chunk)
            advance(len(chunk))
        for name in sorted(plan.headers[path].keys() & set(plan.permuted)):
            info = plan.headers[path][name]
            target.seek(info.start)
            target.write(_permuted_bytes(plan.config, info))
        _sync(target)


def _write_shard(plan: Plan, path: Path, advance: Callable[[int], None]) -> None:
    """A safetensors file of the permuted tensors, one in memory at a time."""
    tensors = plan.tensors
    # Wide dtypes first, as the format's own writer does, so that every tensor starts at a multiple of its size.
    names = sorted(plan.permuted, key=lambda name: (-FLOATS[tensors[name].dtype], name))
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        info = tensors[name]
        size = info.end - info.start
        header[name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(_permuted_bytes(plan.config, tensors[name]))
            advance(tensors[name].end - tensors[name].start)
        _sync(file)


def _permuted_bytes(config: dict, info: TensorInfo) -> memoryview:
    import numpy as np

    rows = np.frombuffer(read_bytes(info), np.uint8).reshape(info.shape[0], -1)
    return permute(rows, config["head_dim"], config[MARKER]["rotary_dim"]).data


def _take_rows(weight, order: list[int]):
    return weight.reshape(-1, len(order), weight.shape[-1])[:, order].reshape(weight.shape)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())  # before the rename, so that a power cut leaves no finished-looking folder


def _fingerprint(plan: Plan) -> str:
    """Identifies the source by everything but the inside of its weight files, of which a sample must do."""
    digest = hashlib.sha256(to_json(plan.config))
    for name, content in sorted(plan.files.items()):
        digest.update(f"\n{name} {len(content)}\n".encode() + content)
    for path in plan.headers:
        size = path.stat().st_size
        digest.update(f"\n{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for at in (0, size // 2, max(size - (1 << 16), 0)):
                file.seek(at)
                digest.update(file.read(1 << 16))
    return f"sha256:{digest.hexdigest()}"
