"""The bytes that a model takes on each GPU of a machine, for any context and batch: the arithmetic behind ../plan.py.

    found = Capacity(config, gpus=8, memory=80e9, dtype="int8")
    found.fits(context=131072, batch=1)
    found.longest_context(batch=1)

What is counted and why stands in ../plan.py. With tensor parallel each GPU is a rank, which holds a part of every
layer.
"""

import json
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from ..errors import UsageMistake
from ..language import mark
from ..pieces import CUBLAS, LIMIT, piece_tokens, token_bytes, workspace_bytes

GB = 10**9
RESERVE = GB  # bytes of each GPU: CUDA's context, loaded kernels, what the allocator cannot hand out; not measured
ELEMENT = 2  # bytes of a number in bf16 and in fp16
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "int8": "bfloat16"}  # of what is not int8
# What each rank has whole: parallel/reading.py; and the scales of rows that it has a part of
WHOLE = ("embed_tokens", ".mlp.gate.", "layernorm", "model.norm.", "down_proj_rows")
ALONE = 0.9  # of a single GPU's memory, Transformers takes so much for weights


class Gpu(NamedTuple):
    """What one GPU holds whatever the context."""

    weights: int  # bytes
    layers: int
    softmax: int  # layers of each kind
    lightning: int


class Layout(NamedTuple):
    """A model on GPUs."""

    gpus: list[Gpu]
    fits: bool  # the weights; if not, `gpus` says how they would lie if the memory were larger
    kinds: dict[str, int]  # bytes of weights, by kind
    while_loading: int  # bytes that a GPU needs for a moment beside its weights


class Capacity:
    """One model on one kind of machine. memory: bytes of one GPU; dtype: one of DTYPES; tp: tensor parallel.

    how: see pieces.py.
    """

    def __init__(self, config: dict, gpus: int, memory: float, dtype: str, tp: bool = False, **how):
        self.config, self.count, self.memory, self.dtype, self.tp = config, gpus, memory, dtype, tp and gpus > 1
        self.how = {"float16": dtype == "fp16"} | how
        self.layout = _layout(json.dumps(config, sort_keys=True), gpus, memory - RESERVE, dtype, self.tp)
        self.part = part = part_of_a_rank(config, gpus) if self.tp else config  # what one GPU computes
        # Of a token in a softmax layer, keys and values; of a lightning layer, in fp32
        self.key_bytes = token_bytes(part, ELEMENT)
        self.state_bytes = part["num_attention_heads"] * part["head_dim"] ** 2 * 4

    def other(self, **changes) -> "Capacity":
        """The same with another machine or dtype."""
        same = {"config": self.config, "gpus": self.count, "memory": self.memory, "dtype": self.dtype, "tp": self.tp}
        return Capacity(**same | changes)

    def shares_equally(self, gpus: int) -> bool:
        """Whether so many ranks can split this model."""
        from ..parallel.reading import require_parts

        try:
            require_parts(self.config, gpus)
        except UsageMistake:
            return False
        return True

    def keys(self, gpu: Gpu, tokens: int, batch: int) -> int:
        return gpu.softmax * self.key_bytes * tokens * batch

    def states(self, gpu: Gpu, batch: int) -> int:
        return gpu.lightning * self.state_bytes * batch

    def kept(self, gpu: Gpu, context: int, batch: int) -> int:
        """Bytes that stay from token to token."""
        return gpu.weights + self.keys(gpu, context, batch) + self.states(gpu, batch)

    def piece(self, context: int, batch: int) -> int:
        """Tokens of a prompt at a time: as many as the fullest GPU has room for.

        Ranks take as many as a single process with room enough, so that all take the same (prefill.py).
        """
        free = self.memory - RESERVE - max(self.kept(gpu, context, batch) for gpu in self.layout.gpus)
        free = free if self.layout.fits and not self.tp else LIMIT  # on GPUs that would hold the weights
        return min(context, piece_tokens(self.config, batch, context, ELEMENT, free, **self.how))

    def workspace(self, gpu: Gpu, context: int, batch: int, piece: int, static: bool) -> int:
        """Bytes beside what is kept, when they are most; none where no layer lies."""
        if not gpu.layers:
            return 0
        reading = workspace_bytes(self.part, batch, piece, context, ELEMENT, **self.how)
        reading = max(reading, self.growing(gpu, context, batch) + CUBLAS)
        if not static:
            return reading
        return max(self.returning(gpu, context, batch) + reading, self.taking(gpu, context, batch) + CUBLAS)

    def growing(self, gpu: Gpu, context: int, batch: int) -> int:
        """To append tokens to a cache without room, the keys of one layer are copied, then its values."""
        return self.key_bytes * context * batch // 2 if gpu.softmax else 0

    def taking(self, gpu: Gpu, context: int, batch: int) -> int:
        """The first step copies the cache into buffers, which have more room, and frees what it has copied.

        It goes layer by layer, so beside the buffers there is one layer's cache; and the states, which are made first.
        """
        one_layer = self.key_bytes * context * batch if gpu.softmax else 0
        return self._more_room(gpu, context, batch) + one_layer + self.states(gpu, batch)

    def returning(self, gpu: Gpu, context: int, batch: int) -> int:
        """What is there when a conversation goes on with another prompt: its cache still lies in the large buffers.

        Small ones are kept by the decoder, beside the keys that the pass copies out of them.
        """
        from ..decode.buffers import LARGE, room_for

        if room_for(context + 1) * batch >= LARGE:
            return self._more_room(gpu, context, batch)
        return self.keys(gpu, room_for(context + 1), batch) + self.states(gpu, batch)

    def _more_room(self, gpu: Gpu, context: int, batch: int) -> int:
        from ..decode.buffers import room_for

        return self.keys(gpu, room_for(context + 1) - context, batch)

    def needed(self, context: int, batch: int, static: bool, piece: int | None = None) -> list[int]:
        """Bytes on each GPU at its busiest moment after loading; `piece` is chosen if not given."""
        piece = piece or self.piece(context, batch)
        gpus = self.layout.gpus
        return [self.kept(gpu, context, batch) + self.workspace(gpu, context, batch, piece, static) for gpu in gpus]

    def loading(self) -> list[int]:
        """Bytes on each GPU at the busiest moment of loading."""
        return [gpu.weights + (self.layout.while_loading if gpu.layers else 0) for gpu in self.layout.gpus]

    def spare(self, context: int, batch: int, static: bool) -> float:
        """Bytes on the GPU that has least to spare, RESERVE kept; negative if they are missing."""
        return self.memory - RESERVE - max(*self.needed(context, batch, static), *self.loading())

    def fits(self, context: int, batch: int, static: bool = False) -> bool:
        return self.layout.fits and self.spare(context, batch, static) >= 0

    def longest_context(self, batch: int, static: bool = False) -> int:
        """Tokens; 0 where not one fits."""
        low, high = 0, self.config["max_position_embeddings"]
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(middle, batch, static) else (low, middle - 1)
        return low


