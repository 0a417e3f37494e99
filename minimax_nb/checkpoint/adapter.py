"""A LoRA adapter of PEFT, trained on a converted folder, made into one for MiniMax's own folder.

A LoRA layer adds `scale * B A` to a weight W. Three things change on the way back, and none of the sums do:

- The rows of q_proj and k_proj have other places in a converted folder, so those of their B return to the old ones.
- Transformers keeps all experts of a layer in one tensor, and PEFT all their A and B in one too. MiniMax has w1, w3 and
  w2 for each expert, so each gets its own A, and its rows of B. PEFT stores A as (experts * rank, columns), expert by
  expert, and B as (rows, rank * experts), rank by rank (ParamWrapper.get_delta_weight of peft 0.21.2).
- PEFT allows each layer a rank and an alpha of its own. llama.cpp divides the one alpha of the file by the rank of each
  layer, and vLLM knows one rank. So all layers get one rank, filled up with zeros, and one alpha.
"""

import json
import logging
import math
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ..config import MARKER, patch_config
from ..errors import CheckpointError, ConfigError
from ..values import shown
from .files import DOWNLOAD, read_json, readable, require_file
from .folder import expected_shapes, read_config, read_header
from .layout import original_tensors
from .readme import README, restored_readme
from .shards import unpermute
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
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
LORA = re.compile(r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.weight)?")
BESIDE = ".base_layer"  # in the name of an embedding that is stored whole beside its A and B
OTHER_SUMS = ("layer_replication", "use_qalora", "use_bdlora", "kasa_config", "velora_config", "monteclora_config")
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # those that leave the base's weights alone
MERGE = "merge it first (merge_and_unload, then save_pretrained) and restore the merged folder"


class Lora(NamedTuple):
    """What an adapter adds to one weight (rows, columns): `scale * B A`, A (rank, columns), B (rows, rank)."""

    A: object
    B: object
    scale: float
    magnitude: object = None  # of DoRA: (rows,)
    embedding: bool = False  # PEFT has other names for the two parts then


class Base(NamedTuple):
    """The model that an adapter changes."""

    config: dict  # with the marker
    original: Path | None  # MiniMax's folder, where it is known


def restore_adapter(src: Path, dst: Path, original: Path | None = None) -> Path:
    """Write the adapter `dst` for MiniMax's folder from the adapter `src` for a converted one.

    `original` is MiniMax's folder, or the converted one; without it, the folder that `src` names as its base. Raises
    ConfigError or CheckpointError; `dst` is then absent or as it was.
    """
    files = restored(src, dst, original)

    def write(partial: Path) -> None:
        require_space(final_place(dst).parent, sum(map(len, files.values())))
        for name, content in files.items():
            write_file(partial / name, content)

    if written_once(dst, lambda: _is_made(src, dst, files), write):
        settings = json.loads(files[CONFIG])
        if settings["base_model_name_or_path"] is None:
            log.info("%s names no base: where MiniMax's folder is, only --original ORIGINAL can say", dst / CONFIG)
        if settings.get("use_dora") or settings["modules_to_save"]:
            log.info("llama.cpp and vLLM take no DoRA and no modules_to_save: for them, %s", MERGE)
    return dst


def describe_adapter(src: Path, dst: Path, original: Path | None) -> list[str]:
    """What `restore_adapter` would write, one line each; nothing where it has nothing to do."""
    files = restored(src, dst, original)
    if _is_made(src, dst, files):
        return []
    settings = json.loads(files[CONFIG])
    lines = [f"read   {src / WEIGHTS}", f"write  {dst}: rank {settings['r']}, alpha {settings['lora_alpha']:g}"]
    return lines + [f"write  {name}: {len(content):,} bytes" for name, content in files.items()]


def restored(src: Path, dst: Path, original: Path | None) -> dict[str, bytes]:
    """File name -> contents of `dst`. Reads `src`, and checks it against its base."""
    refuse_overlap(src, dst)
    refuse_mount_point(dst)
    settings = read_json(src / CONFIG)
    try:
        return _restored(src, dst, settings, original)
    except (ConfigError, CheckpointError):
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, re.error) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{src}: not as PEFT writes an adapter ({reason}): save it again") from None


