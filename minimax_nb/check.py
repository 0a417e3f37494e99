"""Does stock Transformers compute a converted folder right? Asked of the folder itself, on the reader's own machine.

Each check is a function that returns what it saw, or raises: _Skipped where it cannot tell, ConfigError or
CheckpointError where the folder is wrong. The last one runs the first layers in stock Transformers and in
`reference.forward`, which shares no code with it. Nothing is written, and weights are read a tensor at a time except
for the layers that are run.

    for name, ok, detail in check("MiniMax-Text-01-patched", against="MiniMax-Text-01"):
        print(name, ok, detail)         # ok is True, False, or None for a check that was skipped
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from .checkpoint.folder import (
    INDEX,
    WRITTEN,
    Header,
    TensorInfo,
    check_tensors,
    expected_shapes,
    merge,
    qk_names,
    read_bytes,
    read_config,
    read_headers,
    read_json,
    refuse_stray_weights,
    require_converted,
    value_count,
)
from .checkpoint.shards import permute
from .checkpoint.tokenizer_check import verify_tokenizer
from .config import MARKER, first_difference, patch_config, restore_config, verify_frequencies
from .errors import CheckpointError, ConfigError, UsageMistake
from .first_layers import Weights, first_layers
from .keys import refuse_code_keys
from .memory import available_memory, enough_memory

BOUND = 1e-5  # relative error of the logits; float32 alone gives about 1e-6, a wrong rotation above 1e-1
TOKENS = 32
WHOLE_HEADS = (
    "whole heads rotate, as the source's config said, or as it seemed because it had lost rotary_dim: Text-01 and M1 "
    "rotate 64 of 128 dims, so compare with MiniMax's own config.json"
)


class Result(NamedTuple):
    name: str
    ok: bool | None  # None: skipped
    detail: str


class _Skipped(Exception):
    pass


def check(dst: str | Path, *, against: str | Path | None = None, layers: int | None = None) -> list[Result]:
    """Check a converted folder, beside its source `against` if given, and its first `layers` (at most 8 by default).

    Problems of the folder are results. Raised is only what keeps it from being checked at all: CheckpointError for a
    `dst` or `against` that is no checkpoint folder, UsageMistake for `layers` out of range or too little memory.
    """
    return list(checks(dst, against=against, layers=layers))


def checks(dst: str | Path, *, against: str | Path | None = None, layers: int | None = None) -> Iterator[Result]:
    """The results of `check`, each as soon as it is known; the last one can take minutes."""
    dst = Path(dst)
    config = read_config(dst)
    depth = config.get("num_hidden_layers")
    if layers is not None and isinstance(depth, int) and not 1 <= layers <= depth:
        raise UsageMistake(f"layers is {layers}, but {dst} has {depth} layers: give 1 to {depth}")
    source = _Source.open(Path(against)) if against is not None else None

    yield (marker := _result("marker", _check_marker, dst, config))
    if not marker.ok:
        return
    if source:
        yield (same := _result("source", _check_source, config, source))
        if not same.ok:
            return
    if _lost_rotary_dim(config):
        yield Result("rotation", None, WHOLE_HEADS)
    yield _result("frequencies", _check_frequencies, config)
    yield (files := _result("files", _check_files, dst, config))
    yield _result("text files", _check_text_files, dst)
    yield _result("tokenizer", _check_tokenizer, dst)
    if files.ok:
        headers = read_headers(dst)
        yield _result("load order", _check_load_order, dst, headers)
        yield _result("q/k rows", _check_rows, config, headers, source)
        yield _result("logits", _check_logits, dst, config, merge(headers), source, layers)


def _result(name: str, function: Callable[..., str], *arguments) -> Result:
    try:
        with enough_memory(f"the check of {name}"):
            return Result(name, True, function(*arguments))
    except _Skipped as reason:
        return Result(name, None, f"skipped: {reason}")
    except (ConfigError, CheckpointError) as error:
        return Result(name, False, str(error))


class _Source(NamedTuple):
    """The original folder, its config made whole, its tensors."""

    config: dict
    tensors: Header

    @classmethod
    def open(cls, folder: Path) -> "_Source":
        try:
            native = patch_config(read_config(folder))
        except ConfigError as error:
            raise ConfigError(f"{folder / 'config.json'}: {error}") from None
        tensors = merge(read_headers(folder), unique=True)
        check_tensors(native, tensors)
        return cls(restore_config(native), tensors)


def _check_marker(dst: Path, config: dict) -> str:
    marker = require_converted(dst, config)
    try:
        patch_config(restore_config(config))
    except ConfigError as error:
        raise CheckpointError(f"config.json was changed after the conversion ({error}): convert again") from None
    return f"rows permuted, rotary_dim {marker['rotary_dim']} of head_dim {config['head_dim']}"


def _lost_rotary_dim(config: dict) -> bool:
    """Whether the source may have been a native config that dropped the key; MiniMax's own always has it."""
    marker = config[MARKER]
    return marker["rotary_dim"] == config["head_dim"] and marker.get("model_type") == "minimax"


def _check_source(config: dict, source: "_Source") -> str:
    if differs := first_difference(restore_config(config), source.config):
        key, here, there = differs
        raise CheckpointError(f"{key} is {here} here and {there} there: not its source")
    return "the config says the same of the model"


