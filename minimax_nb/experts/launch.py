"""Which kernels compute a mixture of experts of how many tokens, and with which tiles.

The tiles were chosen on an H200 at the real width; `python benchmarks/experts.py --sweep` measures others beside them.
Other GPUs run the same, in fewer stages where their shared memory is smaller.
"""

from contextlib import nullcontext
from functools import cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import kernels, kernels_int8, kernels_sorted

FEW = 64  # so many tokens at most go through the kernels that read an expert once and sort nothing
CHUNK = 65536  # of many tokens so many at a time, which bounds the memory: 4 GB at the real width, in bf16

# By the weights: for one token, for some and for many. ROWS are rows of weights in the first two and of tokens in the
# third, where COLUMNS are rows of weights; BLOCK is along what is summed over. Four warps with int8 weights, so that a
# multiprocessor has two programs: the weights of one become floating point while the other's products are computed.
_HALF = {"ROWS": 128, "BLOCK": 64, "GROUP": 8, "FLATTEN": True, "num_warps": 8, "num_stages": 4}
_INT8 = {"ROWS": 128, "BLOCK": 64, "GROUP": 8, "FLATTEN": False, "num_warps": 4, "num_stages": 4}
TILES = {
    "half": {
        "one": {
            "gate_up": {"ROWS": 4, "BLOCK": 2048, "num_warps": 4},
            "down": {"ROWS": 8, "BLOCK": 2048, "num_warps": 8},
        },
        "few": {
            "gate_up": {"ROWS": 64, "BLOCK": 128, "num_warps": 4, "num_stages": 4},
            "down": {"ROWS": 64, "BLOCK": 128, "num_warps": 4, "num_stages": 4},
        },
        "many": {"gate_up": _HALF | {"COLUMNS": 128}, "down": _HALF | {"COLUMNS": 256}},
    },
    "int8": {
        "one": {
            "gate_up": {"ROWS": 4, "BLOCK": 2048, "num_warps": 4},
            "down": {"ROWS": 8, "BLOCK": 1024, "num_warps": 2},
        },
        "few": {
            "gate_up": {"ROWS": 64, "BLOCK": 128, "num_warps": 4, "num_stages": 4},
            "down": {"ROWS": 64, "BLOCK": 128, "num_warps": 4, "num_stages": 3},
        },
        "many": {"gate_up": _INT8 | {"COLUMNS": 64}, "down": _INT8 | {"COLUMNS": 128}},
    },
}


class Experts(NamedTuple):
    """The weights of a layer's experts, without gaps; hidden and inter multiples of 16."""

    gate_up: Tensor  # (experts, 2 * inter, hidden), the gate first
    down: Tensor  # (experts, hidden, inter)
    gate_up_scale: Tensor | None = None  # (experts, 2 * inter) in fp32, with int8 weights
    down_scale: Tensor | None = None  # (experts, hidden)

    def tiles(self, how_many: str) -> dict:
        return TILES["half" if self.gate_up_scale is None else "int8"][how_many]


def mixture_of_experts(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    chosen: Tensor,
    weights: Tensor,
    gate_up_scale: Tensor | None = None,
    down_scale: Tensor | None = None,
) -> Tensor:
    """The sum over a token's k experts of weight * down(silu(gate x) * (up x)), accumulated in fp32.

    x: (tokens, hidden), bf16 or fp16. gate_up, down: as Experts has them, of x's dtype, or int8 with scales; with those
    x may be fp32. chosen: (tokens, k), integers, the experts of a token all different. weights: (tokens, k), any
    floating dtype. Returns (tokens, hidden) in x's dtype. The same input gives the same output, to the bit. Nothing
    waits for the device, so a CUDA graph can record it.
    """
    if torch.compiler.is_compiling():
        return torch.ops.minimax_nb.mixture_of_experts(x, gate_up, down, chosen, weights, gate_up_scale, down_scale)
    return _mixture(x, gate_up, down, chosen, weights, gate_up_scale, down_scale)  # without calling an operator