def _restored(src: Path, dst: Path, settings: dict, original: Path | None) -> dict[str, bytes]:
    import torch
    from safetensors.torch import save

    _refuse_other_methods(src / CONFIG, settings)
    base = _base(src / CONFIG, settings, original)
    if base.original is not None:
        refuse_overlap(base.original, dst)
    loras, trained = _layers(src / WEIGHTS, settings, base.config)
    loras, rank, alpha = _alike(loras)
    tensors = {f"{PREFIX}{name}": tensor for name, tensor in trained.items()}
    for name, lora in loras.items():
        a, b = ("lora_embedding_A", "lora_embedding_B") if lora.embedding else ("lora_A.weight", "lora_B.weight")
        tensors |= {f"{PREFIX}{name}.{a}": lora.A, f"{PREFIX}{name}.{b}": lora.B}
        if lora.magnitude is not None:
            tensors[f"{PREFIX}{name}.lora_magnitude_vector"] = lora.magnitude
    settings |= dict.fromkeys(("target_parameters", "exclude_modules", "layers_to_transform", "layers_pattern"))
    settings |= {
        "base_model_name_or_path": None if base.original is None else str(base.original),
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "init_lora_weights": True,
        "target_modules": _targets(loras, base.config),
        "modules_to_save": sorted(name.removesuffix(".weight") for name in trained if BESIDE not in name) or None,
    }
    # copies, since w1 and w3 of an expert may share their A, which the format does not allow
    whole = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    content = save(whole, metadata={"format": "pt"})
    return {WEIGHTS: content, CONFIG: to_json(settings), README: restored_readme(src.resolve().name, adapter=True)}


def _is_made(src: Path, dst: Path, files: dict[str, bytes]) -> bool:
    """Whether DST already holds this adapter; any other DST is an error, an empty folder is not."""
    if is_free(dst):
        return False
    for name in (WEIGHTS, CONFIG):
        if not (dst / name).is_file() or (dst / name).read_bytes() != files[name]:
            raise made_from_another(dst, src)
    log.info("%s is already restored from %s: nothing to do", dst, src)
    return True


def _refuse_other_methods(path: Path, settings: dict) -> None:
    """Only plain LoRA, and DoRA, are sums that can be taken to other names one by one."""
    if settings.get("peft_type") != "LORA":
        raise CheckpointError(f"{path}: peft_type is {shown(settings.get('peft_type'))}, not LORA: {MERGE}")
    if used := next((key for key in OTHER_SUMS if settings.get(key)), None):
        raise CheckpointError(f"{path}: {used} is {shown(settings[used])}, which is not plain LoRA: {MERGE}")
    if (start := settings.get("init_lora_weights")) not in PLAIN_STARTS:
        why = "which also changed the weights of its base"
        raise CheckpointError(f"{path}: init_lora_weights is {shown(start)}, {why}: {MERGE}")


def _base(path: Path, settings: dict, original: Path | None) -> Base:
    named = settings.get("base_model_name_or_path")
    folder = original or (Path(named) if isinstance(named, str) and named else None)
    if folder is None or not (folder / "config.json").is_file():
        give = "give --original ORIGINAL, MiniMax's folder or the converted one"
        raise CheckpointError(f"{path}: its base is {shown(named)}, and no such folder is here: {give}")
    config = read_config(folder)
    if MARKER in config:
        return Base(config, _linked(folder))
    if original is None:
        why = "so the adapter fits weights that Transformers computes wrong"
        raise ConfigError(f"{path}: its base {folder} is not a converted folder, {why}")
    try:
        return Base(patch_config(config), original)
    except ConfigError as error:
        raise ConfigError(f"{folder / 'config.json'}: {error}") from None


def _linked(folder: Path) -> Path | None:
    """The original folder, where the weights of a converted one are links into it."""
    for path in sorted(folder.glob("*.safetensors")):
        there = path.resolve().parent
        if path.is_symlink() and (there / "config.json").is_file() and MARKER not in read_config(there):
            return there
    return None


def _layers(path: Path, settings: dict, config: dict) -> tuple[dict[str, Lora], dict]:
    """The LoRA layers of MiniMax's modules, and the weights that were trained whole, by their original names."""
    from safetensors.torch import load_file

    require_file(path)
    read_header(path)  # says what is wrong with a damaged file
    parts, trained, shapes = {}, {}, expected_shapes(config)
    with readable(path):
        found = load_file(path)
    for full_name, tensor in found.items():
        name = full_name.removeprefix(PREFIX)
        if match := LORA.fullmatch(name):
            module, part = match.groups()
            parts.setdefault(module, {})[part] = tensor
        elif "lora_" not in name and tensor.dim():
            trained |= original_tensors(name, tensor, config["head_dim"], config[MARKER]["rotary_dim"])
        else:
            raise CheckpointError(f"{path}: {full_name} is not a part of plain LoRA: {MERGE}")
    loras = {}
    for module, found in parts.items():
        loras |= _originals(path, module, found, settings, config)
    whole = [(name.replace(BESIDE, ""), tuple(tensor.shape)) for name, tensor in trained.items()]
    for name, shape in whole + _shapes(loras):
        if shapes.get(name) != shape:
            here = f"{list(shapes[name])} there" if name in shapes else "not there"
            raise CheckpointError(f"{path}: {name} is {list(shape)}, and {here}: the adapter is of another model")
    return loras, trained


