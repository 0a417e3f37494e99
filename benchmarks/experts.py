"""The experts at the real width: Transformers' grouped_mm, our kernels, the same with int8 weights; and the norms.

    python benchmarks/experts.py --json FILE            # a GPU of compute capability 9.0, 64 GB, half a minute
    python benchmarks/experts.py --sweep --json FILE    # other tiles for 1, 16, 1,024 and 4,096 tokens: 8 minutes
    python benchmarks/experts.py --toy                  # the same at toy width, on a CPU too

32 experts of 6144 x 9216, 2 for each token, random weights and a random router, bf16. All forms take turns, each on the
same inputs. Up to 4,096 tokens several calls on different inputs are recorded in one CUDA graph, so that none is
charged for its launches from Python; beyond that they make no difference. Errors are against float64 of the weights as
they are held, for some tokens. The floor is what must be read or computed, at the rates that library calls reach in
this run; a kernel that reads faster than they do ends a little below it.

A sweep changes the tiles of one kernel at a time and leaves the other as minimax_nb/experts/launch.py has it. What it
finds best belongs there, in TILES. Without a GPU it needs TRITON_INTERPRET=1, and then its times mean nothing.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from transformers.models.minimax.modeling_minimax import MiniMaxConfig, MiniMaxExperts, MiniMaxRMSNorm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from minimax_nb.bench.results import Results  # noqa: E402
from minimax_nb.experts import NAME, register  # noqa: E402
from minimax_nb.experts.held import values_and_scales  # noqa: E402
from minimax_nb.lazy import installed  # noqa: E402

HIDDEN, INTER, EXPERTS, TOP_K = 6144, 9216, 32, 2
TOKENS = (1, 2, 4, 8, 16, 64, 256, 1024, 4096, 16384, 65536, 131072)
GRAPHED, NORM_TOKENS = 4096, 131072
SWEPT = {"one": (1,), "few": (16,), "many": (1024, 4096)}
ALPHA, BETA, EPS = (2 * 80) ** 0.25, 1.0, 1e-5
GPU = torch.cuda.is_available()
DEVICE, DTYPE = ("cuda", torch.bfloat16) if GPU else ("cpu", torch.float32)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
FORMS = ("grouped_mm", NAME, "int8")


def take_turns(forms: dict, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each form, a round after the other, after one call of each that is not counted."""
    found = {name: [] for name in forms}
    for turn in range(rounds + 1):
        for name, call in forms.items():
            ms = timed(call)
            if turn:
                found[name].append(ms)
    return found


def timed(call) -> float:
    if not GPU:
        start = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - start)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    torch.cuda._sleep(200_000)  # busy while Python launches, so that it is not counted
    marks[0].record()
    call()
    marks[1].record()
    marks[1].synchronize()
    return marks[0].elapsed_time(marks[1])


def figures(times: list[float], calls: int = 1) -> dict[str, float]:
    each = [ms / calls for ms in times]
    return {"ms": round(median(each), 4), "least_ms": round(min(each), 4), "most_ms": round(max(each), 4)}


def replayed(calls: list):
    """All of the calls, from one CUDA graph where there is a GPU."""
    for call in calls:
        call()
    if not GPU:
        return lambda: [call() for call in calls]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph.replay


def rates() -> dict[str, float]:
    """Bytes a second of reading (the best of three library calls), operations of a matrix product."""
    side = 2**15 if GPU else 2**11
    values = torch.ones(side, side, device=DEVICE)
    half = values.to(DTYPE)
    readers = {"sum": values.sum, "amax": half.amax, "mv": lambda: half @ half[0]}
    sizes = {"sum": values.nbytes, "amax": half.nbytes, "mv": half.nbytes}
    least = {name: min(times) for name, times in take_turns(readers, 10).items()}
    side //= 4
    a, b = torch.randn(2, side, side, device=DEVICE, dtype=DTYPE)
    product = median(take_turns({"product": lambda: a @ b}, 10)["product"])
    read = {name: 1000 * sizes[name] / ms for name, ms in least.items()}
    return {"read_bytes_s": max(read.values()), "matrix_ops_s": 1000 * 2 * side**3 / product, "read_by": read}


