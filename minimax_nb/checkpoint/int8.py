"""A folder whose experts are int8, as Transformers saves them with torchao: what its config says, and its tensors.

    has_int8_experts(config)                  # of a native config.json
    one_expert(tensors, name)                 # a w1, w2 or w3 of such a folder in float32

A layer's experts lie together there. Of each of the two parameters there are the integers, a scale a row, and zero
points, which are all 0.
"""

import re
from collections.abc import Iterator

TORCHAO = 'int8 experts need torchao: pip install -e ".[int8]"'
EXPERTS = "block_sparse_moe.experts."
METHOD, TYPE = "torchao", "Int8WeightOnlyConfig"
PARTS = {"qdata": "I8", "scale": "F32", "zero_point": "I8"}  # and their dtypes
NAME = re.compile(rf"(.*{re.escape(EXPERTS)})(\d+)\.(w[123])\.weight")


def has_int8_experts(config: dict) -> bool:
    """Whether config.json says that torchao made the experts int8, with a scale a row, and nothing else."""
    found = config.get("quantization_config")
    if not isinstance(found, dict) or found.get("quant_method") != METHOD:
        return False
    try:
        ((names, how),) = found["quant_type"]["default"]["_data"]["fqn_to_config"].items()
        per_row = how["_data"]["group_size"] is None and how["_data"]["granularity"]["_type"] == "PerRow"
    except (KeyError, TypeError, ValueError):
        return False
    return ".mlp\\.experts\\." in names and how.get("_type") == TYPE and how.get("_version") == 2 and per_row


def expert_shapes(native: dict) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name within a layer and shape of each tensor of its experts."""
    hidden, inner, experts = native["hidden_size"], native["intermediate_size"], native["num_local_experts"]
    for name, rows, columns in (("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)):
        for part in PARTS:
            yield f"{EXPERTS}_{name}_{part}", (experts, rows, columns if part == "qdata" else 1)


def part_of(name: str) -> str | None:
    """Which of PARTS a tensor is by its name, or None."""
    if EXPERTS + "_" not in name:
        return None
    return next((part for part in PARTS if name.endswith(f"_{part}")), None)


def one_expert(tensors: dict, name: str):
    """The matrix with the original name, such as `...experts.3.w1.weight`, in float32: scale times integer.

    tensors: name -> something with a `file` (checkpoint.folder.Header). KeyError for another name.
    """
    from safetensors import safe_open

    if not (found := NAME.fullmatch(name)):
        raise KeyError(name)
    prefix, expert, which = found[1], int(found[2]), found[3]
    parameter = "down_proj" if which == "w2" else "gate_up_proj"
    read = []
    for part in ("qdata", "scale"):
        whole = f"{prefix}_{parameter}_{part}"
        with safe_open(tensors[whole].file, "pt") as file:
            read.append(file.get_slice(whole)[expert])
    matrix = read[0].float() * read[1]
    if which == "w2":
        return matrix
    return matrix.chunk(2)[which == "w3"]
