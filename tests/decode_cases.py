"""The Triton kernels of a decoding step against the same in PyTorch: a line of JSON a case, {"case", "error"}.

    python tests/decode_cases.py                          # on a CUDA GPU
    TRITON_INTERPRET=1 python tests/decode_cases.py       # on a CPU, in Triton's interpreter

tests/test_decode.py runs both where they can run.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
import slow_head  # noqa: E402

from minimax_nb.decode import torch_ops, triton_ops  # noqa: E402
from minimax_nb.decode.buffers import Place  # noqa: E402
from minimax_nb.lightning import kernels as lightning  # noqa: E402
from minimax_nb.lightning.operator import lightning_attention  # noqa: E402
from minimax_nb.parallel import kernels, layers  # noqa: E402

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
SHAPES = [(1, 128, 4, 2, 32), (3, 128, 4, 2, 32), (1, 96, 8, 2, 24), (3, 96, 6, 1, 24)]  # rows, hidden, h, g, head_dim
PLACES = [(256, 0), (256, 77), (1024, 900)]  # room, tokens held


def say(case: str, got: Tensor, want: Tensor) -> None:
    error = ((got.double() - want.double()).norm() / want.double().norm()).item()
    print(json.dumps({"case": case, "error": error}), flush=True)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, device=DEVICE)


def both(case: str, name: str, *args) -> None:
    got, want = (getattr(ops, name)(*args) for ops in (triton_ops, torch_ops))
    for a, b in zip(got, want, strict=True) if isinstance(want, list | tuple) else [(got, want)]:
        say(f"{name}, {case}", a, b)


def run(rows: int, hidden: int, heads: int, grouped: int, width: int) -> None:
    case = f"{rows} x {hidden}, {heads} of {width}"
    x, y, weight = random(rows, hidden), random(rows, hidden), random(hidden)
    both(case, "norm", x, weight, 1e-5)
    both(case, "scaled_sum", x, 1.3, y, 0.7)
    both(case, "sum_norm", x, 1.3, y, 0.7, weight, 1e-5)
    both(case, "linear", x, *(random(count * width, hidden) for count in (heads, grouped, grouped)))
    both(case, "linear", x, random(5, hidden))
    both(case, "route", x, random(6, hidden), 2)
    out, gate = random(rows, heads * width), random(rows, heads * width)
    both(case, "norm_and_gate", out, gate, random(heads * width), 1e-6)

    qkv, slopes, state = (
        random(rows, heads * 3 * width),
        torch.rand(heads, device=DEVICE),
        random(rows, heads, width, width),
    )
    states = state.clone(), state.clone()
    got, want = (
        ops.decay_and_read(qkv, slopes, s, heads) for ops, s in zip((triton_ops, torch_ops), states, strict=True)
    )
    say(f"decay_and_read, {case}", got, want)
    say(f"decay_and_read, state, {case}", *states)
    token_of_the_model(case, qkv, slopes, state, heads)
    part, ranks = random(rows, hidden), 4  # as the parts of a split lightning layer before and after their sum
    sent = [ways(part, out, 1e-6) for ways in (kernels.multiply, layers._multiply)]
    say(f"multiply, {case}", *sent)
    say(f"divide, {case}", *(ways(ranks * sent[1], part, ranks, 1e-6) for ways in (kernels.divide, layers._divide)))
    for room, length in PLACES:
        softmax(f"{case}, {length} of {room}", rows, heads, grouped, width, room, length)


def token_of_the_model(case: str, qkv: Tensor, slopes: Tensor, state: Tensor, heads: int) -> None:
    """What the model's own forward pass takes for a token, where no row, the last row or every row has a pad."""
    q, k, v = F.silu(qkv).unflatten(-1, (heads, 3, -1)).unbind(2)
    for pads in (0, 1, len(qkv)):
        mask = (torch.arange(len(qkv), device=DEVICE) < len(qkv) - pads)[:, None]
        got = lightning.decode_step(qkv[:, None], slopes, state, heads, mask)
        want = lightning_attention(q[:, None], k[:, None], v[:, None], slopes, state, mask=mask, backend="torch")
        for name, a, b in zip(("out", "state"), got, want, strict=True):
            say(f"decode_step, {name}, {pads} pads, {case}", 1 + a.view(b.shape), 1 + b)  # all of it may be 0


def softmax(case: str, rows: int, heads: int, grouped: int, width: int, room: int, length: int) -> None:
    place = Place.on(DEVICE, rows, room)
    place.keep[-1, : length // 3] = False
    place.point(length, torch.randint(0, length + 1, (rows,), device=DEVICE))
    place.padded = True
    q, k, v = (random(rows, count * width) for count in (heads, grouped, grouped))
    frequencies, buffers = torch.rand(width // 2, device=DEVICE), [random(rows, grouped, room, width) for _ in range(2)]
    found = []
    for ops in (triton_ops, torch_ops):
        keys, values = (buffer.clone() for buffer in buffers)
        turned = ops.rotate_and_keep(q, k, v, keys, values, place, frequencies, 1.0)
        found.append((turned, keys, values, ops.attend(turned, keys, values, place)))
    for name, got, want in zip(("q", "keys", "values", "attend"), *found, strict=True):
        say(f"{name}, {case}", got, want)


if __name__ == "__main__":
    torch.manual_seed(0)
    for shape in SHAPES:
        run(*shape)
    say("decay_and_read, the share that a slow head loses", *slow_head.lost(triton_ops, DEVICE))
