"""Carries out the few PTX instructions with which kernels_int8 turns integers into floating point; for one thread.

run(kernels_int8.TO_FP32, outputs=4, given=0x7f80ff01)      # four registers, as unsigned 32-bit numbers
"""

import re
import struct

import torch


def run(assembly: str, outputs: int, given: int) -> list[int]:
    """The output registers $0... after the instructions, with the input in the register that follows them."""
    registers = {f"${outputs}": given}

    def value(operand: str) -> int:
        if operand.startswith("0f"):  # an fp32, as PTX writes its bits
            return int(operand[2:], 16)
        return int(operand, 0) if operand[0].isdigit() else registers[operand]

    for line in assembly.strip().strip("{}").split(";"):
        if not line.strip() or ".reg" in line:
            continue
        name, operands = re.fullmatch(r"\s*([\w.]+)\s+(.*)", line, re.DOTALL).groups()
        target, *sources = (operand.strip() for operand in operands.split(","))
        registers[target] = INSTRUCTIONS[name](*map(value, sources))
    return [registers[f"${i}"] for i in range(outputs)]


def prmt(a: int, b: int, selector: int) -> int:
    """A byte of the result for each of the selector's four digits, from the 8 bytes of b and a."""
    both = (b << 32) | a
    assert all(((selector >> 4 * i) & 0xF) < 8 for i in range(4))  # the fourth bit would repeat a sign
    return sum(((both >> 8 * ((selector >> 4 * i) & 7)) & 0xFF) << 8 * i for i in range(4))


def pairs(dtype: torch.dtype):
    """Of 32-bit registers: two numbers of this dtype."""

    def decode(*registers: int) -> list[torch.Tensor]:
        signed = [struct.unpack("<hh", struct.pack("<I", register)) for register in registers]
        return [torch.tensor(halves, dtype=torch.int16).view(dtype) for halves in signed]

    return decode


def encoded(numbers: torch.Tensor) -> int:
    halves = numbers.view(torch.int16).tolist()
    return struct.unpack("<I", struct.pack("<hh", *halves))[0]


def sub_f32(a: int, b: int) -> int:
    x, y = (struct.unpack("<f", struct.pack("<I", register))[0] for register in (a, b))
    return struct.unpack("<I", struct.pack("<f", x - y))[0]


def sub_f16x2(a: int, b: int) -> int:
    x, y = pairs(torch.float16)(a, b)
    return encoded(x - y)


def fma_bf16x2(a: int, b: int, c: int) -> int:
    x, y, z = (half.double() for half in pairs(torch.bfloat16)(a, b, c))
    return encoded((x * y + z).to(torch.bfloat16))


INSTRUCTIONS = {
    "mov.b32": lambda a: a,
    "cvt.u32.u16": lambda a: a & 0xFFFF,
    "xor.b32": lambda a, b: a ^ b,
    "and.b32": lambda a, b: a & b,
    "prmt.b32": prmt,
    "sub.f32": sub_f32,
    "sub.f16x2": sub_f16x2,
    "fma.rn.bf16x2": fma_bf16x2,
}
