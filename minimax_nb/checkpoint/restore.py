"""The way back: a converted folder, trained or not, or a LoRA adapter, in MiniMax's own format again.

llama.cpp and vLLM read that format, and never a converted folder. What `patch_checkpoint` does is undone: the rows of
q_proj and k_proj return to their places, experts to one tensor each, the config to the original's keys. Decay tables,
which `save_pretrained` adds, are no weights and stay behind. A weight file that already is as MiniMax has it is linked.

    restore_checkpoint("tuned", "tuned-original")
    restore_checkpoint("tuned", "tuned-original", original="MiniMax-Text-01")    # with its small files, as they are
"""

import logging
from pathlib import Path
from typing import NamedTuple

from ..config import MARKER, patch_config, restore_config
from ..errors import CheckpointError, ConfigError
from ..keys import ORIGINAL_TYPES
from ..terminal import byte_progress
from .convert import fingerprint
from .files import file_state, read_json
from .folder import (
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
from .layout import original_header
from .readme import README, restored_readme
from .restored_files import own_files, small_files
from .shards import WAIT, link_weights, permuted_bytes, require_whole, shard_names, unpermute, write_shard
from .staging import (
    final_place,
    is_free,
    made_from_another,
    refuse_mount_point,
    refuse_overlap,
    require_space,
    write_file,
    written_once,
)
from .text_files import to_json

log = logging.getLogger("minimax_nb")
SOURCE = "minimax_nb_source"  # in the index of a restored folder: the fingerprint of what it was made from


class Shard(NamedTuple):
    """One weight file of DST: the original's tensors by name, and where SRC has their bytes."""

    tensors: Header
    link: Path | None  # the file that holds just these tensors already


class Plan(NamedTuple):
    """What will be done, decided before anything is written."""

    src: Path
    dst: Path
    config: dict  # of SRC, with the marker
    files: dict[str, bytes]  # the small files of DST
    headers: dict[Path, Header]  # of SRC's weight files, in loading order
    shards: list[Shard]
    states: dict[Path, tuple]  # of each weight file: its size, time of change and inode
    notes: list[str]  # what could not be known, for the user

    @property
    def bytes_to_write(self) -> int:
        """Of weights; the small files are not counted."""
        return sum(byte_size(shard.tensors.values()) for shard in self.shards if not shard.link)

    @property
    def source(self) -> str:
        return fingerprint(self)


def restore_checkpoint(
    src: str | Path, dst: str | Path, *, original: str | Path | None = None, link: bool = True
) -> Path:
    """Write the folder `dst` in MiniMax's format for the converted folder or LoRA adapter `src`, and return its path.

    `src` is a folder of `patch_checkpoint`, one that `save_pretrained` wrote of a model of such a folder (trained, or
    merged by PEFT), or a folder with an adapter of PEFT. `original` is MiniMax's folder from which all began: its small
    files, code included, are taken as they are; an adapter names it as its base. Without it they are worked out, and a
    line says what cannot be known. With `link`, files that need no change are links, as in `patch_checkpoint`.
    A `dst` already made from this `src` is kept. Raises ConfigError or CheckpointError; `dst` is then absent or as it
    was.
    """
    src, dst, original = Path(src), Path(dst), None if original is None else Path(original)
    if is_adapter(src):
        from .adapter import restore_adapter

        return restore_adapter(src, dst, original)
    plan = plan_restore(src, dst, original=original, link=link)

    def write(partial: Path) -> None:
        _write(plan, partial)
        _require_unchanged(plan, original, link)

    if written_once(plan.dst, lambda: is_restored(plan), write):
        for note in plan.notes:
            log.info("%s", note)
    return plan.dst


def is_adapter(src: Path) -> bool:
    return (src / "adapter_config.json").is_file()


def plan_restore(src: Path, dst: Path, *, original: Path | None, link: bool) -> Plan:
    """Read and check everything that can be checked without writing. Raises ConfigError or CheckpointError."""
    config = converted_config(src)
    refuse_overlap(src, dst)
    if original is not None:
        refuse_overlap(original, dst)
    refuse_mount_point(dst)
    headers = read_headers(src)
    tensors = original_header(merge(headers))
    check_tensors(config, tensors)
    files, notes = small_files(src, config) if original is None else (own_files(original, config), [])
    shards = _shards(config, headers, tensors, link)
    linked = sorted({str(shard.link.parent) for shard in shards if shard.link})
    if linked:
        notes = [*notes, f"weight files are links into {', '.join(linked)}: keep it, or give --copy"]
    files.setdefault(README, restored_readme(src.resolve().name, link=bool(linked)))
    states = {path: file_state(path) for path in headers}
    return Plan(src, dst, config, files, headers, shards, states, notes)


def converted_config(src: Path) -> dict:
    """config.json of a folder that was converted, or saved from a model of one. Raises ConfigError."""
    config = read_config(src)
    if MARKER not in config:
        if config.get("model_type") in ORIGINAL_TYPES:
            raise ConfigError(f"{src} is in MiniMax's format already: there is nothing to restore")
        why = "only folders that `minimax-nb patch` made, and models saved from them, can be taken back"
        raise ConfigError(f"{src / 'config.json'} has no {MARKER} marker: {why}")
    if config.get("quantization_config"):
        raise ConfigError(f"the weights of {src} are quantised, and cannot be taken back: restore the folder before it")
    try:
        patch_config(restore_config(config))
    except ConfigError as error:
        raise ConfigError(f"{src / 'config.json'}: {error}") from None
    return config


def _shards(config: dict, headers: dict[Path, Header], tensors: Header, link: bool) -> list[Shard]:
    """The weight files of DST, in the order of SRC's: linked where one can stay, else written anew without the rest."""
    stays, held = set(), set()
    for path, header in headers.items():
        new = link and not held & header.keys()
        if new and all(_is_original(name, info, tensors.get(name), config) for name, info in header.items()):
            stays.add(path)
            held |= header.keys()
    shards = []
    for path, header in headers.items():
        here = {name: info for name, info in tensors.items() if info.file == path and name not in held}
        if path in stays:
            shards.append(Shard(header, path.resolve()))
        elif here:
            shards.append(Shard(here, None))
    return shards


def _is_original(name: str, here: TensorInfo, loaded: TensorInfo | None, config: dict) -> bool:
    """Whether a file holds a tensor `here` as MiniMax has it; `loaded` is the one that Transformers would take.

    A linked file of MiniMax's still holds q_proj and k_proj in their first order, and a later file overrides them.
    """
    if loaded is None or (here.dtype, here.shape) != (loaded.dtype, loaded.shape):
        return False
    if name in _moved(config):
        return here != loaded and _original_bytes(loaded, True, config) == read_bytes(here)
    return here == loaded or read_bytes(here) == read_bytes(loaded)


def _moved(config: dict) -> list[str]:
    """The tensors whose rows have another order in a converted folder."""
    return qk_names(config) if config[MARKER]["rotary_dim"] < config["head_dim"] else []


def _original_bytes(info: TensorInfo, moved: bool, config: dict) -> bytes:
    return permuted_bytes(info, config, unpermute).tobytes() if moved else read_bytes(info)


def is_restored(plan: Plan) -> bool:
    """Whether DST was already made from this SRC; a foreign or damaged DST is an error, an empty folder is not."""
    dst = plan.dst
    if is_free(dst):
        return False
    try:
        made_from = read_json(dst / INDEX)["metadata"][SOURCE]
    except (CheckpointError, LookupError, TypeError):
        made_from = None
    if made_from != plan.source:
        raise made_from_another(dst, plan.src)
    require_whole(dst, "restore")
    log.info("%s is already restored from %s: nothing to do", dst, plan.src)
    return True


def describe(src: str | Path, dst: str | Path, *, original: str | Path | None = None, link: bool = True) -> list[str]:
    """What `restore_checkpoint` would read, link and write, one line each; nothing where it has nothing to do."""
    src, dst, original = Path(src), Path(dst), None if original is None else Path(original)
    if is_adapter(src):
        from .adapter import describe_adapter

        return describe_adapter(src, dst, original)
    plan = plan_restore(src, dst, original=original, link=link)
    if is_restored(plan):
        return []
    total = sum(path.stat().st_size for path in plan.headers)
    lines = [f"read   {src}: {len(plan.headers)} weight files, {total:,} bytes", f"write  {dst}"]
    for shard, name in zip(plan.shards, shard_names(len(plan.shards)), strict=True):
        what = f"link   {shard.link.name} as {name}" if shard.link else f"write  {name}"
        lines.append(f"{what}: {len(shard.tensors)} tensors, {byte_size(shard.tensors.values()):,} bytes")
    lines += [f"write  {name}: {len(content):,} bytes" for name, content in sorted(plan.files.items())]
    return [*lines, *plan.notes, f"total  {plan.bytes_to_write:,} bytes of weights written"]


def _write(plan: Plan, partial: Path) -> None:
    """Fill the temporary folder."""
    place = final_place(plan.dst)
    require_space(place.parent, plan.bytes_to_write)
    names = shard_names(len(plan.shards))
    links = {partial / name: shard.link for name, shard in zip(names, plan.shards, strict=True) if shard.link}
    if links and not link_weights(links, place):
        tensors = original_header(merge(plan.headers))
        plan = plan._replace(shards=_shards(plan.config, plan.headers, tensors, link=False))
        log.warning("links are refused in %s: copying %.2f GB", place.parent, plan.bytes_to_write / 1e9)
        require_space(place.parent, plan.bytes_to_write)
        names = shard_names(len(plan.shards))
    moved, weight_map = _moved(plan.config), {}
    with byte_progress(plan.bytes_to_write) as advance:
        for name, shard in zip(names, plan.shards, strict=True):
            weight_map |= dict.fromkeys(shard.tensors, name)
            if not shard.link:

                def content(tensor: str, shard: Shard = shard) -> bytes:
                    return _original_bytes(shard.tensors[tensor], tensor in moved, plan.config)

                write_shard(partial / name, shard.tensors, content, advance)
    size = sum(byte_size(shard.tensors.values()) for shard in plan.shards)
    metadata = {"total_size": size, SOURCE: plan.source}
    index = to_json({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))})
    for name, content in {**plan.files, INDEX: index}.items():
        (partial / name).parent.mkdir(exist_ok=True)
        write_file(partial / name, content)


def _require_unchanged(plan: Plan, original: Path | None, link: bool) -> None:
    """Read SRC again: what was written belongs together only if nobody cut, replaced or edited it meanwhile."""
    try:
        now = plan_restore(plan.src, plan.dst, original=original, link=link)
    except (ConfigError, CheckpointError) as error:
        raise CheckpointError(f"{plan.src} was changed while it was read ({error}): {WAIT}") from None
    if (now.config, now.files, now.states) != (plan.config, plan.files, plan.states):
        raise CheckpointError(f"{plan.src} was changed while it was read: {WAIT}")
