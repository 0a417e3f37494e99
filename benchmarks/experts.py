"""The experts at the real width, Transformers' grouped_mm beside our kernels, and the norms.

    python benchmarks/experts.py --json FILE     # a GPU of compute capability 9.0 with 48 GB, half a minute
    python benchmarks/experts.py --toy           # the same at toy width

32 experts of 6144 x 9216, 2 for each token, random weights and a random router, bf16. Both forms take turns,
each on the same inputs. Up to 4,096 tokens several calls on different inputs are recorded in one CUDA graph,
so that neither is charged for its launches from Python; beyond that they make no difference. Errors are
against float64, for some tokens. The floor is what must be read or computed, at the rates that library calls
reach in this run; a kernel that reads faster than they do ends a little below it.
"""

import argparse
import json
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from transformers.models.minimax.modeling_minimax import MiniMaxConfig, MiniMaxExperts, MiniMaxRMSNorm

from minimax_nb.experts import NAME, register
from minimax_nb.norms import kernels

HIDDEN, INTER, EXPERTS, TOP_K = 6144, 9216, 32, 2
TOKENS = (1, 2, 4, 8, 16, 64, 256, 1024, 4096, 16384, 65536, 131072)
GRAPHED, NORM_TOKENS = 4096, 131072
ALPHA, BETA, EPS = (2 * 80) ** 0.25, 1.0, 1e-5
PACKAGES = ("torch", "transformers", "triton")
DEVICE, DTYPE = "cuda", torch.bfloat16