class Block:
    """One layer's experts, as they are and in int8, with a router to draw the choices from."""

    def __init__(self):
        config = MiniMaxConfig(
            hidden_size=HIDDEN, intermediate_size=INTER, num_local_experts=EXPERTS, num_experts_per_tok=TOP_K
        )
        with torch.device("meta"):
            self.experts, self.int8 = (MiniMaxExperts(config).requires_grad_(False) for _ in range(2))
        self.experts.to_empty(device=DEVICE).to(DTYPE)
        for weight in self.experts.parameters():
            for part in weight:
                part.normal_(std=0.02)
        self.router = torch.randn(EXPERTS, HIDDEN, device=DEVICE) / HIDDEN**0.5
        self.forms = FORMS if installed("torchao") else FORMS[:2]
        if "int8" in self.forms:
            from minimax_nb.experts.int8 import quantised_parameter

            for name, weight in self.experts.named_parameters():
                setattr(self.int8, name, quantised_parameter(weight))
        else:
            print('int8 is not measured: it needs torchao, pip install -e ".[int8]"')

    def inputs(self, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(tokens, HIDDEN, device=DEVICE, dtype=DTYPE)
        top, chosen = (x.float() @ self.router.T).softmax(-1).topk(TOP_K, -1)
        return x, chosen, top / top.sum(-1, keepdim=True)

    def call(self, name: str, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        module = self.int8 if name == "int8" else self.experts
        module.config._experts_implementation = NAME if name == "int8" else name
        return module(*inputs)

    def weights(self, name: str, expert: int) -> tuple[Tensor, Tensor]:
        """gate_up and down of one expert in float64, as this form holds them."""
        module, found = self.int8 if name == "int8" else self.experts, []
        for weight in (module.gate_up_proj, module.down_proj):
            values, scales = values_and_scales(weight)
            found.append(values[expert].double() * (1 if scales is None else scales[expert].double()[:, None]))
        return tuple(found)

    def error(self, name: str, got: Tensor, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
        """Relative to the definition in float64, over the first, the last and two tokens between."""
        x, chosen, weights = inputs
        some = sorted({round(i * (len(x) - 1) / 3) for i in range(4)})
        want = torch.zeros(len(some), HIDDEN, device=DEVICE, dtype=torch.float64)
        for row, token in enumerate(some):
            for expert, weight in zip(chosen[token].tolist(), weights[token].double(), strict=True):
                gate_up, down = self.weights(name, expert)
                gate, up = (gate_up @ x[token].double()).chunk(2)
                want[row] += weight * (down @ (gate * gate.sigmoid() * up))
        return ((got[some].double() - want).norm() / want.norm()).item()


@torch.no_grad()
def experts_row(block: Block, tokens: int, best: dict) -> dict:
    calls = 1 if tokens > GRAPHED else 2 if tokens > 64 else 4 if tokens > 4 else 10
    inputs = [block.inputs(tokens) for _ in range(calls)]
    used = sum(len(chosen.unique()) for _, chosen, _ in inputs) / len(inputs)
    read = 1000 * used * 3 * HIDDEN * INTER * DTYPE.itemsize / best["read_bytes_s"]
    computed = 1000 * tokens * TOP_K * 6 * HIDDEN * INTER / best["matrix_ops_s"]
    row = {"tokens": tokens, "experts_used": used, "read_ms": round(read, 4), "compute_ms": round(computed, 4)}
    row["floor_ms"] = max(row["read_ms"], row["compute_ms"])
    row["floor_int8_ms"] = max(round(read / DTYPE.itemsize, 4), row["compute_ms"])
    forms = {}
    for name in block.forms:
        each = [lambda name=name, given=given: block.call(name, given) for given in inputs]
        forms[name] = replayed(each) if tokens <= GRAPHED else each[0]
        row[name] = {"error": round(block.error(name, each[0](), inputs[0]), 5)}
    for name, times in take_turns(forms, 15 if tokens <= GRAPHED else 5).items():
        row[name] |= figures(times, len(inputs))
        if GPU:
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            block.call(name, inputs[0])
            row[name]["temporary_gb"] = round((torch.cuda.max_memory_allocated() - before) / 1e9, 3)
    row["times_faster"] = round(row["grouped_mm"]["ms"] / row[NAME]["ms"], 3)
    if "int8" in row:
        row["int8_by_half"] = round(row["int8"]["ms"] / row[NAME]["ms"], 3)
    return row


# ---- other tiles ---------------------------------------------------------------------------------------------------


def candidates(how_many: str, kernel: str) -> list[dict]:
    """What to try beside the tiles of launch.TILES: changes of them."""
    if how_many == "one":
        return [
            {"ROWS": rows, "BLOCK": block, "num_warps": warps}
            for rows, block, warps in (
                *((2, 1024, 4), (4, 1024, 4), (8, 1024, 4), (2, 2048, 4), (4, 2048, 4), (8, 512, 4)),
                *((4, 1024, 2), (4, 1024, 8), (8, 1024, 8), (4, 2048, 8), (1, 2048, 4), (2, 4096, 8)),
            )
        ]
    if how_many == "few":
        return [
            {"ROWS": rows, "BLOCK": block, "num_warps": warps, "num_stages": stages}
            for rows, block, warps, stages in (
                *((64, 128, 4, 3), (64, 128, 4, 4), (64, 128, 4, 6), (64, 256, 4, 3), (64, 256, 4, 4)),
                *((128, 128, 4, 4), (128, 128, 8, 4), (128, 256, 8, 3), (64, 64, 4, 6)),
            )
        ]
    wide = 2 if kernel == "down" else 1  # a tile of gate_up is of both projections
    return [
        {"ROWS": rows, "COLUMNS": columns * wide, "BLOCK": block, "num_warps": warps, "num_stages": stages}
        | {"FLATTEN": flatten}
        for rows, columns, block, warps, stages, flatten in (
            *((128, 128, 64, 8, 4, True), (128, 128, 64, 8, 6, True), (128, 128, 128, 8, 3, True)),
            *((128, 64, 64, 4, 4, True), (128, 64, 128, 4, 3, True), (64, 128, 64, 8, 4, True)),
            *((64, 128, 128, 8, 3, True), (256, 64, 64, 8, 4, True), (128, 128, 64, 8, 4, False)),
        )
    ]


@torch.no_grad()
def sweep(block: Block, results: Results) -> None:
    """A row a kernel, tiles and number of tokens: milliseconds of the whole block of experts."""
    from minimax_nb.experts import launch

    for form in block.forms[1:]:
        module = block.int8 if form == "int8" else block.experts
        (gate_up, one), (down, two) = (values_and_scales(w) for w in (module.gate_up_proj, module.down_proj))
        held = launch.Experts(gate_up, down, one, two)
        for how_many, sizes in SWEPT.items():
            for tokens in sizes:
                inputs = block.inputs(tokens)
                for kernel in ("gate_up", "down"):
                    base = held.tiles(how_many)
                    tried = [base[kernel], *(base[kernel] | change for change in candidates(how_many, kernel))]
                    rows = [
                        swept(held, how_many, inputs, base | {kernel: tile}, tile)
                        | {"form": form, "tokens": tokens, "kernel": kernel}
                        for tile in (tried[:2] if INTERPRETED else tried)
                    ]
                    for row in rows:
                        results.add("sweep", row)
                    done = [row for row in rows if "ms" in row]
                    if done:
                        least = min(done, key=lambda row: row["ms"])
                        print(f"{form:11}{tokens:6} {kernel:8} now {rows[0].get('ms')} ms, best {least}", flush=True)


def swept(held, how_many: str, inputs: tuple, tiles: dict, tile: dict) -> dict:
    """`ms` of a call with these tiles, or why there is none."""
    from minimax_nb.experts import launch

    x, chosen, weights = inputs
    out = torch.empty_like(x)
    form = {"one": launch.one, "few": launch.few, "many": launch.many}[how_many]
    more = (out,) if how_many == "many" else ()
    row = {"tile": tile}
    try:
        call = replayed([lambda: form(x, held, chosen, weights, *more, tiles=tiles)] * (4 if GPU else 1))
        times = take_turns({"it": call}, 7 if GPU else 1)["it"]
    except Exception as error:  # too much shared memory, or what this Triton cannot compile
        return row | {"failed": f"{type(error).__name__}: {str(error)[:150]}"}
    return row | {"ms": figures(times, 4 if GPU else 1)["ms"]}


# ---- norms ---------------------------------------------------------------------------------------------------------


def norm_rows(tokens: int, best: dict) -> list[dict]:
    """Each operation of a decoder layer between its sublayers, and all of them together."""
    from minimax_nb.norms import kernels

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
    parser.add_argument("--sweep", action="store_true", help="other tiles, instead of the table")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not (GPU or arguments.toy):
        parser.error("the real width needs an NVIDIA GPU: add --toy")
    if arguments.toy:
        globals().update(HIDDEN=256, INTER=384, TOKENS=(1, 16, 1024, 4096), NORM_TOKENS=1024)
        if not GPU:
            globals().update(HIDDEN=64, INTER=96, EXPERTS=8, TOKENS=(1, 16, 128), SWEPT={"one": (1,), "few": (3,)})
    torch.manual_seed(0)
    register()
    command = f"python benchmarks/experts.py{' --sweep' if arguments.sweep else ''}{' --toy' if arguments.toy else ''}"
    with Results(arguments.json, command) as results:
        found = results.found | {"dtype": str(DTYPE).removeprefix("torch.")}
        found |= {"what": "experts and norms of one layer: Transformers' and ours, and ours in int8"}
        results.found = found
        found["rates"] = rates()
        block = Block()
        if arguments.sweep:
            sweep(block, results)
        else:
            for tokens in TOKENS:
                print(described(results.add("rows", experts_row(block, tokens, found["rates"]))), flush=True)
            if GPU:
                for row in norm_rows(NORM_TOKENS, found["rates"]):
                    print(results.add("norms", row))
        found["complete"] = True
        results.save()
    print(found["device"], found["rates"])


def described(row: dict) -> str:
    words = f"{row['tokens']:7} tokens:"
    for name in FORMS:
        if name in row:
            memory = f", {row[name]['temporary_gb']} GB" if GPU else ""
            words += f" {name} {row[name]['ms']:.3f} ms (error {row[name]['error']:.5f}{memory});"
    return f"{words} floors {row['floor_ms']:.3f} and {row['floor_int8_ms']:.3f}"


if __name__ == "__main__":
    main()