def _check_frequencies(config: dict) -> str:
    worst = verify_frequencies(config)
    return f"Transformers rotates {config[MARKER]['rotary_dim'] // 2} pairs as wanted, within {worst:.0e}"


def _check_files(dst: Path, config: dict) -> str:
    refuse_code_keys({key: value for key, value in config.items() if key != "auto_map"})
    headers = read_headers(dst)  # names dangling links
    check_tensors(config, merge(headers))
    refuse_stray_weights(dst)
    if any(dst.glob("*.py")) or "auto_map" in config:
        raise CheckpointError(
            f"{dst} carries remote code (*.py or auto_map), which stock Transformers would ask to run"
        )
    return f"{len(headers)} weight files, {len(merge(headers))} tensors of the right shapes"


def _check_text_files(dst: Path) -> str:
    """The small files that the conversion wrote, which the index lists; a model that was saved again lists none."""
    index = read_json(dst / INDEX) if (dst / INDEX).is_file() else {}
    names = index.get("metadata", {}).get(WRITTEN)
    if names is None:
        raise _Skipped("the folder does not say which it had")
    for name in names:
        if not (dst / name).is_file():
            raise CheckpointError(f"{dst / name} is missing: run `minimax-nb patch` again, which writes it")
        if name.endswith(".json"):
            read_json(dst / name)
    return f"all {len(names)} are there"


def _check_tokenizer(dst: Path) -> str:
    if not (dst / "tokenizer.json").is_file():
        raise _Skipped("there is no tokenizer.json to compare with")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(dst, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # it raises whatever its readers raise
        reason = " ".join(str(error).split())
        raise CheckpointError(f"Transformers cannot load the tokenizer ({reason}): convert again") from None
    return f"Transformers gives the ids of tokenizer.json on {verify_tokenizer(dst, tokenizer)} texts"


def _check_load_order(dst: Path, headers: dict[Path, Header]) -> str:
    if not (dst / INDEX).is_file():
        return "one file"
    loaded = merge(headers)
    for name, file in read_json(dst / INDEX)["weight_map"].items():
        if loaded[name].file.name != file:
            raise CheckpointError(f"Transformers takes {name} from {loaded[name].file.name}, not {file}: convert again")
    return "the last file to hold a tensor is the one in the index"


def _check_rows(config: dict, headers: dict[Path, Header], source: _Source | None) -> str:
    """Compare bytes with SRC, or with the original rows that a linked shard still holds."""
    loaded = merge(headers)
    first = source.tensors if source else merge(dict(reversed(headers.items())))
    names = qk_names(config)
    if not source and any(first[name].file == loaded[name].file for name in names):
        raise _Skipped("no original rows to compare with, give --against SRC")
    rotary_dim = config[MARKER]["rotary_dim"]
    for name in names:
        if (first[name].dtype, first[name].shape) != (loaded[name].dtype, loaded[name].shape):
            raise CheckpointError(f"{name} has another dtype or shape than in {first[name].file}")
        if (permute(_rows(first[name]), config["head_dim"], rotary_dim) != _rows(loaded[name])).any():
            raise CheckpointError(f"{name} is not the permuted {name} of {first[name].file}: convert again")
    return f"{len(names)} tensors hold the original rows in stock's order"


def _check_logits(dst: Path, config: dict, tensors: Header, source: _Source | None, layers: int | None) -> str:
    depth = config["num_hidden_layers"]
    layers = min(depth, 8) if layers is None else layers
    _require_memory(config, layers)
    import torch

    from . import reference

    ids = torch.randint(config["vocab_size"], (1, TOKENS), generator=torch.Generator().manual_seed(0))
    weights = Weights(source.tensors) if source else Weights(tensors, unpermute_for=config)
    want = reference.forward(
        source.config if source else restore_config(config), weights, ids[0].tolist(), layers=layers
    )
    with torch.no_grad():
        got = first_layers(dst, layers)(ids, use_cache=False).logits[0].double()
    for computed, by in ((want, "the definition"), (got, "stock Transformers")):
        if not computed.isfinite().all():
            raise CheckpointError(f"{by} computes NaN or infinity: the weights are damaged, download them again")
    error = ((got - want).norm() / want.norm()).item()
    what = f"relative error {error:.1e} over {layers} of {depth} layers, bound {BOUND:.0e}"
    if not error <= BOUND:
        raise CheckpointError(f"stock Transformers is off: {what}")
    softmax = config["layer_types"][:layers].count("full_attention")
    return f"{what}, {softmax} of them softmax"


def _require_memory(config: dict, layers: int) -> None:
    """The float32 model, and twice the largest tensor in the yardstick's float64."""
    shapes = expected_shapes(config | {"layer_types": config["layer_types"][:layers]}).values()
    needed = 4 * value_count(shapes) + 16 * max(value_count([shape]) for shape in shapes)
    free = available_memory()
    if needed > free:
        raise _Skipped(
            f"{layers} layers need about {needed / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB are free; --layers"
        )


def _rows(info: TensorInfo):
    import numpy as np

    return np.frombuffer(read_bytes(info), np.uint8).reshape(info.shape[0], -1)
