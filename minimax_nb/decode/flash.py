"""Softmax attention of one query a row over many keys: flash-decoding, in two kernels.

The keys of a pair of row and KV head are cut into pieces, one program each, so that a single row fills the GPU too;
each program keeps a running maximum and sum (arXiv 1805.02867), and a second kernel puts the pieces together. How many
keys there are is read on the device. The query heads that share a KV head are the rows of one small matrix product.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST = 128  # pieces
KEYS = 32  # keys at a time
WAVES = 4  # programs for each multiprocessor, about


def attend(q: Tensor, keys: Tensor, values: Tensor, keep: Tensor, at: Tensor) -> Tensor:
    """q (b, h, n); keys, values (b, g, room, n); keep (b, room) bool; at (1,): the last key to see -> (b, h * n)."""
    batch, grouped, room, width = keys.shape
    heads, pairs = q.shape[1], batch * grouped
    pieces = max(1, min(MOST, room // (2 * KEYS), WAVES * _multiprocessors(q.device) // pairs))
    shared = heads // grouped
    parts = torch.empty(pairs, pieces, shared, width, dtype=torch.float32, device=q.device)
    sums = torch.empty(2, pairs, pieces, shared, dtype=torch.float32, device=q.device)
    rows, block = max(16, triton.next_power_of_2(shared)), max(16, triton.next_power_of_2(width))
    scale, most = width**-0.5, triton.next_power_of_2(pieces)
    _pieces[(pairs, pieces)](
        q, keys, values, keep, at, parts, sums, scale, room, grouped, pieces, sums.stride(0),
        SHARED=shared, ROWS=rows, WIDTH=width, BLOCK=block, KEYS=KEYS, num_warps=4, num_stages=3,
    )  # fmt: skip
    out = torch.empty(batch, heads * width, dtype=q.dtype, device=q.device)
    _together[(pairs * shared,)](parts, sums, out, pieces, sums.stride(0), shared, width, block, most, num_warps=4)
    return out


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8


@triton.jit(do_not_specialize=["grouped", "pieces"])
def _pieces(
    q,
    keys,
    values,
    keep,
    at,
    parts,
    sums,
    scale,
    room,
    grouped,
    pieces,
    stride,
    SHARED: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    KEYS: tl.constexpr,
):
    """A program a pair and piece: the piece's own softmax, its largest score and the sum of its weights."""
    pair, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    length = tl.load(at) + 1
    size = tl.cdiv(tl.cdiv(length, pieces), KEYS) * KEYS
    begin = piece * size
    end = tl.minimum(begin + size, length)
    i, d = tl.arange(0, ROWS), tl.arange(0, BLOCK)
    mine = (i < SHARED)[:, None] & (d < WIDTH)[None, :]
    query = tl.load(q + (pair * SHARED + i)[:, None] * WIDTH + d[None, :], mask=mine, other=0.0)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    out = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in range(begin, end, KEYS):
        token = start + tl.arange(0, KEYS)
        inside = (token < end)[:, None] & (d < WIDTH)[None, :]
        seen = tl.load(keep + (pair // grouped) * room + token, mask=token < end, other=0) != 0
        source = (pair * room + token)[:, None] * WIDTH + d[None, :]
        key = tl.load(keys + source, mask=inside, other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        now = tl.maximum(largest, tl.max(scores, 1))
        safe = tl.where(now == float("-inf"), 0.0, now)  # nothing seen yet: exp(-inf - 0) is 0
        weights = tl.exp(scores - safe[:, None])
        before = tl.exp(largest - safe)
        value = tl.load(values + source, mask=inside, other=0.0)
        out = out * before[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        total = total * before + tl.sum(weights, 1)
        largest = now
    target = (pair * pieces + piece) * SHARED + i
    tl.store(sums + target, largest, mask=i < SHARED)
    tl.store(sums + stride + target, total, mask=i < SHARED)
    tl.store(parts + target[:, None] * WIDTH + d[None, :], out, mask=mine)


@triton.jit(do_not_specialize=["pieces"])
def _together(
    parts,
    sums,
    out,
    pieces,
    stride,
    SHARED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    MOST: tl.constexpr,
):
    """A program a row and head: its pieces, each by how much its largest score is above or below the others'."""
    head = tl.program_id(0).to(tl.int64)
    pair, i = head // SHARED, head % SHARED
    piece, d = tl.arange(0, MOST), tl.arange(0, BLOCK)
    source = (pair * pieces + piece) * SHARED + i
    largest = tl.load(sums + source, mask=piece < pieces, other=float("-inf"))
    total = tl.load(sums + stride + source, mask=piece < pieces, other=0.0)
    most = tl.max(largest)
    share = tl.exp(largest - tl.where(most == float("-inf"), 0.0, most))
    both = (piece < pieces)[:, None] & (d < WIDTH)[None, :]
    part = tl.load(parts + source[:, None] * WIDTH + d[None, :], mask=both, other=0.0)
    row = tl.sum(part * share[:, None], 0) / tl.maximum(tl.sum(total * share), 1e-30)
    tl.store(out + head * WIDTH + d, row.to(out.dtype.element_ty), mask=d < WIDTH)
