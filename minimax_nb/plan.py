"""Does it fit, and how long may a conversation be? The memory that MiniMax takes on so many GPUs, by arithmetic.

    found = plan(gpus=8, gpu_memory=80, dtype="int8", context=131072)      # of MiniMax-Text-01, or of a folder's config
    found.fits, found.max_context, found.per_gpu_gb
    print(found.report)

GB are 1e9 bytes. Counted on each GPU, at its busiest moment after loading:

- *weights*: the layers that `load` puts there (planner/placement.py). int8 means int8 experts, the rest bf16.
- *KV cache*: keys and values of `context` tokens in the softmax layers of that GPU.
- *lightning state*: heads x head_dim x head_dim numbers in fp32, for each lightning layer and sequence.
- *workspace*: what comes on top, at its most. While reading a prompt: the temporary values of one piece (pieces.py).
  When the first token is decoded: the static keys and values (decode/buffers.py), which have room for a power of two
  of tokens, take over the cache layer by layer. So there are they, one layer's cache, and a second state. Where there
  is no room for them, decoding is "plain": then the keys of one layer at a time are copied as they grow.

`tp` plans for tensor parallel (minimax_nb.parallel): each GPU is a rank with 1/N of heads, keys, states, experts and
head, and all of the embedding, the routers and the norms between layers.

Loading takes more for a moment, `loading_gb`: in bf16 the larger tensor of a layer's experts, until it is joined
(measured: notebooks/results/load_two_gpus.json); in int8 one matrix. And each GPU must keep 1 GB for CUDA itself
(RESERVE, not measured). Not counted: fragmentation, and other processes.

Against published figures: weights in bf16 take 912 GB, as MiniMax says. The keys and values of a million tokens take
40.96 GB, which are the 38.2 "GB" of MiniMax's guide in GiB. For int8 on 8 x 80 GB the guide gives two million tokens,
for bf16 on 8 x 141 GB one million. That is vLLM, which cuts every layer into eight equal parts. `load` puts whole
layers on each GPU, of which two have two layers with keys of every token and are full earlier. The table in
notebooks/README.md has our figures; a test holds it to `table` below.

Against memory: for 8 layers on one H200, in bf16 and int8 and with up to 524,288 tokens, the plan was 0.19 % below the
peak to 2.54 % above it (notebooks/results/plan_memory_h200.json); for 40 layers by tensor parallel on two H200 within
1.1 % (full_model_h200_x2.json there). Whole layers on several GPUs were not measured.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .errors import UsageMistake
from .language import mark, speaking
from .planner import words
from .planner.capacity import DTYPES, GB, RESERVE, Capacity

PARTS = (mark("weights"), mark("KV cache"), mark("lightning state"), mark("workspace"))
MOST_GPUS = 1024
LONGEST = 131072  # tokens, where a config does not say: max_position_embeddings of Transformers' MiniMaxConfig
CARDS = (  # GPUs that people have: GB of one, names
    (80, "A100, H100"),
    (96, "H20"),
    (141, "H200"),
    (192, "B200"),
)


class Plan(NamedTuple):
    """What `plan` found. GB are 1e9 bytes; lists have an entry for each GPU."""

    weights_gb: float
    kv_cache_gb: float
    lightning_state_gb: float
    workspace_gb: float  # the most on each GPU, all of them together
    total_gb: float
    per_gpu_gb: list[float]  # weights, cache, state and workspace
    parts_per_gpu_gb: list[dict[str, float]]  # the same, one by one, by the names of PARTS
    fits: bool
    max_context: int  # tokens; 0 if not even the weights fit
    max_static_context: int  # up to which decoding is static, which is faster
    decoding: str  # "static" or "plain", for this context
    piece_tokens: int  # of a prompt at a time
    spare_gb: float  # on the GPU that has least to spare; negative if so much is missing
    weights_by_kind_gb: dict[str, float]
    layers_per_gpu: list[int]
    loading_gb: list[float]  # the most while loading
    gpus: int
    gpu_memory_gb: float
    dtype: str
    tp: bool
    context: int
    batch: int
    advice: str  # the cheapest change with which it would fit; nothing if it fits
    report: str  # all of it in words, as `minimax-nb plan` prints it

    def to_json(self) -> dict:
        """Everything but the report, rounded to a kB."""
        return {name: _rounded(value) for name, value in self._asdict().items() if name != "report"}


def plan(
    path: str | Path | None = None,
    *,
    gpus: int,
    gpu_memory: float,
    dtype: str = "bf16",
    context: int,
    batch: int = 1,
    tp: bool = False,
) -> Plan:
    """What MiniMax-Text-01, or the model of the folder `path`, needs on so many equal GPUs, and whether they have it.

    path: a folder with config.json, original or converted; its weights are not read. gpu_memory: GB of one GPU, as
    `minimax-nb doctor` prints it, which is more than the box says. dtype: "bf16", "fp16" or "int8"; a folder whose
    weights are quantised is planned as "int8" in any case. context: tokens of a conversation in all, prompts and
    replies. batch: conversations at a time. tp: for load(path, tp=True), one process a GPU.
    UsageMistake for numbers that no machine has, or that cannot split the model; CheckpointError or ConfigError for a
    folder without a usable config.
    """
    with speaking("en"):
        return planned(path, gpus=gpus, gpu_memory=gpu_memory, dtype=dtype, context=context, batch=batch, tp=tp)


def planned(path=None, *, gpus, gpu_memory, dtype="bf16", context, batch=1, tp=False) -> Plan:
    """The same, in the language that is spoken here."""
    config, name, quantised = _native_config(path)
    _check(gpus, gpu_memory, dtype, context, batch, config["max_position_embeddings"])
    if tp:
        _check_split(config, gpus, quantised)
    dtype = "int8" if quantised else dtype
    return _planned(Capacity(config, gpus, gpu_memory * GB, dtype, tp), name, context, batch)


def advice_here(config: dict, dtype: str, free: list[int], int8_experts: bool) -> str:
    """In a sentence what to do where the weights of a model do not fit on the GPUs that have so many bytes free.

    dtype: that it would be loaded in, "float32" too.
    """
    from .planner.placement import skeleton

    here = Capacity(config, len(free), min(free) + RESERVE, "int8" if int8_experts else "bf16")
    weights = sum(weight.nbytes for weight in skeleton(config, dtype, int8_experts).parameters())
    with speaking("en"):  # it becomes part of an exception
        advice, held = words.advice(here, words.USEFUL, 1, in_load=True), words.gpus(len(free))
    if dtype == "float32" and here.fits(words.USEFUL, 1):
        advice = 'Cheapest change: half precision, dtype="float16" or --dtype fp16.'
    have = f"{held} with {words.size_of(sum(free) / GB)} free"
    return f"{words.size_of(weights / GB)} of weights on {have}. {advice}"


def table(counts: tuple[int, ...] = (8, 4, 2)) -> str:
    """GPU kind x dtype: the longest context of MiniMax-Text-01 that fits, or what is missing. In Markdown."""
    config, *_ = _native_config(None)
    lines = ["| GPUs | bf16 | int8 experts | bf16, `tp` | int8 experts, `tp` |", "|---|---|---|---|---|"]
    ways = [(dtype, tp) for tp in (False, True) for dtype in ("bf16", "int8")]
    for count in counts:
        for size, names in CARDS:
            cells = [_cell(Capacity(config, count, size * GB, *way)) for way in ways]
            if any(cell[0] != "n" for cell in cells):
                lines.append(f"| {count} x {size} GB ({names}) | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(machine) -> str:
    longest, static = machine.longest_context(1), machine.longest_context(1, static=True)
    if longest < words.USEFUL:
        return f"no, {words.missing(machine, words.USEFUL, 1):,.0f} GB short"
    return f"{_short(longest)}, static {_short(static)}"


def _short(tokens: int) -> str:
    """ "1.3 M" or "640 k", rounded down."""
    return f"{tokens // 10_000 / 100:g} M" if tokens >= 10**6 else f"{tokens // 1000} k"


def _native_config(path) -> tuple[dict, str, bool]:
    """The converted config of a folder, or of MiniMax-Text-01; a name for it; whether its weights are quantised."""
    from .config import MARKER, patch_config, restore_config
    from .original import original_config

    if path is None:
        return patch_config(original_config()), "MiniMax-Text-01", False
    from .checkpoint.folder import read_config

    folder = Path(path).expanduser()
    config = read_config(folder)
    quantised = MARKER in config and bool(config.pop("quantization_config", None))
    native = patch_config(restore_config(config) if MARKER in config else config)  # again, for it checks all values
    native.setdefault("max_position_embeddings", LONGEST)
    return native, folder.resolve().name, quantised


def _check(gpus, gpu_memory, dtype, context, batch, longest: int) -> None:
    for what, value in (("GPUs", gpus), ("tokens of context", context), ("conversations at a time", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageMistake(f"{value!r} {what}: give a whole number above 0")
    if gpus > MOST_GPUS:
        raise UsageMistake(f"{gpus} GPUs: give {MOST_GPUS} at most")
    if isinstance(gpu_memory, bool) or not isinstance(gpu_memory, int | float) or not 0 < gpu_memory < math.inf:
        raise UsageMistake(f"{gpu_memory!r} GB of memory on a GPU: give a number above 0, such as 80")
    if dtype not in DTYPES:
        raise UsageMistake(f"dtype {dtype!r} is none of {', '.join(DTYPES)}")
    if context > longest:
        raise UsageMistake(f"{context:,} tokens of context: this model takes {longest:,} at most")


def _check_split(config: dict, gpus: int, quantised: bool) -> None:
    from .parallel.reading import QUANTISED, require_parts

    if quantised:
        raise UsageMistake(QUANTISED)
    require_parts(config, gpus)


def _planned(machine, name: str, context: int, batch: int) -> Plan:
    static = machine.fits(context, batch, static=True)
    fits = static or machine.fits(context, batch)
    gpus, needed = machine.layout.gpus, machine.needed(context, batch, static)
    parts = [_parts(machine, *gpu_and_all, context, batch) for gpu_and_all in zip(gpus, needed, strict=True)]
    weights, keys, states, workspace = (sum(part[name] for part in parts) for name in PARTS)
    found = Plan(
        weights_gb=weights,
        kv_cache_gb=keys,
        lightning_state_gb=states,
        workspace_gb=workspace,
        total_gb=sum(needed) / GB,
        per_gpu_gb=[size / GB for size in needed],
        parts_per_gpu_gb=parts,
        fits=fits,
        max_context=machine.longest_context(batch),
        max_static_context=machine.longest_context(batch, static=True),
        decoding="static" if static else "plain",
        piece_tokens=machine.piece(context, batch),
        spare_gb=machine.spare(context, batch, static) / GB,
        weights_by_kind_gb={kind: size / GB for kind, size in machine.layout.kinds.items()},
        layers_per_gpu=[gpu.layers for gpu in gpus],
        loading_gb=[size / GB for size in machine.loading()],
        gpus=machine.count,
        gpu_memory_gb=machine.memory / GB,
        dtype=machine.dtype,
        tp=machine.tp,
        context=context,
        batch=batch,
        advice="" if fits else words.advice(machine, context, batch),
        report="",
    )
    why = "" if fits else words.reason(machine, context, batch)
    return found._replace(report="\n".join([*words.lines(found, name), *words.verdict(found, why)]))


def _parts(machine, gpu, needed: int, context: int, batch: int) -> dict[str, float]:
    """What makes up the bytes `needed` on a GPU, in GB."""
    held = gpu.weights, machine.keys(gpu, context, batch), machine.states(gpu, batch)
    return {name: size / GB for name, size in zip(PARTS, (*held, needed - sum(held)), strict=True)}


def _rounded(value):
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return {key: _rounded(one) for key, one in value.items()} if isinstance(value, Mapping) else value
