"""An original MiniMax folder, converted on disk into one that stock Transformers computes right.

Almost all weights stay as they are and are linked; only q_proj and k_proj of the softmax layers get new rows (1.1 of
912 GB) in one new shard. Stock reads every tensor of every file in sorted order and keeps the last, so that shard must
sort last: all weight files are numbered afresh, which also turns a single model.safetensors, which stock would prefer
to any index, into a shard. SRC is only read.

    folder = patch_checkpoint("MiniMax-Text-01", "MiniMax-Text-01-patched")
"""

import functools
import hashlib
import logging
import uuid
from pathlib import Path
from typing import NamedTuple

from ..config import MARKER, patch_config, verify_frequencies
from ..errors import CheckpointError, ConfigError
from ..keys import dropped_keys, says_which_code
from ..terminal import byte_progress
from .files import file_state, readable
from .folder import (
    INDEX,
    WRITTEN,
    Header,
    byte_size,
    check_tensors,
    merge,
    qk_names,
    read_config,
    read_headers,
)
from .readme import README, readme
from .shards import WAIT, copy_shard, link_weights, permuted_bytes, require_whole, shard_names, write_shard
from .staging import (
    explained,
    final_place,
    is_free,
    made_from_another,
    refuse_mount_point,
    refuse_overlap,
    require_space,
    write_file,
    written_once,
)
from .text_files import convert_tokenizer, to_json

log = logging.getLogger("minimax_nb")


