#!/usr/bin/env bash
# torchao: an Int8Tensor cannot be indexed under torch.inference_mode, though it can under torch.no_grad.
#
# Versions   torch 2.13.0, torchao 0.18.0; Python 3.11, CPU.
# Behaviour  The experts of MiniMax in Transformers 5 are one 3-D parameter, and its eager form takes one expert after
#            the other: weight[i]. Of an Int8Tensor that raises RuntimeError ("Cannot set version_counter for inference
#            tensor") within torch.inference_mode. A slice does too. Within torch.no_grad both work.
# Where      torchao/quantization/quantize_/workflows/int8/int8_tensor.py: aten.select.int and aten.slice.Tensor.
# Instead    torch.no_grad, or weight.qdata[i] and weight.scale[i].
#
# Seen on 2026-11-28:
#    no_grad: weight[1] works, weight[1:2] works, qdata[1] works
#    inference_mode: weight[1] RuntimeError, weight[1:2] RuntimeError, qdata[1] works
#
# Exit code 0 while all of it holds, another one when something changes or the script no longer runs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile \
    torch==2.13.0 numpy==2.4.6 torchao==0.18.0
cd "$work"
CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 venv/bin/python - <<'PYTHON'
import torch
from torchao.quantization import Int8Tensor, PerRow

weight = torch.nn.Parameter(Int8Tensor.from_hp(torch.randn(4, 32, 16), PerRow()), requires_grad=False)
ways = {"weight[1]": lambda: weight[1], "weight[1:2]": lambda: weight[1:2], "qdata[1]": lambda: weight.qdata[1]}


def outcome(call) -> str:
    try:
        call()
    except RuntimeError as error:
        return type(error).__name__
    return "works"


for mode in (torch.no_grad, torch.inference_mode):
    with mode():
        found = {way: outcome(call) for way, call in ways.items()}
    print(f"{mode.__name__}: " + ", ".join(f"{way} {how}" for way, how in found.items()))
    fails = "works" if mode is torch.no_grad else "RuntimeError"
    assert found == {"weight[1]": fails, "weight[1:2]": fails, "qdata[1]": "works"}, found
PYTHON
