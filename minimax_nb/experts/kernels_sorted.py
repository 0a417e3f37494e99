"""Triton kernels for many tokens: slots sorted by expert, then tiles of one expert. CUDA only, no gradients.

Words and shapes are those of kernels.py. A *place* is a slot's position in the sorted order. The products are
for GPUs of compute capability 9.0: descriptors let the copy engine fetch tiles, and the grid is persistent,
so that a program fetches its next tile while it stores the last.

With int8 weights a product is turned round, weights times tokens instead of tokens times weights, because the matrix
units take their first factor from registers too. There the converted weights are; as the second factor they would have
to go through shared memory once more. What they are multiplied by is then kept in the order of kernels_int8.py, in rows
of WIDTH: as many columns, filled up with zeros to a multiple of ORDERED.
"""

import triton
import triton.language as tl

from .kernels_int8 import as_float, finished, ordered, ordered_column


@triton.jit(do_not_specialize=["SLOTS"])
def sort_slots(chosen, order, position, offsets, SLOTS, EXPERTS, BLOCK: tl.constexpr):
    """Slots by expert, within an expert as they came. Grid: experts; each finds its own slots.

    order (slots,): the slot at a place. position (slots,): the place of a slot. offsets (experts + 1,): where
    each expert's places begin.
    """
    expert = tl.program_id(0)
    smaller = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, SLOTS, BLOCK):
        slot = start + tl.arange(0, BLOCK)
        theirs = tl.load(chosen + slot, mask=slot < SLOTS, other=EXPERTS).to(tl.int32)
        smaller += (theirs < expert).to(tl.int32)
    place = tl.sum(smaller)
    tl.store(offsets + expert, place)
    for start in range(0, SLOTS, BLOCK):
        slot = start + tl.arange(0, BLOCK)
        theirs = tl.load(chosen + slot, mask=slot < SLOTS, other=EXPERTS).to(tl.int32)
        mine = (theirs == expert).to(tl.int32)
        at = place + tl.cumsum(mine, 0) - 1
        tl.store(order + at, slot, mask=mine > 0)
        tl.store(position + slot, at, mask=mine > 0)
        place += tl.sum(mine)
    if expert == EXPERTS - 1:
        tl.store(offsets + EXPERTS, place)


@triton.jit
def gather(x, order, out, HIDDEN, WIDTH, TOP_K: tl.constexpr, BLOCK: tl.constexpr, ORDER: tl.constexpr):
    """out (slots, width): the token of each place; if ORDER, its columns in that of kernels_int8.py. Grid: places."""
    place = tl.program_id(0).to(tl.int64)
    token = tl.load(order + place).to(tl.int64) // TOP_K
    for start in range(0, WIDTH, BLOCK):
        column = start + tl.arange(0, BLOCK)
        source = ordered_column(column) if ORDER else column
        values = tl.load(x + token * HIDDEN + source, mask=source < HIDDEN, other=0.0)
        tl.store(out + place * WIDTH + column, values, mask=column < WIDTH)


@triton.jit
def _tile_counts(offsets, EXPERTS, COLUMN_TILES, ROWS: tl.constexpr, PADDED: tl.constexpr):
    """Of each expert its first and last place and how many tiles it and those before it have."""
    expert = tl.arange(0, PADDED)
    first = tl.load(offsets + expert, mask=expert < EXPERTS, other=0)
    last = tl.load(offsets + expert + 1, mask=expert < EXPERTS, other=0)
    tiles = tl.cdiv(last - first, ROWS) * COLUMN_TILES
    return first, last, tiles, tl.cumsum(tiles, 0)


@triton.jit
def _tile(
    number, first, last, tiles, upto, COLUMN_TILES, ROWS: tl.constexpr, GROUP: tl.constexpr, PADDED: tl.constexpr
):
    """The expert of tile `number`, its first place, where the expert's places end, its tile of columns.

    Tiles that follow each other share weights and tokens: GROUP tiles of places, for one tile of columns
    after the other, so that the L2 cache still holds what the neighbours read.
    """
    index = tl.arange(0, PADDED)
    expert = tl.sum((upto <= number).to(tl.int32))
    is_it = index == expert
    begin = tl.sum(tl.where(is_it, first, 0))
    end = tl.sum(tl.where(is_it, last, 0))
    local = number - tl.sum(tl.where(is_it, upto - tiles, 0))
    row_tiles = tl.cdiv(end - begin, ROWS)
    group = local // (GROUP * COLUMN_TILES)
    local = local - group * GROUP * COLUMN_TILES
    size = min(row_tiles - group * GROUP, GROUP)
    return expert, begin + (group * GROUP + local % size) * ROWS, end, local // size


