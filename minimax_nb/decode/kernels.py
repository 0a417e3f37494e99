"""Triton kernels for what a step does between reading weights. CUDA only, no gradients; sums are in fp32."""

import triton
import triton.language as tl


@triton.jit
def sum_norm(
    x,
    y,
    weight,
    out,
    alpha,
    beta,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    NORM: tl.constexpr,
):
    """One program a row: alpha x + beta y if ADD, else x; then RMSNorm by `weight` if NORM. Rounded once."""
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    at = tl.program_id(0) * WIDTH + column
    row = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        row = alpha * row + beta * tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        scale = tl.rsqrt(tl.sum(row * row) / WIDTH + eps)
        row = row * scale * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, row.to(out.dtype.element_ty), mask=inside)


@triton.jit
def gemv(
    x,
    first,
    second,
    third,
    out,
    n1,
    n2,
    n3,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """ROWS outputs a program: x (WIDTH,) by three weights of n1, n2 and n3 rows, whose outputs lie one after another.

    The loop is unrolled, so that all of a program's loads are under way before the first is needed.
    """
    program = tl.program_id(0)
    programs1, programs2 = tl.cdiv(n1, ROWS), tl.cdiv(n2, ROWS)
    weight, count, begin = first, n1, 0
    if program >= programs1 + programs2:
        weight, count, begin = third, n3, n1 + n2
        program -= programs1 + programs2
    elif program >= programs1:
        weight, count, begin = second, n2, n1
        program -= programs1
    row = program * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in tl.static_range(0, WIDTH, BLOCK):
        column = start + tl.arange(0, BLOCK)
        values = tl.load(x + column, mask=column < WIDTH, other=0.0).to(tl.float32)
        inside = (row < count)[:, None] & (column < WIDTH)[None, :]
        source = weight + row.to(tl.int64)[:, None] * WIDTH + column[None, :]
        total += tl.load(source, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32) * values[None, :]
    tl.store(out + begin + row, tl.sum(total, 1).to(out.dtype.element_ty), mask=row < count)


@triton.jit
def rotate_and_keep(
    q,
    k,
    v,
    out,
    keys,
    values,
    at,
    positions,
    frequencies,
    scale,
    room,
    HEADS: tl.constexpr,
    GROUPED: tl.constexpr,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
):
    """One program a row and head, of q, then k, then v: rotated q into `out`, rotated k and v into the buffers."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    j = tl.arange(0, HALF)
    inside = j < WIDTH // 2
    angle = tl.load(positions + row).to(tl.float32) * tl.load(frequencies + j, mask=inside, other=0.0)
    kept = tl.load(at)
    if head < HEADS:
        source = q + (row * HEADS + head) * WIDTH
        target = out + (row * HEADS + head) * WIDTH
    elif head < HEADS + GROUPED:
        source = k + (row * GROUPED + head - HEADS) * WIDTH
        target = keys + ((row * GROUPED + head - HEADS) * room + kept) * WIDTH
    else:
        source = v + (row * GROUPED + head - HEADS - GROUPED) * WIDTH
        target = values + ((row * GROUPED + head - HEADS - GROUPED) * room + kept) * WIDTH
    a = tl.load(source + j, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source + WIDTH // 2 + j, mask=inside, other=0.0).to(tl.float32)
    if head < HEADS + GROUPED:  # cosine and sine rounded where Transformers rounds them
        cosine = (tl.cos(angle) * scale).to(out.dtype.element_ty).to(tl.float32)
        sine = (tl.sin(angle) * scale).to(out.dtype.element_ty).to(tl.float32)
        a, b = a * cosine - b * sine, b * cosine + a * sine
    tl.store(target + j, a.to(out.dtype.element_ty), mask=inside)
    tl.store(target + WIDTH // 2 + j, b.to(out.dtype.element_ty), mask=inside)


@triton.jit
def route(logits, index, weights, EXPERTS: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr):
    """One program a row: the COUNT experts with the highest logits, and their shares of what those have together."""
    row, expert = tl.program_id(0), tl.arange(0, BLOCK)
    inside = expert < EXPERTS
    values = tl.load(logits + row * EXPERTS + expert, mask=inside, other=float("-inf")).to(tl.float32)
    scores = tl.exp(values - tl.max(values))
    left, together = tl.where(inside, scores, -1.0), 0.0
    for place in tl.static_range(COUNT):
        best = tl.argmax(left, 0)
        together += tl.max(left)
        tl.store(index + row * COUNT + place, best.to(tl.int64))
        left = tl.where(expert == best, -1.0, left)
    left = tl.where(inside, scores, -1.0)
    for place in tl.static_range(COUNT):
        best = tl.argmax(left, 0)
        tl.store(weights + row * COUNT + place, tl.max(left) / together)
        left = tl.where(expert == best, -1.0, left)
