"""Triton kernels of a mixture of experts: SwiGLU, each token through its top-k. CUDA only, no gradients.

Of expert e, gate_up[e] is (2 * inter, hidden), the gate's rows before the up projection's, and down[e]
(hidden, inter). A token's row of `chosen` names its k experts. A *slot* is one pair of a token and an expert:
slot = token * k + j.

One token          matrix times vector: a program computes a few rows of one chosen expert.
Few tokens         a program computes a tile of rows of one chosen expert for all tokens, because the
                   multiplications of the tokens that did not choose it cost nothing while weights are read.
Many tokens        the slots are sorted by expert, then a program computes tiles of one expert's slots:
                   kernels_sorted.py.

In the first two an expert is read once, however many tokens chose it. Experts and slots are counted on the
device: nothing here waits for it, and a CUDA graph can hold all of it.

Weights are of the tokens' dtype, or int8 with `scales`, an fp32 number a row: (experts, 2 * inter) of gate_up,
(experts, hidden) of down. A row is one output, so its scale comes where its sum is complete, before the silu and
before the routing weight. Without scales a kernel is compiled as if they did not exist.
"""

import triton
import triton.language as tl

from .kernels_int8 import as_float, finished, ordered, ordered_column, ordered_place

# ---- one token ---------------------------------------------------------------------------------------------


