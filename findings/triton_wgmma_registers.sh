#!/usr/bin/env bash
# Triton writes a converted tile into registers that the matrix units of a Hopper GPU may still be reading.
#
# Versions   triton 3.6.0; Python 3.11, no GPU: the kernel is compiled for sm_90, not run. Triton 3.9.0 for comparison.
# Behaviour  tl.dot(w.to(x.dtype), x, total) in a loop, with w in int8: the converted tile is the first factor, A, and on
#            Hopper wgmma takes it from registers. wgmma is asynchronous. Triton pipelines it: of 4 groups in a turn of
#            the loop, 3 may be pending at its end. The next turn begins by converting its own tile, into the same
#            registers. PTX leaves the result undefined if a register of A is touched before a wgmma.wait_group that
#            covers the wgmma which reads it. On an H200 (2026-11-29) a larger kernel of this form added up wrong
#            numbers in fp16, a relative error of 1.7, as soon as K was more than one tile; in bf16 it happened to be
#            right.
# Where      triton-lang/triton issue 9433. 3.5.1 gives the same output. 3.7.1 has 2 groups a turn, 1 of which may be
#            pending, and still writes 8 registers too early. 3.8.0 moves the tile into other registers in PTX, but its machine
#            code for sm_90 (cuobjdump) still writes where 3.7.1's does. That of 3.9.0 does not.
# Instead    use the sum inside the loop, so that Triton waits there: tl.inline_asm_elementwise("", "=f,0", [total], ...)
#            adds no instruction. Or Triton 3.9.0. And compare with float64 over several tiles of K.
#
# Seen on 2026-11-29 (bf16 gives the same lines):
#    Triton 3.6.0, fp16, sum used after the loop: wgmma groups a turn 4, pending at its end 3, registers written too early 12
#    Triton 3.6.0, fp16, sum used in the loop: wgmma groups a turn 1, pending at its end 0, registers written too early 0
#    Triton 3.9.0, fp16, sum used after the loop: wgmma groups a turn 2, pending at its end 1, registers written too early 0
#    Triton 3.9.0, fp16, sum used in the loop: wgmma groups a turn 1, pending at its end 0, registers written too early 0
#
# Exit code 0 while 3.6.0 writes too early and 3.9.0 does not, another one when that changes or the script fails.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile \
    triton==3.6.0
python3 -m venv "$work/later"
"$work/later/bin/pip" install --quiet --no-compile triton==3.9.0
cd "$work"
cat >compile.py <<'PYTHON'
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def product(w, x, out, K, SUM_IS_USED: tl.constexpr):
    """out (64, 64) = w (64, K), int8, times x (64, K) turned round, fp16 or bf16."""
    i, k = tl.arange(0, 64), tl.arange(0, 64)
    total = tl.zeros((64, 64), tl.float32)
    for start in range(0, K, 64):
        weights = tl.load(w + i[:, None] * K + (start + k)[None, :])
        tokens = tl.load(x + i[None, :] * K + (start + k)[:, None])
        total = tl.dot(weights.to(tokens.dtype), tokens, total)
        if SUM_IS_USED:
            total = tl.inline_asm_elementwise("", "=f,0", [total], dtype=tl.float32, is_pure=True, pack=1)
    tl.store(out + i[:, None] * 64 + i[None, :], total)


def loop(dtype, sum_is_used):
    """The PTX of a turn of the loop."""
    signature = {"w": "*i8", "x": f"*{dtype}", "out": "*fp32", "K": "i32", "SUM_IS_USED": "constexpr"}
    multiples_of_16 = {(i,): [["tt.divisibility", 16]] for i in range(4)}
    source = ASTSource(product, signature, constexprs={(4,): sum_is_used}, attrs=multiples_of_16)
    options = {"num_warps": 4, "num_stages": 3}
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    (found,) = re.findall(r"^(\$\w+):[^\n]*\n(.+?bra\s+\1;)", ptx, re.DOTALL | re.MULTILINE)
    return found[1].splitlines()


def registers(operand):
    return set(re.findall(r"%\w+", operand))


def written_too_early(turn):
    """Groups in a turn, those pending at its end, and registers written while a pending group reads them."""
    pending, reads, early = [], set(), set()
    for line in turn + turn:
        line = line.strip()
        if line.startswith("wgmma.mma_async"):
            sums, factor = re.findall(r"\{(.*?)\}", line)  # the accumulator, and A
            reads |= registers(factor)
        elif line.startswith("wgmma.commit_group"):
            pending, reads = [*pending, reads], set()
        elif line.startswith("wgmma.wait_group"):
            most = int(re.search(r"(\d+);", line)[1])
            pending = pending[len(pending) - most :] if most < len(pending) else pending
        elif target := re.match(r"(?:@!?%\w+ )?[a-z][\w.:]*\s+(\{.*?\}|%\w+)\s*,", line):
            early |= registers(target[1]) & set().union(reads, *pending)
    return sum("commit_group.sync" in line and "wgmma" in line for line in turn), len(pending), len(early)


for dtype in ("fp16", "bf16"):
    for sum_is_used in (False, True):
        groups, pending, early = written_too_early(loop(dtype, sum_is_used))
        print(
            f"Triton {triton.__version__}, {dtype}, sum {'used in the loop' if sum_is_used else 'used after the loop'}:",
            f"wgmma groups a turn {groups}, pending at its end {pending}, registers written too early {early}",
        )
        if triton.__version__ == "3.6.0" and not sum_is_used:
            assert pending == groups - 1 > 0 and early > 0, "Triton 3.6.0 waits before it writes"
        else:
            assert early == 0, "registers are written before the wait"
PYTHON
CUDA_VISIBLE_DEVICES="" TRITON_CACHE_DIR="$work/cache" venv/bin/python compile.py
CUDA_VISIBLE_DEVICES="" TRITON_CACHE_DIR="$work/cache" later/bin/python compile.py
