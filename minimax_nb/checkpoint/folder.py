"""A checkpoint folder, read without loading it: its config, its weight files, and the header of every tensor.

A safetensors file is 8 bytes of header length, a JSON header (name -> dtype, shape, byte range) and raw bytes, so the
shapes of 912 GB are known after reading some megabytes. Nothing here writes, executes code of the folder, or needs
torch. Every error is a CheckpointError that names the file and says what to do.

    tensors = merge(read_headers(folder))
    check_tensors(native_config, tensors)
"""

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from ..config import read_marker
from ..errors import CheckpointError, ConfigError
from ..original import DECAY_BUFFERS
from .files import DOWNLOAD, read_json, readable, require_file

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
WRITTEN = "minimax_nb_files"  # in the index of a converted folder: the names of the small files beside the weights
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # bytes per value
BUFFERS = (*DECAY_BUFFERS, "rotary_emb.inv_freq")  # rebuilt by the model
QUANTISED = ("scale", "qweight", "qzeros", "absmax", "zero_point")  # parts of tensor names
UNQUANTISED = "convert the unquantised checkpoint"


class TensorInfo(NamedTuple):
    """Where one tensor lies: bytes start to end of `file`, row-major."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.end - self.start


Header = dict[str, TensorInfo]


def read_config(folder: Path) -> dict:
    """config.json as a dict."""
    if not folder.exists() and _is_hub_id(folder):
        raise CheckpointError(f"there is no folder {folder}, and nothing is fetched here. {_how_to_download(folder)}")
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise CheckpointError(f"{folder} {what}: give the folder that holds config.json and the weights")
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            merge = "merge it first (merge_and_unload of PEFT), or take it back with `minimax-nb restore`"
            raise CheckpointError(f"{folder} is a LoRA adapter, not a model: {merge}")
        raise CheckpointError(f"{folder} has no config.json: give the folder that holds it and the weights")
    config = read_json(folder / "config.json")
    if not config:
        raise CheckpointError(f"{folder / 'config.json'} is an empty object: {DOWNLOAD}")
    return config


def _is_hub_id(folder: Path) -> bool:
    """Whether this can be the owner/name of a model on the hub. With a parent that exists, it is a mistyped path."""
    owner, *name = folder.parts or ("",)
    return len(name) == 1 and owner[:1].isalnum() and not folder.parent.exists()


def _how_to_download(folder: Path) -> str:
    name = folder.name
    steps = f"minimax-nb patch {name} {name}-converted, and load {name}-converted"
    return f"Run: hf download {folder.as_posix()} --local-dir {name}, then: {steps}"


def how_to_convert(folder: Path) -> str:
    """The command that converts `folder`, in a sentence.

    It writes to the current directory, never beside the source, which may lie inside the installed package.
    """
    source = folder.resolve()
    inside = Path.cwd().is_relative_to(source)  # nothing is written into the source either
    command = ["minimax-nb", "patch", str(source if inside else folder), f"{source.name}-converted"]
    return ("Run, in another directory: " if inside else "Run: ") + shlex.join(command)


def require_converted(folder: Path, config: dict) -> dict:
    """The marker of a converted folder's config. Raises ConfigError, with the command that converts another."""
    try:
        return read_marker(config)
    except ConfigError as error:
        wrong = f"{folder} is not converted, stock Transformers would compute it wrong"
        raise ConfigError(f"{wrong} ({error}). {how_to_convert(folder)}") from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that the folder names, in the order in which stock Transformers reads them."""
    index, single = folder / INDEX, folder / SINGLE
    if index.is_file() and single.exists():
        raise CheckpointError(f"{folder} has both {SINGLE} and {INDEX}, and loaders take different ones: remove one")
    if index.is_file():
        return [folder / name for name in sorted(set(_weight_map(index).values()))]
    if single.exists() or single.is_symlink():
        require_file(single)
        return [single]
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder} has pickled weights only ({pickles[0]}): reading a pickle can execute any code it holds, "
            "so get the weights as safetensors"
        )
    raise CheckpointError(f"{folder} has neither {SINGLE} nor {INDEX}: download the weights too")


def refuse_stray_weights(folder: Path) -> None:
    """A weight file that no index names: stock passes it by, other loaders read whatever is there."""
    named = set(weight_files(folder))
    for path in sorted(folder.glob("*.safetensors")):
        if path not in named:
            raise CheckpointError(f"{path} is named by no index: remove it")


def read_headers(folder: Path) -> dict[Path, Header]:
    """The header of every weight file, in loading order; an index must name only tensors that are there."""
    headers = {path: read_header(path) for path in weight_files(folder)}
    if (folder / INDEX).is_file():
        for name, file in _weight_map(folder / INDEX).items():
            if name not in headers[folder / file]:
                raise CheckpointError(
                    f"{folder / INDEX} says that {name} is in {file}, but it is not there: {DOWNLOAD}"
                )
    return headers


def read_header(path: Path) -> Header:
    """Every tensor of one safetensors file, checked by the safetensors library to cover the file exactly."""
    from safetensors import SafetensorError, safe_open

    try:
        with readable(path), path.open("rb"), safe_open(path, "np"):
            pass
    except SafetensorError as error:
        with path.open("rb") as file:
            pointer = file.read(24) == b"version https://git-lfs."
        why = (
            "is a git-lfs pointer, not the weights: run `git lfs pull`"
            if pointer
            else f"is damaged ({error}): {DOWNLOAD}"
        )
        raise CheckpointError(f"{path} {why}") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    base = 8 + length
    return {
        name: TensorInfo(path, entry["dtype"], tuple(entry["shape"]), *(base + at for at in entry["data_offsets"]))
        for name, entry in header.items()
    }


def merge(headers: dict[Path, Header], *, unique: bool = False) -> Header:
    """One header for the folder. A tensor in two files counts where stock takes it, in the last, or is refused."""
    merged: Header = {}
    for path, header in headers.items():
        twice = next((name for name in header if unique and name in merged), None)
        if twice:
            raise CheckpointError(f"{twice} is in both {merged[twice].file.name} and {path.name}: remove one of them")
        merged |= header
    return merged


def check_tensors(native: dict, tensors: Header) -> None:
    """Refuse tensors that are missing, superfluous, quantised, or of another shape than the native config says."""
    for name, info in tensors.items():
        if any(word in name for word in QUANTISED):
            raise CheckpointError(f"{info.file}: {name} belongs to quantised weights: {UNQUANTISED}")
    expected = set()
    for name, shape in _expected(native):
        expected.add(name)
        if name not in tensors:
            raise CheckpointError(f"{name} is in no weight file: complete the download, or correct config.json")
        info = tensors[name]
        if info.dtype not in FLOATS:
            raise CheckpointError(f"{info.file}: {name} is {info.dtype}, quantised: {UNQUANTISED}")
        if info.shape != shape:
            raise CheckpointError(
                f"{info.file}: {name} has shape {list(info.shape)}, config.json makes it {list(shape)}: "
                "the two do not belong together"
            )
    for name, info in tensors.items():
        if name not in expected and not name.endswith(BUFFERS):
            raise CheckpointError(f"{info.file}: {name} is not in the model of config.json: {_why_unknown(name)}")


def _why_unknown(name: str) -> str:
    if name == "lm_head.weight":
        return "tie_word_embeddings says that the embedding is used instead; set it to false"
    if re.match(r"model\.layers\.\d+\.", name):
        return "correct num_hidden_layers, attn_type_list or num_local_experts"
    return "the two do not belong together"


def expected_shapes(native: dict) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model with this native config."""
    return dict(_expected(native))