@triton.jit
def _thread_sums(products, WIDE: tl.constexpr):
    """(rows, columns) -> (rows, columns // WIDE): what one thread has read with one instruction is added up at once.

    Otherwise a thread holds a sum for each of its weights. With int8 weights that is 166 registers in place of 64, and
    then too few threads run beside each other to keep the memory busy.
    """
    ROWS: tl.constexpr = products.shape[0]
    return tl.sum(products.reshape(ROWS, products.shape[1] // WIDE, WIDE), 2)


@triton.jit
def one_gate_up(
    x,
    gate_up,
    scales,
    chosen,
    inner,
    HIDDEN,
    INTER,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """inner (k, inter) = silu(gate x) * (up x). Grid: rows of an expert, slots. WIDE: weights of 16 bytes."""
    expert = tl.load(chosen + tl.program_id(1)).to(tl.int64)  # 32 * 2 * 9216 * 6144 is beyond 32 bits
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    gate_rows = gate_up + expert * 2 * INTER * HIDDEN + row[:, None] * HIDDEN
    up_rows = gate_rows + INTER * HIDDEN
    gate = tl.zeros((ROWS, BLOCK // WIDE), tl.float32)
    up = tl.zeros((ROWS, BLOCK // WIDE), tl.float32)
    for start in range(0, HIDDEN, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = (row < INTER)[:, None] & (column < HIDDEN)[None, :]
        values = tl.load(x + column, mask=column < HIDDEN, other=0.0).to(tl.float32)[None, :]
        g = tl.load(gate_rows + column[None, :], mask=inside, other=0.0, eviction_policy="evict_first")
        u = tl.load(up_rows + column[None, :], mask=inside, other=0.0, eviction_policy="evict_first")
        gate += _thread_sums(as_float(g, tl.float32) * values, WIDE)
        up += _thread_sums(as_float(u, tl.float32) * values, WIDE)
    gate, up = tl.sum(gate, 1), tl.sum(up, 1)
    if scales is not None:
        gate_scales = scales + expert * 2 * INTER + row
        gate *= tl.load(gate_scales, mask=row < INTER, other=0.0)
        up *= tl.load(gate_scales + INTER, mask=row < INTER, other=0.0)
    result = gate * tl.sigmoid(gate) * up
    tl.store(inner + tl.program_id(1) * INTER + row, result.to(inner.dtype.element_ty), mask=row < INTER)


@triton.jit
def one_down(
    inner,
    down,
    scales,
    chosen,
    weights,
    out,
    HIDDEN,
    INTER,
    TOP_K: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out (hidden,) = the sum over the token's experts of weight * (down inner). Grid: rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, BLOCK // WIDE), tl.float32)
    for slot in tl.static_range(TOP_K):
        expert = tl.load(chosen + slot).to(tl.int64)
        weight = tl.load(weights + slot).to(tl.float32)
        rows = down + expert * HIDDEN * INTER + row[:, None] * INTER
        part = total if scales is None else tl.zeros((ROWS, BLOCK // WIDE), tl.float32)
        for start in range(0, INTER, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = (row < HIDDEN)[:, None] & (column < INTER)[None, :]
            values = tl.load(inner + slot * INTER + column, mask=column < INTER, other=0.0).to(tl.float32)
            d = tl.load(rows + column[None, :], mask=inside, other=0.0, eviction_policy="evict_first")
            part += _thread_sums(as_float(d, tl.float32) * (weight * values)[None, :], WIDE)
        if scales is None:
            total = part
        else:  # each expert's rows have scales of their own
            total += part * tl.load(scales + expert * HIDDEN + row, mask=row < HIDDEN, other=0.0)[:, None]
    tl.store(out + row, tl.sum(total, 1).to(out.dtype.element_ty), mask=row < HIDDEN)


# ---- few tokens --------------------------------------------------------------------------------------------


@triton.jit
def _expert_of(chosen, place, SLOTS, BY_SLOT: tl.constexpr, PADDED: tl.constexpr):
    """The expert that the programs of `place` compute, or -1 if they have nothing to do.

    BY_SLOT: place is a slot, and the first slot of an expert takes it. Otherwise place is an expert.
    """
    slot = tl.arange(0, PADDED)
    experts = tl.load(chosen + slot, mask=slot < SLOTS, other=-1).to(tl.int32)
    if BY_SLOT:
        mine = tl.load(chosen + place).to(tl.int32)
        earlier = tl.sum(((experts == mine) & (slot < place)).to(tl.int32))
        expert = tl.where(earlier == 0, mine, -1)
    else:
        found = tl.sum((experts == place).to(tl.int32))
        expert = tl.where(found > 0, place, -1)
    return expert


@triton.jit
def _factor(tile, scales, dtype: tl.constexpr):
    """A tile of weights as the first factor of a product, in `dtype`; int8 in the order of kernels_int8.py."""
    return as_float(tile, dtype) if scales is None else as_float(ordered(tile), dtype, True)


@triton.jit
def in_order(x, out, HIDDEN, WIDTH, BLOCK: tl.constexpr):
    """out (tokens, width): x (tokens, hidden) in the order of kernels_int8.py, then zeros. Grid: tokens, blocks."""
    token, place = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    column = ordered_column(place)
    values = tl.load(x + token * HIDDEN + column, mask=column < HIDDEN, other=0.0)
    tl.store(out + token * WIDTH + place, values, mask=place < WIDTH)


@triton.jit(do_not_specialize=["TOKENS"])
def few_gate_up(
    x,
    gate_up,
    scales,
    chosen,
    inner,
    TOKENS,
    HIDDEN,
    INTER,
    WIDTH,
    INNER_WIDTH,
    TOP_K: tl.constexpr,
    BY_SLOT: tl.constexpr,
    PADDED: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """inner (slots, inner width) = silu(gate x) * (up x). Grid: tiles of rows, slots or experts.

    x: (tokens, width). With int8 weights the columns of x, and those of `inner`, are in the order of kernels_int8.py.
    """
    expert = _expert_of(chosen, tl.program_id(1), TOKENS * TOP_K, BY_SLOT, PADDED)
    if expert >= 0:
        token = tl.arange(0, COLUMNS)
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        gate_rows = gate_up + expert.to(tl.int64) * 2 * INTER * HIDDEN + row[:, None] * HIDDEN
        up_rows = gate_rows + INTER * HIDDEN
        gate = tl.zeros((ROWS, COLUMNS), tl.float32)
        up = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, HIDDEN, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = (row < INTER)[:, None] & (column < HIDDEN)[None, :]
            here = (token < TOKENS)[None, :] & (column < WIDTH)[:, None]
            values = tl.load(x + token[None, :] * WIDTH + column[:, None], mask=here, other=0.0)
            g = tl.load(gate_rows + column[None, :], mask=inside, other=0.0, eviction_policy="evict_first")
            gate = tl.dot(_factor(g, scales, values.dtype), values, gate, input_precision="ieee")
            u = tl.load(up_rows + column[None, :], mask=inside, other=0.0, eviction_policy="evict_first")
            up = tl.dot(_factor(u, scales, values.dtype), values, up, input_precision="ieee")
            if scales is not None:
                gate, up = finished(gate), finished(up)
        if scales is not None:
            gate_scales = scales + expert * 2 * INTER + row
            gate *= tl.load(gate_scales, mask=row < INTER, other=0.0)[:, None]
            up *= tl.load(gate_scales + INTER, mask=row < INTER, other=0.0)[:, None]
        result = (gate * tl.sigmoid(gate) * up).to(inner.dtype.element_ty)
        place = row if scales is None else ordered_place(row)
        for j in tl.static_range(TOP_K):
            slot = token * TOP_K + j
            theirs = tl.load(chosen + slot, mask=token < TOKENS, other=-1).to(tl.int32)
            mask = (theirs == expert)[None, :] & (row < INNER_WIDTH)[:, None]
            tl.store(inner + slot[None, :] * INNER_WIDTH + place[:, None], result, mask=mask)


@triton.jit(do_not_specialize=["TOKENS"])
def few_down(
    inner,
    down,
    scales,
    chosen,
    parts,
    TOKENS,
    HIDDEN,
    INTER,
    INNER_WIDTH,
    TOP_K: tl.constexpr,
    BY_SLOT: tl.constexpr,
    PADDED: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """parts (slots, hidden) = down inner, in fp32, not yet weighted. Grid as above."""
    expert = _expert_of(chosen, tl.program_id(1), TOKENS * TOP_K, BY_SLOT, PADDED)
    if expert >= 0:
        token = tl.arange(0, COLUMNS)
        slot = tl.full((COLUMNS,), -1, tl.int32)  # of each token, where it chose this expert
        for j in tl.static_range(TOP_K):
            theirs = tl.load(chosen + token * TOP_K + j, mask=token < TOKENS, other=-1).to(tl.int32)
            slot = tl.where(theirs == expert, token * TOP_K + j, slot)
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        rows = down + expert.to(tl.int64) * HIDDEN * INTER + row[:, None] * INTER
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, INTER, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = (row < HIDDEN)[:, None] & (column < INTER)[None, :]
            here = (slot >= 0)[None, :] & (column < INNER_WIDTH)[:, None]
            values = tl.load(inner + slot[None, :] * INNER_WIDTH + column[:, None], mask=here, other=0.0)
            d = tl.load(rows + column[None, :], mask=inside, other=0.0, eviction_policy="evict_first")
            total = tl.dot(_factor(d, scales, values.dtype), values, total, input_precision="ieee")
            if scales is not None:
                total = finished(total)
        if scales is not None:
            total *= tl.load(scales + expert * HIDDEN + row, mask=row < HIDDEN, other=0.0)[:, None]
        mask = (slot >= 0)[None, :] & (row < HIDDEN)[:, None]
        tl.store(parts + slot[None, :] * HIDDEN + row[:, None], total, mask=mask)


@triton.jit
def combine(parts, position, weights, out, HIDDEN, TOP_K: tl.constexpr, BLOCK: tl.constexpr):
    """out (tokens, hidden) = the sum of weight * part over a token's slots. Grid: tokens, blocks of columns.

    position (slots,): the row of `parts` that holds a slot; None: the slot itself.
    """
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for j in tl.static_range(TOP_K):
        slot = token * TOP_K + j
        row = slot if position is None else tl.load(position + slot).to(tl.int64)
        part = tl.load(parts + row * HIDDEN + column, mask=column < HIDDEN, other=0.0).to(tl.float32)
        total += tl.load(weights + slot).to(tl.float32) * part
    tl.store(out + token * HIDDEN + column, total.to(out.dtype.element_ty), mask=column < HIDDEN)