def _mixture(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    chosen: Tensor,
    weights: Tensor,
    gate_up_scale: Tensor | None,
    down_scale: Tensor | None,
) -> Tensor:
    held = Experts(gate_up, down, gate_up_scale, down_scale)
    x, chosen, weights = x.contiguous(), chosen.contiguous(), weights.contiguous()
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        if len(x) == 1:
            return one(x, held, chosen, weights)
        if len(x) <= FEW:
            return few(x, held, chosen, weights)
        out = torch.empty_like(x)
        for start in range(0, len(x), CHUNK):
            piece = slice(start, start + CHUNK)
            many(x[piece], held, chosen[piece], weights[piece], out[piece])
        return out


_operator = torch.library.custom_op("minimax_nb::mixture_of_experts", _mixture, mutates_args=())


@_operator.register_fake
def _(x, gate_up, down, chosen, weights, gate_up_scale, down_scale):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def one(x: Tensor, held: Experts, chosen: Tensor, weights: Tensor, tiles: dict | None = None) -> Tensor:
    """A single token; shapes as in mixture_of_experts."""
    _, hidden, inter = held.down.shape
    slots, tiles = chosen.numel(), tiles or held.tiles("one")
    inner, out = x.new_empty(slots, inter), torch.empty_like(x)
    wide = {"WIDE": 16 // held.down.itemsize}
    tile = wide | _fit(tiles["gate_up"], hidden)
    grid = (triton.cdiv(inter, tile["ROWS"]), slots)
    kernels.one_gate_up[grid](x, held.gate_up, held.gate_up_scale, chosen, inner, hidden, inter, **tile)
    tile = wide | _fit(tiles["down"], inter)
    grid = (triton.cdiv(hidden, tile["ROWS"]),)
    weights_of = (held.down, held.down_scale)
    kernels.one_down[grid](inner, *weights_of, chosen, weights, out, hidden, inter, TOP_K=slots, **tile)
    return out


def few(x: Tensor, held: Experts, chosen: Tensor, weights: Tensor, tiles: dict | None = None) -> Tensor:
    """Some tokens, all of them in each tile; shapes as in mixture_of_experts."""
    (tokens, hidden), (experts, _, inter), top_k = x.shape, held.down.shape, chosen.shape[1]
    tiles = tiles or held.tiles("few")
    x, width, inner_width = _in_order(x, held)
    inner = x.new_empty(tokens * top_k, inner_width)
    parts = x.new_empty(tokens * top_k, hidden, dtype=torch.float32)
    columns = max(16, triton.next_power_of_2(tokens))  # the least that the matrix units take
    by_slot = tokens * top_k <= experts
    places = min(tokens * top_k, experts)
    shared = {"TOP_K": top_k, "BY_SLOT": by_slot, "COLUMNS": columns}
    shared["PADDED"] = triton.next_power_of_2(columns * top_k)
    tile = shared | _fit(tiles["gate_up"], width)
    tile |= _stages(tile, 2 * tile["ROWS"] * held.gate_up.itemsize + columns * x.itemsize, x)
    grid, sizes = (triton.cdiv(inter, tile["ROWS"]), places), (tokens, hidden, inter)
    of_x = (*sizes, width, inner_width)
    kernels.few_gate_up[grid](x, held.gate_up, held.gate_up_scale, chosen, inner, *of_x, **tile)
    tile = shared | _fit(tiles["down"], inner_width)
    tile |= _stages(tile, tile["ROWS"] * held.down.itemsize + columns * x.itemsize, x)
    grid = (triton.cdiv(hidden, tile["ROWS"]), places)
    kernels.few_down[grid](inner, held.down, held.down_scale, chosen, parts, *sizes, inner_width, **tile)
    return _combined(parts, None, weights, x.new_empty(tokens, hidden))


def many(x: Tensor, held: Experts, chosen: Tensor, weights: Tensor, out: Tensor, tiles: dict | None = None) -> Tensor:
    """Any number of tokens, sorted by expert; shapes as in mixture_of_experts, the result in `out`."""
    (_, hidden), (experts, _, inter), top_k = x.shape, held.down.shape, chosen.shape[1]
    slots = chosen.numel()
    tiles = tiles or held.tiles("many")
    order, position, offsets = sorted_by_expert(chosen, experts)
    in_order = held.gate_up_scale is not None
    width, inner_width = (_filled_up(n) if in_order else n for n in (hidden, inter))
    places = x.new_empty(slots, width)
    block = min(2048, triton.next_power_of_2(width))
    kernels_sorted.gather[(slots,)](x, order, places, hidden, width, TOP_K=top_k, BLOCK=block, ORDER=in_order)
    inner = x.new_empty(slots, inner_width)
    padded = triton.next_power_of_2(experts)

    tile = tiles["gate_up"]
    left = TensorDescriptor.from_tensor(places, [tile["ROWS"], tile["BLOCK"]])
    pairs = held.gate_up.view(2 * experts, inter, hidden)
    right = TensorDescriptor.from_tensor(pairs, [2, tile["COLUMNS"], tile["BLOCK"]])
    grid = _programs(x.device, slots, experts, inter, tile)
    sizes = (experts, hidden, inter)
    of_inner = (inner, *sizes, inner_width)
    kernels_sorted.many_gate_up[grid](left, right, held.gate_up_scale, offsets, *of_inner, PADDED=padded, **tile)

    tile = tiles["down"]
    left = TensorDescriptor.from_tensor(inner, [tile["ROWS"], tile["BLOCK"]])
    right = TensorDescriptor.from_tensor(held.down.view(-1, inter), [tile["COLUMNS"], tile["BLOCK"]])
    grid = _programs(x.device, slots, experts, hidden, tile)
    places = places.view(-1)[: slots * hidden].view(slots, hidden)  # they were read, and hold the result now
    kernels_sorted.many_down[grid](left, right, held.down_scale, offsets, places, *sizes, PADDED=padded, **tile)
    return _combined(places, position, weights, out)


def _in_order(x: Tensor, held: Experts) -> tuple[Tensor, int, int]:
    """x as the weights want its columns, how many it has then, and how many what lies between the two products."""
    _, hidden, inter = held.down.shape
    if held.down_scale is None:
        return x, hidden, inter
    width, block = _filled_up(hidden), min(1024, triton.next_power_of_2(hidden))
    out = x.new_empty(len(x), width)
    kernels.in_order[len(x), triton.cdiv(width, block)](x, out, hidden, width, BLOCK=block)
    return out, width, _filled_up(inter)


def _filled_up(columns: int) -> int:
    ordered = kernels_int8.ORDERED.value
    return triton.cdiv(columns, ordered) * ordered


def sorted_by_expert(chosen: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """chosen (tokens, k) -> order, position (slots,) and offsets (experts + 1,): kernels_sorted.sort_slots."""
    slots = chosen.numel()
    order, position = torch.empty(2, slots, dtype=torch.int32, device=chosen.device)
    offsets = torch.empty(experts + 1, dtype=torch.int32, device=chosen.device)
    block = min(4096, max(128, triton.next_power_of_2(slots)))
    found = (order, position, offsets)
    kernels_sorted.sort_slots[(experts,)](chosen, *found, slots, experts, BLOCK=block, num_warps=8)
    return found


def _combined(parts: Tensor, position: Tensor | None, weights: Tensor, out: Tensor) -> Tensor:
    tokens, hidden = out.shape
    block = min(1024, triton.next_power_of_2(hidden))
    grid = (tokens, triton.cdiv(hidden, block))
    kernels.combine[grid](parts, position, weights, out, hidden, TOP_K=weights.shape[1], BLOCK=block)
    return out


def _fit(tile: dict, width: int) -> dict:
    """The tile with a BLOCK that is not wider than what is summed over."""
    return tile | {"BLOCK": min(tile["BLOCK"], triton.next_power_of_2(width))}


def _stages(tile: dict, column: int, x: Tensor) -> dict:
    """As many stages as the shared memory of this GPU holds. column: bytes of one of a stage's BLOCK columns."""
    if not x.is_cuda:
        return {}
    room = torch.cuda.get_device_properties(x.device).shared_memory_per_block_optin
    return {"num_stages": max(1, min(tile["num_stages"], room // (column * tile["BLOCK"])))}


def _programs(device: torch.device, slots: int, experts: int, columns: int, tile: dict) -> tuple[int]:
    """As many programs as run at a time, eight warps a multiprocessor, or fewer where there are fewer tiles."""
    most = (triton.cdiv(slots, tile["ROWS"]) + experts) * triton.cdiv(columns, tile["COLUMNS"])
    return (min(_multiprocessors(device) * 8 // tile["num_warps"], most),)


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
