"""How an int8 becomes floating point in the registers of a GPU, exactly, four at a time.

A GPU has an instruction for it, in a unit that is slower than the one that adds (throughput of arithmetic instructions,
CUDA's programming guide), and weights come from memory by 18 a cycle and multiprocessor. So numbers are put together
from their bits: a byte becomes the end of a floating point number whose exponent makes its last bit worth 1, and the
rest is subtracted.

    fp32   0x4b000000 | u = 2^23 + u      with u = n + 128 in 0..255; 2^23 + 128 is subtracted
    fp16   0x6400 | u     = 1024 + u      1152 is subtracted
    bf16   0x4300 | u     = 128 + u       for 7 bits only: the byte without its sign, less 256 if it is set, or 128

tests/test_int8.py carries the instructions below out for all bytes. Triton's interpreter has no instructions, and takes
the same way in fp32 by operations of Triton.
"""

import os

import triton
import triton.language as tl

BY_INSTRUCTIONS = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")

TO_FP32 = tl.constexpr("""{
    .reg .b32 u;
    xor.b32 u, $4, 0x80808080;
    prmt.b32 $0, u, 0x4b000000, 0x7440;
    prmt.b32 $1, u, 0x4b000000, 0x7441;
    prmt.b32 $2, u, 0x4b000000, 0x7442;
    prmt.b32 $3, u, 0x4b000000, 0x7443;
    sub.f32 $0, $0, 0f4B000080;
    sub.f32 $1, $1, 0f4B000080;
    sub.f32 $2, $2, 0f4B000080;
    sub.f32 $3, $3, 0f4B000080;
}""")
TO_FP16 = tl.constexpr("""{
    .reg .b32 u, k;
    cvt.u32.u16 u, $1;
    xor.b32 u, u, 0x8080;
    mov.b32 k, 0x64806480;
    prmt.b32 $0, u, 0x64646464, 0x4140;
    sub.f16x2 $0, $0, k;
}""")
TO_BF16 = tl.constexpr("""{
    .reg .b32 u, s, m;
    cvt.u32.u16 u, $1;
    mov.b32 m, 0xbf80bf80;
    prmt.b32 u, u, 0x43434343, 0x4140;
    and.b32 s, u, 0xff80ff80;
    and.b32 u, u, 0xff7fff7f;
    fma.rn.bf16x2 $0, s, m, u;
}""")


TWO_TO_FP16 = tl.constexpr("""{
    .reg .b32 u, k;
    xor.b32 u, $2, 0x80808080;
    mov.b32 k, 0x64806480;
    prmt.b32 $0, u, 0x64646464, 0x4140;
    prmt.b32 $1, u, 0x64646464, 0x4342;
    sub.f16x2 $0, $0, k;
    sub.f16x2 $1, $1, k;
}""")
TWO_TO_BF16 = tl.constexpr("""{
    .reg .b32 s, t, m;
    mov.b32 m, 0xbf80bf80;
    prmt.b32 $0, $2, 0x43434343, 0x4140;
    prmt.b32 $1, $2, 0x43434343, 0x4342;
    and.b32 s, $0, 0xff80ff80;
    and.b32 t, $1, 0xff80ff80;
    and.b32 $0, $0, 0xff7fff7f;
    and.b32 $1, $1, 0xff7fff7f;
    fma.rn.bf16x2 $0, s, m, $0;
    fma.rn.bf16x2 $1, t, m, $1;
}""")


@triton.jit
def as_float(values, dtype: tl.constexpr, IN_ORDER: tl.constexpr = False):
    """Weights in `dtype`: fp32, fp16 or bf16. IN_ORDER: a tile from `ordered`, of which a thread has 32 bits at once.

    Other tiles come to the matrix units by 16 bits. To put two of them together first takes longer than it saves.
    """
    if values.dtype != tl.int8:
        result = values.to(dtype)
    elif not BY_INSTRUCTIONS:
        bits = values.to(tl.int32) + 0x4B400000  # 1.5 * 2^23 + n, whose last bits may go down as well
        result = (bits.to(tl.float32, bitcast=True) - 12582912.0).to(dtype)
    elif dtype == tl.float32:
        result = tl.inline_asm_elementwise(
            TO_FP32, "=&r,=&r,=&r,=&r,r", [values], dtype=tl.float32, is_pure=True, pack=4
        )
    elif IN_ORDER and dtype == tl.float16:
        result = tl.inline_asm_elementwise(TWO_TO_FP16, "=&r,=&r,r", [values], dtype=tl.float16, is_pure=True, pack=4)
    elif IN_ORDER:
        result = tl.inline_asm_elementwise(TWO_TO_BF16, "=&r,=&r,r", [values], dtype=tl.bfloat16, is_pure=True, pack=4)
    elif dtype == tl.float16:
        result = tl.inline_asm_elementwise(TO_FP16, "=&r,h", [values], dtype=tl.float16, is_pure=True, pack=2)
    else:
        result = tl.inline_asm_elementwise(TO_BF16, "=&r,h", [values], dtype=tl.bfloat16, is_pure=True, pack=2)
    return result


@triton.jit
def finished(total):
    """`total`, once the products that add up to it have ended. Stands before the next tile of weights is converted.

    The matrix units read converted weights from the registers of threads that go on meanwhile. Triton before 3.9
    lets them write the next tile there too early (triton-lang/triton issue 9433): on an H200, sums in fp16 were wrong.
    A use of the sum makes Triton wait for the products. This one is no instruction.
    """
    if BY_INSTRUCTIONS:
        total = tl.inline_asm_elementwise("", "=f,0", [total], dtype=tl.float32, is_pure=True, pack=1)
    return total


# The matrix units take weights from registers. Of each 64 columns of a row, four threads then hold 16 each, in pairs:
# thread t those from 16 s + 8 h + 2 t on, for s = 0..3 and h = 0, 1. In memory these pairs are far apart, and with int8
# they would be read by two bytes at a time, which takes as long as the products do. A sum does not ask for the order of
# its terms. So thread t reads the 16 bytes from 16 t on, as if they were its columns, and the tokens' columns are put
# into the same order. In that order, place 16 s + 8 h + 2 t + b is for column 16 t + 4 s + 2 h + b.

ORDERED = tl.constexpr(64)  # columns that are put into an order of their own, one 64 after the other


@triton.jit
def ordered(tile):
    """A tile (rows, columns), its columns in the order above: what stood at `ordered_column(p)` is at p."""
    ROWS: tl.constexpr = tile.shape[0]
    COLUMNS: tl.constexpr = tile.shape[1]
    apart = tile.reshape(ROWS, COLUMNS // ORDERED, 4, 4, 2, 2)  # t, s, h, b
    return apart.permute(0, 1, 3, 4, 2, 5).reshape(ROWS, COLUMNS)


@triton.jit
def ordered_column(place):
    """The column that belongs at a place."""
    first, within = place // ORDERED * ORDERED, place % ORDERED
    return first + within // 2 % 4 * 16 + within // 16 * 4 + within // 8 % 2 * 2 + within % 2


@triton.jit
def ordered_place(column):
    """The place where a column belongs."""
    first, within = column // ORDERED * ORDERED, column % ORDERED
    return first + within // 4 % 4 * 16 + within // 2 % 2 * 8 + within // 16 * 2 + within % 2