class Plan(NamedTuple):
    """What a conversion will do, decided before anything is written."""

    src: Path
    dst: Path
    link: bool
    config: dict  # of the converted folder
    files: dict[str, bytes]  # the small files beside it
    headers: dict[Path, Header]  # of the source's weight files, in loading order
    permuted: list[str]  # tensors that get new rows; none where whole heads rotate
    states: dict[Path, tuple]  # of each weight file: its size, time of change and inode

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
    from this `src` keeps what it has, and small files that it lost are written again. Several runs may name one `dst`:
    one writes, the others wait for it. Raises ConfigError or CheckpointError; `dst` is then absent, or as it was.
    """
    plan = plan_conversion(src, dst, link=link)

    def write(partial: Path) -> None:
        _write(plan, partial)
        _require_unchanged(plan)

    written_once(plan.dst, lambda: is_finished(plan), write)
    _write_lost_files(plan)
    return plan.dst


def plan_conversion(src: str | Path, dst: str | Path, *, link: bool = True) -> Plan:
    """Read and check everything that can be checked without writing. Raises ConfigError or CheckpointError."""
    src, dst = Path(src), Path(dst)
    original = read_config(src)
    refuse_overlap(src, dst)
    refuse_mount_point(dst)
    if original.get("model_type") == "minimax" and original.get("rotary_dim") is None and MARKER not in original:
        log.warning(
            "%s has no rotary_dim: taking it that whole heads rotate; Text-01 and M1 need 64", src / "config.json"
        )
    return _plan(src, dst, link)


def _plan(src: Path, dst: Path, link: bool) -> Plan:
    original = read_config(src)
    try:
        config = patch_config(original)
        headers = read_headers(src)
        check_tensors(config, merge(headers, unique=True))
        verify_frequencies(config)
    except ConfigError as error:
        raise ConfigError(f"{src / 'config.json'}: {error}") from None
    permuted = qk_names(config) if config[MARKER]["rotary_dim"] < config["head_dim"] else []
    files = convert_tokenizer(src, original)
    files[README] = readme(src.resolve().name, config, link=link)
    states = {path: file_state(path) for path in headers}
    plan = Plan(src, dst, link, config, files, headers, permuted, states)
    config[MARKER] |= {"source": fingerprint(plan), "dropped": _plain_values(original)}
    return plan


def _plain_values(original: dict) -> dict:
    """What config.json loses on this way and the way back should restore: no lists or objects, and nothing of code."""
    lost = {key: original[key] for key in dropped_keys(original) if not says_which_code(key)}
    return {key: value for key, value in lost.items() if value is None or isinstance(value, str | int | float)}


def is_finished(plan: Plan) -> bool:
    """Whether DST was already made from this SRC; a foreign or damaged DST is an error, an empty folder is not."""
    dst = plan.dst
    if is_free(dst):
        return False
    try:
        marker = read_config(dst).get(MARKER)
    except CheckpointError:
        marker = None
    if not isinstance(marker, dict) or marker.get("source") != plan.config[MARKER]["source"]:
        raise made_from_another(dst, plan.src)
    require_whole(dst, "convert")
    lost = ", ".join(lost_files(plan))
    log.info("%s is already converted from %s: %s", dst, plan.src, f"it has lost {lost}" if lost else "nothing to do")
    return True


def lost_files(plan: Plan) -> list[str]:
    """The small files that a conversion writes and that DST does not have. A file that was edited is not lost."""
    return [name for name in plan.files if not (plan.dst / name).is_file()]


def _write_lost_files(plan: Plan) -> None:
    for name in lost_files(plan):
        path = plan.dst / name
        with explained(plan.dst):
            path.parent.mkdir(exist_ok=True)
            new = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
            try:
                write_file(new, plan.files[name])
                new.replace(path)
            finally:
                new.unlink(missing_ok=True)
        log.info("%s is written again", path)


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
    if left_out := dropped_keys(read_config(plan.src)):
        lines.append(f"leave  {', '.join(left_out)}: keys of config.json that have no meaning there")
    return [*lines, "write  config.json and the index", f"total  {plan.bytes_to_write:,} bytes of weights written"]


def _write(plan: Plan, partial: Path) -> None:
    """Fill the temporary folder; config.json comes last."""
    place = final_place(plan.dst)
    require_space(place.parent, plan.bytes_to_write)
    names = shard_names(len(plan.headers) + bool(plan.link and plan.permuted))
    links = {partial / name: path.resolve() for name, path in zip(names, plan.headers, strict=False)}
    if plan.link and not link_weights(links, place):
        plan = plan._replace(link=False)
        log.warning("links are refused in %s: copying %.2f GB", place.parent, plan.bytes_to_write / 1e9)
        require_space(place.parent, plan.bytes_to_write)
        names = shard_names(len(plan.headers))
    file_of = dict(zip(plan.headers, names, strict=False))
    tensors = plan.tensors
    weight_map = {name: file_of[info.file] for name, info in tensors.items()}
    permuted = {name: tensors[name] for name in plan.permuted}
    with byte_progress(plan.bytes_to_write) as advance:
        if not plan.link:
            for path, name in file_of.items():
                here = {tensor: info for tensor, info in permuted.items() if info.file == path}
                copy_shard(path, partial / name, here, plan.config, advance)
        elif permuted:
            content = functools.partial(_permuted, permuted, plan.config)
            write_shard(partial / names[-1], permuted, content, advance)
            weight_map |= dict.fromkeys(permuted, names[-1])
    metadata = {"total_size": byte_size(tensors.values()), WRITTEN: sorted(plan.files)}
    index = {"metadata": metadata, "weight_map": weight_map}
    for name, content in {INDEX: to_json(index), **plan.files, "config.json": to_json(plan.config)}.items():
        (partial / name).parent.mkdir(exist_ok=True)
        write_file(partial / name, content)


def _permuted(tensors: Header, config: dict, name: str) -> bytes:
    return permuted_bytes(tensors[name], config)


def _require_unchanged(plan: Plan) -> None:
    """Read SRC again: what was written belongs together only if nobody cut, replaced or edited it meanwhile."""
    try:
        now = _plan(plan.src, plan.dst, plan.link)
    except (ConfigError, CheckpointError) as error:
        raise CheckpointError(f"{plan.src} was changed while it was converted ({error}): {WAIT}") from None
    changed = [path.name for path in plan.states if now.states.get(path) != plan.states[path]]
    if changed or now.config != plan.config:
        what = changed[0] if changed else "a small file"
        raise CheckpointError(f"{plan.src} was changed while it was converted ({what}): {WAIT}")


def fingerprint(plan) -> str:
    """Identifies the source by everything but the inside of its weight files, of which a sample must do.

    `plan` is a Plan, or another that has its `config`, `files` and `headers`.
    """
    digest = hashlib.sha256(to_json(plan.config))
    for name, content in sorted(plan.files.items()):
        if name != README:  # says nothing of the source
            digest.update(f"\n{name} {len(content)}\n".encode() + content)
    for path in plan.headers:
        size = path.stat().st_size
        digest.update(f"\n{path.name} {size}\n".encode())
        with readable(path), path.open("rb") as file:
            for at in (0, size // 2, max(size - (1 << 16), 0)):
                file.seek(at)
                digest.update(file.read(1 << 16))
    return f"sha256:{digest.hexdigest()}"
