"""Where MiniMax's tensors lie in those of Transformers: names, experts, rows.

Transformers holds all experts of a layer in two tensors, and saves them so or under MiniMax's names.
Both forms are known here.
"""

import itertools
import math
from collections.abc import Iterator

from .folder import BUFFERS, Header, TensorInfo
from .shards import unpermute


def original_parts(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, int, int]]:
    """The original's tensors in one of Transformers': their names, and their rows, from `start` to `stop`.

    Rows count along all dims but the last. Transformers can keep the experts of a layer in two tensors, gate_up_proj
    (experts, 2 * inner, hidden) and down_proj (experts, hidden, inner). MiniMax keeps three for each expert: w1 is the
    gate, w3 the up and w2 the down projection. Every other tensor is one of the original's, maybe under another name.
    """
    name = name.replace(".mlp.", ".block_sparse_moe.")
    experts, _, projection = name.rpartition(".")
    kinds = {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}.get(projection)
    if kinds is None or not experts.endswith(".experts"):
        yield name, 0, math.prod(shape[:-1])
        return
    rows = shape[1] // len(kinds)
    for place, (expert, kind) in enumerate(itertools.product(range(shape[0]), kinds)):
        yield f"{experts}.{expert}.{kind}.weight", place * rows, (place + 1) * rows


def original_header(tensors: Header) -> Header:
    """The original's tensors by name, as parts of the files that hold them, decay tables left out."""
    found = {}
    for name, info in tensors.items():
        if name.endswith(BUFFERS):
            continue
        row = info.size // max(1, math.prod(info.shape[:-1]))  # bytes
        for part, start, stop in original_parts(name, info.shape):
            shape = info.shape if len(info.shape) < 3 else (stop - start, info.shape[-1])
            place = info.start + start * row, info.start + stop * row
            found[part] = TensorInfo(info.file, info.dtype, shape, *place)
    return found


def original_weights(model, config: dict) -> dict:
    """The weights of a native model by their original names, rows in the original order, on the CPU.

    `config` needs `head_dim` and `rotary_dim`. The tensors are copies.
    """
    found = {}
    for name, tensor in model.state_dict().items():
        if name.endswith(BUFFERS):
            continue
        found |= original_tensors(name, tensor.detach().cpu(), config["head_dim"], config["rotary_dim"])
    return found


def original_tensors(name: str, tensor, head_dim: int, rotary_dim: int) -> dict:
    """The original's tensors in one of Transformers', by name."""
    if name.endswith((".q_proj.weight", ".k_proj.weight")):
        tensor = unpermute(tensor, head_dim, rotary_dim)
    rows = tensor.reshape(-1, tensor.shape[-1])
    parts = original_parts(name, tuple(tensor.shape))
    if tensor.dim() == 1:
        return {part: tensor.clone() for part, _, _ in parts}
    return {part: rows[start:stop].clone() for part, start, stop in parts}