def take_turns(forms: dict, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each form, a round after the other, after one call of each that is not counted."""
    found = {name: [] for name in forms}
    for turn in range(rounds + 1):
        for name, call in forms.items():
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            torch.cuda._sleep(200_000)  # busy while Python launches, so that it is not counted
            marks[0].record()
            call()
            marks[1].record()
            marks[1].synchronize()
            if turn:
                found[name].append(marks[0].elapsed_time(marks[1]))
    return found


def figures(times: list[float], calls: int = 1) -> dict[str, float]:
    each = [ms / calls for ms in times]
    return {"ms": round(median(each), 4), "least_ms": round(min(each), 4), "most_ms": round(max(each), 4)}


def recorded(calls: list) -> torch.cuda.CUDAGraph:
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def rates() -> dict[str, float]:
    """Bytes a second of reading (the best of three library calls), operations of a matrix product."""
    values = torch.ones(2**15, 2**15, device=DEVICE)
    half = values.to(DTYPE)
    readers = {"sum": values.sum, "amax": half.amax, "mv": lambda: half @ half[0]}
    sizes = {"sum": values.nbytes, "amax": half.nbytes, "mv": half.nbytes}
    least = {name: min(times) for name, times in take_turns(readers, 10).items()}
    side = 8192
    a, b = torch.randn(2, side, side, device=DEVICE, dtype=DTYPE)
    product = median(take_turns({"product": lambda: a @ b}, 10)["product"])
    read = {name: 1000 * sizes[name] / ms for name, ms in least.items()}
    return {"read_bytes_s": max(read.values()), "matrix_ops_s": 1000 * 2 * side**3 / product, "read_by": read}


class Block:
    """One layer's experts, with a router to draw the choices from."""

    def __init__(self):
        config = MiniMaxConfig(
            hidden_size=HIDDEN, intermediate_size=INTER, num_local_experts=EXPERTS, num_experts_per_tok=TOP_K
        )
        with torch.device("meta"):
            self.experts = MiniMaxExperts(config).requires_grad_(False)
        self.experts.to_empty(device=DEVICE).to(DTYPE)
        for weight in self.experts.parameters():
            for part in weight:
                part.normal_(std=0.02)
        self.router = torch.randn(EXPERTS, HIDDEN, device=DEVICE) / HIDDEN**0.5

    def inputs(self, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(tokens, HIDDEN, device=DEVICE, dtype=DTYPE)
        top, chosen = (x.float() @ self.router.T).softmax(-1).topk(TOP_K, -1)
        return x, chosen, top / top.sum(-1, keepdim=True)

    def call(self, name: str, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        self.experts.config._experts_implementation = name
        return self.experts(*inputs)

    def error(self, got: Tensor, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
        """Relative to the definition in float64, over the first, the last and two tokens between."""
        x, chosen, weights = inputs
        some = sorted({round(i * (len(x) - 1) / 3) for i in range(4)})
        want = torch.zeros(len(some), HIDDEN, device=DEVICE, dtype=torch.float64)
        for row, token in enumerate(some):
            for expert, weight in zip(chosen[token].tolist(), weights[token].double(), strict=True):
                gate, up = (self.experts.gate_up_proj[expert].double() @ x[token].double()).chunk(2)
                want[row] += weight * (self.experts.down_proj[expert].double() @ (gate * gate.sigmoid() * up))
        return ((got[some].double() - want).norm() / want.norm()).item()


def experts_row(block: Block, tokens: int, best: dict) -> dict:
    calls = 1 if tokens > GRAPHED else 2 if tokens > 64 else 4 if tokens > 4 else 10
    inputs = [block.inputs(tokens) for _ in range(calls)]
    used = sum(len(chosen.unique()) for _, chosen, _ in inputs) / len(inputs)
    read = 1000 * used * 3 * HIDDEN * INTER * DTYPE.itemsize / best["read_bytes_s"]
    computed = 1000 * tokens * TOP_K * 6 * HIDDEN * INTER / best["matrix_ops_s"]
    row = {"tokens": tokens, "experts_used": used, "read_ms": round(read, 4), "compute_ms": round(computed, 4)}
    row["floor_ms"] = max(row["read_ms"], row["compute_ms"])
    forms = {}
    for name in ("grouped_mm", NAME):
        each = [lambda name=name, given=given: block.call(name, given) for given in inputs]
        forms[name] = recorded(each).replay if tokens <= GRAPHED else each[0]
        row[name] = {"error": round(block.error(each[0](), inputs[0]), 5)}
    for name, times in take_turns(forms, 15 if tokens <= GRAPHED else 5).items():
        row[name] |= figures(times, len(inputs))
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        block.call(name, inputs[0])
        row[name]["temporary_gb"] = round((torch.cuda.max_memory_allocated() - before) / 1e9, 3)
    row["times_faster"] = round(row["grouped_mm"]["ms"] / row[NAME]["ms"], 3)
    return row


def norm_rows(tokens: int, best: dict) -> list[dict]:
    """Each operation of a decoder layer between its sublayers, and all of them together."""
    norm = MiniMaxRMSNorm(HIDDEN, eps=EPS).to(DEVICE, DTYPE).requires_grad_(False)
    norm.weight += 0.1 * torch.randn_like(norm.weight)
    h, f = (torch.randn(tokens, HIDDEN, device=DEVICE, dtype=DTYPE) for _ in range(2))

    def exact_norm(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * norm.weight.double()

    some = (h[:256].double(), f[:256].double())
    stock = {
        "norm": lambda: norm(h),
        "residual and norm": lambda: norm(h * ALPHA + f * BETA),
        "residual": lambda: h * ALPHA + f * BETA,
    }
    ours = {
        "norm": lambda: kernels.rms_norm(h, norm.weight, EPS),
        "residual and norm": lambda: kernels.norm_residual(h, f, ALPHA, BETA, norm.weight, EPS),
        "residual": lambda: kernels.residual(h, f, ALPHA, BETA),
    }
    added = ALPHA * some[0] + BETA * some[1]
    want = {"norm": exact_norm(some[0]), "residual and norm": exact_norm(added), "residual": added}
    rows = []
    for name, passes in (("norm", 2), ("residual and norm", 3), ("residual", 3)):
        floor = 1000 * passes * h.nbytes / best["read_bytes_s"]
        row = {"what": name, "tokens": tokens, "floor_ms": round(floor, 4)}
        for form, call in (("stock", stock[name]), ("ours", ours[name])):
            row[form] = {"error": round(((call()[:256] - want[name]).norm() / want[name].norm()).item(), 5)}
        for form, times in take_turns({"stock": stock[name], "ours": ours[name]}, 7).items():
            row[form] |= figures(times)
        rows.append(row)
    layer = {form: round(sum(row[form]["ms"] for row in rows), 3) for form in ("stock", "ours")}
    return [*rows, {"what": "a decoder layer", "tokens": tokens} | layer]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true", help="a width of 256")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.toy:
        globals().update(HIDDEN=256, INTER=384, TOKENS=(1, 16, 1024, 8192), NORM_TOKENS=1024)
    torch.manual_seed(0)
    register()
    result = {"what": "experts and norms of one layer, Transformers' and ours"}
    result |= {
        "device": torch.cuda.get_device_name(),
        "versions": versions(),
        "date": str(date.today()),
        "command": "python benchmarks/experts.py",
    }
    result |= {"dtype": str(DTYPE).removeprefix("torch."), "rates": rates(), "rows": [], "norms": []}
    block = Block()
    for tokens in TOKENS:
        result["rows"].append(experts_row(block, tokens, result["rates"]))
        save(result, arguments.json)
        print(described(result["rows"][-1]), flush=True)
    result["norms"] = norm_rows(NORM_TOKENS, result["rates"])
    save(result, arguments.json)
    for row in result["norms"]:
        print(json.dumps(row))
    print(result["device"], json.dumps(result["rates"]))


def described(row: dict) -> str:
    theirs, ours = row["grouped_mm"], row[NAME]
    return (
        f"{row['tokens']:7} tokens: grouped_mm {theirs['ms']:9.3f} ms, ours {ours['ms']:9.3f} ms"
        f" ({row['times_faster']:.2f} times), floor {row['floor_ms']:8.3f};"
        f" error {theirs['error']:.5f}, {ours['error']:.5f}; {theirs['temporary_gb']}, {ours['temporary_gb']} GB"
    )


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def save(result: dict, path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