def _expected(native: dict) -> Iterator[tuple[str, tuple[int, ...]]]:
    """One at a time, so that an absurd count in the config meets a missing tensor before it fills the memory."""
    hidden, vocab = native["hidden_size"], native["vocab_size"]
    yield "model.embed_tokens.weight", (vocab, hidden)
    yield "model.norm.weight", (hidden,)
    if not native.get("tie_word_embeddings"):
        yield "lm_head.weight", (vocab, hidden)
    for layer, kind in enumerate(native["layer_types"]):
        for name, shape in _layer_shapes(native, kind):
            yield f"model.layers.{layer}.{name}.weight", shape


def qk_names(native: dict) -> list[str]:
    """The tensors whose rows are reordered: q_proj and k_proj of the softmax layers."""
    layers = [i for i, kind in enumerate(native["layer_types"]) if kind == "full_attention"]
    return [f"model.layers.{layer}.self_attn.{name}_proj.weight" for layer in layers for name in "qk"]


def read_bytes(info: TensorInfo) -> bytes:
    with readable(info.file), info.file.open("rb") as file:
        file.seek(info.start)
        content = file.read(info.size)
    if len(content) != info.size:
        raise CheckpointError(f"{info.file} has become shorter while it was read: {DOWNLOAD}")
    return content


def byte_size(tensors: Iterable[TensorInfo]) -> int:
    return sum(info.size for info in tensors)


def value_count(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _layer_shapes(native: dict, kind: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner, experts = native["hidden_size"], native["intermediate_size"], native["num_local_experts"]
    width = native["num_attention_heads"] * native["head_dim"]
    kv_width = native["num_key_value_heads"] * native["head_dim"]
    if kind == "full_attention":
        yield "self_attn.q_proj", (width, hidden)
        yield "self_attn.k_proj", (kv_width, hidden)
        yield "self_attn.v_proj", (kv_width, hidden)
        yield "self_attn.o_proj", (hidden, width)
    else:
        yield "self_attn.qkv_proj", (3 * width, hidden)
        yield "self_attn.output_gate", (width, hidden)
        yield "self_attn.out_proj", (hidden, width)
        yield "self_attn.norm", (width,)
    yield "input_layernorm", (hidden,)
    yield "post_attention_layernorm", (hidden,)
    yield "block_sparse_moe.gate", (experts, hidden)
    for expert in range(experts):
        yield f"block_sparse_moe.experts.{expert}.w1", (inner, hidden)
        yield f"block_sparse_moe.experts.{expert}.w2", (hidden, inner)
        yield f"block_sparse_moe.experts.{expert}.w3", (inner, hidden)


def _weight_map(index: Path) -> dict[str, str]:
    """tensor -> file name of an index whose files all lie in the folder."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map: {DOWNLOAD}")
    for file in dict.fromkeys(str(file) for file in weight_map.values()):
        plain = file == PurePosixPath(file).name == PureWindowsPath(file).name
        if not plain or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names {file!r}: weights must be .safetensors files inside the folder itself"
            )
        require_file(index.parent / file)
    return weight_map