@triton.jit
def many_gate_up(
    tokens,
    gate_up,
    scales,
    offsets,
    inner,
    EXPERTS,
    HIDDEN,
    INTER,
    WIDTH,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    FLATTEN: tl.constexpr,
):
    """inner (places, width) = silu(gate x) * (up x). Persistent: each program takes every so many-th tile.

    tokens: descriptor of (places, hidden), blocks (ROWS, BLOCK). gate_up: descriptor of (experts * 2, inter,
    hidden), blocks (2, COLUMNS, BLOCK): the same rows of the gate and of the up projection side by side, for
    one product twice as wide, which reads the tokens' block once.
    """
    column_tiles = tl.cdiv(INTER, COLUMNS)
    first, last, tiles, upto = _tile_counts(offsets, EXPERTS, column_tiles, ROWS, PADDED)
    total = tl.sum(tiles)
    for number in tl.range(tl.program_id(0), total, tl.num_programs(0), flatten=FLATTEN):
        found = _tile(number, first, last, tiles, upto, column_tiles, ROWS, GROUP, PADDED)
        expert, place, end, column = found
        if scales is None:
            both = tl.zeros((ROWS, 2 * COLUMNS), tl.float32)
            for start in range(0, HIDDEN, BLOCK):
                x = tokens.load([place, start])
                w = gate_up.load([expert * 2, column * COLUMNS, start]).reshape(2 * COLUMNS, BLOCK)
                both = tl.dot(x, w.T, both)
            gate, up = both.reshape(ROWS, 2, COLUMNS).permute(0, 2, 1).split()
        else:
            turned = tl.zeros((2 * COLUMNS, ROWS), tl.float32)
            for start in range(0, HIDDEN, BLOCK):
                x = tokens.load([place, start])
                w = gate_up.load([expert * 2, column * COLUMNS, start]).reshape(2 * COLUMNS, BLOCK)
                turned = tl.dot(as_float(ordered(w), x.dtype, True), x.T, turned, input_precision="ieee")
                turned = finished(turned)
            output = column * COLUMNS + tl.arange(0, COLUMNS)
            gate_scales = scales + expert * 2 * INTER + output
            gate, up = turned.reshape(2, COLUMNS, ROWS).permute(2, 1, 0).split()
            gate *= tl.load(gate_scales, mask=output < INTER, other=0.0)[None, :]
            up *= tl.load(gate_scales + INTER, mask=output < INTER, other=0.0)[None, :]
        result = (gate * tl.sigmoid(gate) * up).to(inner.dtype.element_ty)
        if scales is not None:
            result = ordered(result)
        row = place + tl.arange(0, ROWS)
        at = column * COLUMNS + tl.arange(0, COLUMNS)
        mask = (row < end)[:, None] & (at < WIDTH)[None, :]
        tl.store(inner + row.to(tl.int64)[:, None] * WIDTH + at[None, :], result, mask=mask)


@triton.jit
def many_down(
    inner,
    down,
    scales,
    offsets,
    parts,
    EXPERTS,
    HIDDEN,
    INTER,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    FLATTEN: tl.constexpr,
):
    """parts (places, hidden) = down inner, not yet weighted. Descriptors as in many_gate_up."""
    column_tiles = tl.cdiv(HIDDEN, COLUMNS)
    first, last, tiles, upto = _tile_counts(offsets, EXPERTS, column_tiles, ROWS, PADDED)
    total = tl.sum(tiles)
    for number in tl.range(tl.program_id(0), total, tl.num_programs(0), flatten=FLATTEN):
        found = _tile(number, first, last, tiles, upto, column_tiles, ROWS, GROUP, PADDED)
        expert, place, end, column = found
        if scales is None:
            part = tl.zeros((ROWS, COLUMNS), tl.float32)
            for start in range(0, INTER, BLOCK):
                values = inner.load([place, start])
                d = down.load([expert * HIDDEN + column * COLUMNS, start])
                part = tl.dot(values, d.T, part)
        else:
            turned = tl.zeros((COLUMNS, ROWS), tl.float32)
            for start in range(0, INTER, BLOCK):
                values = inner.load([place, start])
                d = down.load([expert * HIDDEN + column * COLUMNS, start])
                turned = tl.dot(as_float(ordered(d), values.dtype, True), values.T, turned, input_precision="ieee")
                turned = finished(turned)
            output = column * COLUMNS + tl.arange(0, COLUMNS)
            part = turned.T * tl.load(scales + expert * HIDDEN + output, mask=output < HIDDEN, other=0.0)[None, :]
        row = place + tl.arange(0, ROWS)
        at = column * COLUMNS + tl.arange(0, COLUMNS)
        mask = (row < end)[:, None] & (at < HIDDEN)[None, :]
        target = parts + row.to(tl.int64)[:, None] * HIDDEN + at[None, :]
        tl.store(target, part.to(parts.dtype.element_ty), mask=mask)