def _originals(path: Path, module: str, parts: dict, settings: dict, config: dict) -> dict[str, Lora]:
    """The layers of MiniMax's modules for one of Transformers'."""
    embedding = "lora_embedding_A" in parts
    A, B = (parts.get(f"lora_embedding_{x}" if embedding else f"lora_{x}") for x in "AB")
    if A is None or B is None or A.dim() != 2 or B.dim() != 2 or A.shape[0] != B.shape[1]:
        raise CheckpointError(f"{path}: {module} has no A and B that belong together: {DOWNLOAD}")
    magnitude = parts.get("lora_magnitude_vector")
    if re.search(r"\.experts(\.base_layer)*$", module):
        return _experts(module, A, B, settings, config)
    if module.endswith((".q_proj", ".k_proj")):
        sizes = config["head_dim"], config[MARKER]["rotary_dim"]
        B = unpermute(B, *sizes)
        magnitude = None if magnitude is None else unpermute(magnitude[:, None], *sizes)[:, 0]
    lora = Lora(A, B, _scale(settings, module, A.shape[0]), magnitude, embedding)
    return {module.replace(".mlp.", ".block_sparse_moe."): lora}


def _experts(module: str, A, B, settings: dict, config: dict) -> dict[str, Lora]:
    """Of the fused experts: PEFT's names do not say which of the two tensors it is, the shapes do."""
    count, inner = config["num_local_experts"], config["intermediate_size"]
    gate_up = B.shape[0] == 2 * inner and A.shape[1] == config["hidden_size"]
    kinds = {"w1": slice(0, inner), "w3": slice(inner, None)} if gate_up else {"w2": slice(None)}
    experts = module.replace(".base_layer", "")
    rank = A.shape[0] // count
    scale = _scale(settings, f"{experts}.{'gate_up_proj' if gate_up else 'down_proj'}", rank)
    A, B = A.reshape(count, rank, -1), B.reshape(-1, rank, count)
    prefix = experts.replace(".mlp.", ".block_sparse_moe.")
    names = {(e, kind): f"{prefix}.{e}.{kind}" for e in range(count) for kind in kinds}
    return {name: Lora(A[e], B[kinds[kind], :, e], scale) for (e, kind), name in names.items()}


def _shapes(loras: dict[str, Lora]) -> list[tuple[str, tuple[int, ...]]]:
    """The weights that the layers belong to, and the shapes which they need."""
    shapes = {name: (lora.B.shape[0], lora.A.shape[1]) for name, lora in loras.items()}
    return [(f"{name}.weight", shape[::-1] if loras[name].embedding else shape) for name, shape in shapes.items()]


def _scale(settings: dict, key: str, rank: int) -> float:
    """The factor before B A. `key` is the name under which PEFT looks for an alpha of its own."""
    targets = settings.get("target_parameters") or []
    if any(f".{key}.weight".endswith(f".{target}") for target in targets):
        key += ".weight"  # a matrix that was named as a parameter, as routers must be
    alphas = (settings.get("alpha_pattern") or {}).items()
    alpha = next((alpha for pattern, alpha in alphas if re.match(rf"(.*\.)?({pattern})$", key)), settings["lora_alpha"])
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _alike(loras: dict[str, Lora]) -> tuple[dict[str, Lora], int, float]:
    """All layers with one rank and one scale, and the rank and the alpha of these. What they add stays the same."""
    import torch
    import torch.nn.functional as F

    if not loras:
        return {}, 1, 1
    rank = max(lora.A.shape[0] for lora in loras.values())
    ((scale, _),) = Counter(lora.scale for lora in loras.values()).most_common(1)
    alike = {}
    for name, lora in loras.items():
        A, B, missing = lora.A, lora.B, rank - lora.A.shape[0]
        if lora.scale != scale:
            B = (B.double() * (lora.scale / scale)).to(torch.promote_types(B.dtype, torch.float32))
            A = A.to(B.dtype)
        alike[name] = lora._replace(A=F.pad(A, (0, 0, 0, missing)), B=F.pad(B, (0, missing)), scale=scale)
    alpha = scale * rank
    return alike, rank, int(alpha) if alpha == int(alpha) else alpha


def _targets(loras: dict[str, Lora], config: dict) -> list[str]:
    """Names for target_modules: the last part where all modules of that name have a layer, else whole names."""
    there = Counter(name.split(".")[-2] for name, shape in expected_shapes(config).items() if len(shape) == 2)
    here = Counter(name.rpartition(".")[2] for name in loras)
    last = {leaf for leaf, count in here.items() if count == there[leaf]}
    return sorted({leaf if (leaf := name.rpartition(".")[2]) in last else name for name in loras})