def part_of_a_rank(config: dict, ranks: int) -> dict:
    """The config of a model that has the widths of one rank's part; of the vocabulary each has all."""
    split = ("num_attention_heads", "num_key_value_heads", "intermediate_size")
    return config | {name: config[name] // ranks for name in split}


@lru_cache(maxsize=256)
def _layout(config: str, gpus: int, memory: float, dtype: str, tp: bool) -> Layout:
    from .placement import place, skeleton

    model = skeleton(json.loads(config), DTYPES[dtype], dtype == "int8")
    weights = {name: weight.nbytes for name, weight in model.named_parameters()}
    if tp:
        return _ranks(model, weights, gpus, memory, dtype)
    each = memory * ALONE if gpus == 1 else memory
    placed = place(model, dict.fromkeys(range(gpus), each) | {"cpu": 100 * sum(weights.values())})
    if {"cpu", "disk"} & set(placed.values()):
        return _layout_without_limit(config, gpus, dtype)
    return _described(model, placed, weights, gpus, True, dtype)


@lru_cache(maxsize=256)
def _layout_without_limit(config: str, gpus: int, dtype: str) -> Layout:
    """Where the weights would lie if the GPUs were larger."""
    from .placement import place, skeleton

    model = skeleton(json.loads(config), DTYPES[dtype], dtype == "int8")
    weights = {name: weight.nbytes for name, weight in model.named_parameters()}
    placed = place(model, dict.fromkeys(range(gpus), 10 * sum(weights.values())))
    return _described(model, placed, weights, gpus, False, dtype)


def _described(model, placed: Mapping, weights: Mapping, gpus: int, fits: bool, dtype: str) -> Layout:
    sizes = Counter()  # by part, as `placed` names them
    for name, size in weights.items():
        part = ".".join(name.split(".")[:3]) if ".layers." in name else name.rpartition(".")[0]
        sizes[part] += size
    found = [_gpu(model, placed, sizes, index) for index in range(gpus)]
    return Layout(found, fits, _by_kind(model, weights), _while_loading(model, dtype))


def _ranks(model, weights: Mapping, count: int, memory: float, dtype: str) -> Layout:
    """All ranks hold as much: a part of each layer and of the head, and WHOLE."""
    whole = WHOLE if not model.config.tie_word_embeddings and model.config.vocab_size % count == 0 else (*WHOLE, "head")
    held = {name: size if any(part in name for part in whole) else size // count for name, size in weights.items()}
    kinds = model.config.layer_types
    rank = Gpu(sum(held.values()), len(kinds), kinds.count("full_attention"), kinds.count("linear_attention"))
    of_all = {kind: count * size for kind, size in _by_kind(model, held).items()}
    return Layout([rank] * count, rank.weights <= memory, of_all, _while_loading(model, dtype) // count)


def _while_loading(model, dtype: str) -> int:
    """In half precision the larger tensor of a layer's experts, while it is joined (measured: load_two_gpus.json).

    For int8 a single matrix of one expert (experts/int8.py): as it is read, in fp32, scaled in fp32, and as integers.
    """
    sizes = model.config
    matrix = sizes.hidden_size * sizes.intermediate_size
    return matrix * (ELEMENT + 4 + 4 + 1) if dtype == "int8" else 2 * matrix * sizes.num_local_experts * ELEMENT


def _gpu(model, placed: Mapping, sizes: Mapping, index: int) -> Gpu:
    here = [name for name, device in placed.items() if device == index]
    size = sum(sizes[name] for name in here)
    kinds = [model.config.layer_types[int(name.rpartition(".")[2])] for name in here if ".layers." in name]
    return Gpu(size, len(kinds), kinds.count("full_attention"), kinds.count("linear_attention"))


def _by_kind(model, weights: Mapping) -> dict[str, int]:
    """Bytes of experts, lightning attention, softmax attention, embedding and head, and the rest."""
    found = Counter()
    for name, size in weights.items():
        if ".experts." in name:
            found[mark("experts")] += size
        elif ".self_attn." in name:
            kind = model.config.layer_types[int(name.split(".")[2])]
            found[mark("lightning attention") if kind == "linear_attention" else mark("softmax attention")] += size
        elif "embed_tokens" in name or "lm_head" in name:
            found[mark("embedding and head")] += size
        else:
            found[mark("norms and routers")] += size
    return dict(found.most_common())
