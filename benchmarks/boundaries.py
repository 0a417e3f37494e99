"""Pads and packed documents in lightning attention: how exact, and what they cost. Plain Python, no pytest.

    python benchmarks/boundaries.py --json FILE            # on a GPU with flash-linear-attention; at real width
    python benchmarks/boundaries.py --toy                  # small sizes, anywhere

accuracy: the operator, each backend and dtype, against the float64 recurrence row by row; gradients too.
kernels:  the package's own kernels against PyTorch.
model:    a random model of 4 layers, its rows alone, padded, over turns and packed, against `reference.forward`.
speed:    one lightning layer at real width, and one hybrid period, milliseconds: unpadded, under a mask without zeros,
          padded on the left, right and in between, packed; and the layer without what knows of pads, as it was before.
"""

import argparse
import json
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from minimax_nb import reference, selftest  # noqa: E402
from minimax_nb.bench import Results, random_config  # noqa: E402
from minimax_nb.cache import CACHE_ARGUMENT, repair_cache  # noqa: E402
from minimax_nb.lightning import backends, has_fused, lightning_attention, slopes, use_lightning  # noqa: E402
from minimax_nb.lightning import boundaries as edges  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ["fused", "torch"] if DEVICE == "cuda" and has_fused() else ["torch"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BOUNDS = {"torch": {"float32": 1e-6, "bfloat16": 3e-3, "float16": 1e-3}}
BOUNDS["fused"] = {"float32": 3e-3, "bfloat16": 6e-3, "float16": 3e-3}  # it multiplies in tf32, or in bf16


def error(got: Tensor, want: Tensor) -> float:
    return ((got.double().cpu() - want.double().cpu()).norm() / want.double().norm().cpu()).item()


# ---- accuracy ------------------------------------------------------------------------------------------------------


def made(length: int, dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    """q, k, v of 4 rows, a state and a mask: all pads, pads on the right, on the left, and anywhere."""
    generator = torch.Generator().manual_seed(seed)
    qkv = F.silu(torch.randn(3, 4, length, 8, 64, generator=generator)).to(DEVICE, dtype)
    state = torch.randn(4, 8, 64, 64, generator=generator).to(DEVICE)
    mask = torch.rand(4, length, generator=generator) > 0.3
    mask[0], mask[1], mask[2] = False, torch.arange(length) < length // 2 + 1, torch.arange(length) >= length // 3
    return list(qkv.unbind()), state, mask.to(DEVICE)


def accuracy() -> list[dict]:
    found = []
    for backend in BACKENDS:
        for name, dtype in DTYPES.items():
            for length in (1, 9, 16, 17, 64, 200, 1000):
                qkv, state, mask = made(length, dtype)
                rates = slopes(8, 1, 8, DEVICE)
                out, after = lightning_attention(*qkv, rates, state, mask=mask, backend=backend)
                worst = 0.0 if after[0].equal(state[0]) and not out[~mask].any() else 1.0
                for i in (1, 2, 3):
                    if not mask[i].any():
                        continue
                    alone = [x[i : i + 1, mask[i]] for x in qkv]
                    want, last = reference.recurrence(*alone, rates, state[i : i + 1])
                    worst = max(worst, error(out[i : i + 1, mask[i]], want), error(after[i : i + 1], last))
                found.append({"what": "pads", "backend": backend, "dtype": name, "length": length, "error": worst})
                if length > 1:
                    worst = packed_error(qkv, rates, length, backend)
                    found.append(found[-1] | {"what": "packed", "error": worst})
            if dtype == torch.float32:
                found.append({"what": "gradients", "backend": backend, "dtype": name, "error": gradient_error(backend)})
    for row in found:
        limit = BOUNDS[row["backend"]][row["dtype"]] * (10 if row["what"] == "gradients" else 1)
        row["ok"] = row["error"] < limit
        row["error"] = float(f"{row['error']:.2e}")
    return found


def documents(length: int) -> Tensor:
    """Of 4 rows laid end to end, each row one or more."""
    inside = {0, 1, length // 3, length, length + length // 2, 2 * length, 3 * length, 4 * length - 1, 4 * length}
    return torch.tensor(sorted(inside), device=DEVICE)


def packed_error(qkv: list[Tensor], rates: Tensor, length: int, backend: str) -> float:
    ends = documents(length)
    out, _ = lightning_attention(*qkv, rates, cu_seqlens=ends, backend=backend)
    flat = [x.flatten(0, 1)[None] for x in qkv]
    want = [reference.recurrence(*(x[:, a:b] for x in flat), rates)[0] for a, b in pairwise(ends.tolist())]
    return error(out.flatten(0, 1)[None], torch.cat(want, 1))


def gradient_error(backend: str) -> float:
    """The fused and the torch backend against the torch backend in float64, under a mask and packed."""
    qkv, state, mask = made(150, torch.float32)
    rates, worst = slopes(8, 1, 8, DEVICE), 0.0
    for gates in ({"mask": mask}, {"cu_seqlens": documents(150)}):
        grads = []
        for form, dtype in ((backend, torch.float32), ("torch", torch.float64)):
            leaves = [x.to(dtype).clone().requires_grad_() for x in (*qkv, state)]
            given = leaves[3] if "mask" in gates else None
            out, after = lightning_attention(*leaves[:3], rates, given, backend=form, **gates)
            (out.sin().sum() + (0 if after is None else after.cos().sum())).backward()
            grads.append([leaf.grad for leaf in leaves if leaf.grad is not None])
        worst = max(worst, *(error(*pair) for pair in zip(*grads, strict=True)))
    return worst


def kernels() -> list[dict]:
    """What `load` runs once before it promises "fused"."""
    if "fused" not in BACKENDS:
        return []
    from minimax_nb.lightning.proof import largest_error

    found = []
    for name in DTYPES:
        for heads, head_dim in ((8, 32), (64, 128)):
            start = time.perf_counter()
            worst = largest_error(heads, head_dim, name)
            row = {"heads": heads, "head_dim": head_dim, "dtype": name, "error": float(f"{worst:.2e}")}
            found.append(row | {"seconds": round(time.perf_counter() - start, 1), "ok": worst < 0.02})
    return found


# ---- in a model ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def model() -> list[dict]:
    repair_cache()
    found = []
    for backend in BACKENDS:
        small = selftest.build("sdpa", backend, DEVICE, "float32")
        rows = {name: check(small) for name, check in selftest.CHECKS.items()}
        rows |= {"packed": packed_model_error(small), "right padding, then decoding": decoding_error(small)}
        for name, worst in rows.items():
            ok = worst < (1e-2 if backend == "fused" else 1e-5)
            found.append({"what": name, "backend": backend, "error": float(f"{worst:.2e}"), "ok": ok})
    return found


def packed_model_error(small) -> float:
    a, b = small.rows()
    positions = torch.tensor([[*range(len(a)), *range(len(b))]], device=DEVICE)
    got = small.logits([a + b], position_ids=positions, use_cache=False)[0]
    return max(selftest._error(got[: len(a)], small.right(a)), selftest._error(got[len(a) :], small.right(b)))


def decoding_error(small) -> float:
    """Rows of 21 and 13 tokens, the shorter padded on the right; a row that has ended waits; then both go on."""
    (a, b), cache = small.rows(), selftest.MiniMaxCache()
    mask = torch.tensor([[1] * 21, [1] * 13 + [0] * 8], device=DEVICE)
    small.logits([a, b + [0] * 8], cache, attention_mask=mask)
    for ids, real in (([[7], [0]], [1, 0]), ([[8], [9]], [1, 1]), ([[5, 6], [5, 6]], [[1, 1], [1, 1]])):
        more = torch.tensor(real, device=DEVICE).view(2, -1)
        mask = torch.cat([mask, more], 1)
        got = small.logits(ids, cache, attention_mask=mask)
    wants = small.right(a + [7, 8, 5, 6])[-2:], small.right(b + [9, 5, 6])[-2:]
    return max(selftest._error(row, want) for row, want in zip(got, wants, strict=True))


# ---- speed ---------------------------------------------------------------------------------------------------------


def clocked(calls: dict, repeats: int) -> dict[str, dict]:
    """Milliseconds of each call, taken in turns so that a drift of the machine falls on all."""
    times = {name: [] for name in calls}
    for turn in range(repeats + 2):  # the first two warm up
        for name, call in calls.items():
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            if turn > 1:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: {"ms": round(statistics.median(ms), 3), "least_ms": round(min(ms), 3)} for name, ms in times.items()}


NAMES = ("ones", "left", "right", "mid")


def masks(batch: int, length: int) -> dict[str, Tensor | None]:
    made = {
        name: torch.ones(batch, length, dtype=torch.long, device=DEVICE) for name in ("ones", "left", "right", "mid")
    }
    made["left"][0, : length // 4], made["right"][0, -length // 4 :] = 0, 0
    made["mid"][0, length // 4 : length // 2] = 0
    return {"none": None} | made


@torch.inference_mode()
def speed(toy: bool) -> list[dict]:
    from transformers import MiniMaxForCausalLM

    changes = {} if toy else {"vocab_size": 4096, "num_local_experts": 2, "num_experts_per_tok": 2}
    config = random_config(toy, **changes)  # two experts: this is about the other layers
    with torch.device(DEVICE):
        period = MiniMaxForCausalLM(config).to(torch.float32 if DEVICE == "cpu" else torch.bfloat16).eval()
    repair_cache()
    found = []
    for backend in BACKENDS:
        use_lightning(period, backend)
        for batch, length in ((4, 256), (2, 512)) if toy else ((4, 1024), (4, 8192)):
            found += prefill_rows(period, backend, batch, length, 7 if toy or length < 4096 else 5)
        found += decode_rows(period, backend, 4, 64 if toy else 1024, 30 if toy else 100)
    return found


def prefill_rows(period, backend: str, batch: int, length: int, repeats: int) -> list[dict]:
    ids = torch.randint(3, period.config.vocab_size, (batch, length), device=DEVICE)
    layer, given = period.model.layers[0].self_attn, masks(batch, length)
    x = torch.randn(batch, length, period.config.hidden_size, device=DEVICE, dtype=period.dtype)
    plain, gated = edges.Boundaries(), edges.Boundaries(given["mid"].bool(), gated=True)
    left = edges.Boundaries(given["left"].bool(), gated=False)
    ends = torch.arange(0, batch * length + 1, length // 4, device=DEVICE)
    calls = {
        "layer, unpadded": lambda: layer(x, boundaries=plain),
        "layer, unpadded as before": lambda: before(layer, x),
        "layer, left": lambda: layer(x, boundaries=left),
        "layer, in between": lambda: layer(x, boundaries=gated),
        "layer, packed": lambda: layer(x, boundaries=edges.Boundaries(cu_seqlens=ends)),
    }
    more = {"use_cache": True, "logits_to_keep": 1}
    for name, mask in given.items():
        calls[f"period, mask {name}"] = lambda mask=mask: period(ids, attention_mask=mask, **more)
    positions = torch.arange(length // 4, device=DEVICE).repeat(4).expand(batch, -1)
    calls["period, packed"] = lambda: period(ids, position_ids=positions, use_cache=False, logits_to_keep=1)
    calls["period, without the hook"] = lambda: unhooked(period, lambda: period(ids, **more))
    return rows_of(clocked(calls, repeats), {"backend": backend, "batch": batch, "tokens": length})


def decode_rows(period, backend: str, batch: int, kept: int, repeats: int) -> list[dict]:
    """One token on a cache, which grows by one each time for all alike."""
    given, calls = masks(batch, kept), {}
    ids = torch.randint(3, period.config.vocab_size, (batch, kept), device=DEVICE)
    for name in ("none", "ones", "left", "mid"):
        holder = {"mask": given[name], "out": period(ids, attention_mask=given[name], use_cache=True, logits_to_keep=1)}

        def step(holder=holder):
            if holder["mask"] is not None:
                holder["mask"] = F.pad(holder["mask"], (0, 1), value=1)
            cache = {CACHE_ARGUMENT: holder["out"][CACHE_ARGUMENT]}
            holder["out"] = period(ids[:, :1], attention_mask=holder["mask"], use_cache=True, **cache)

        calls[f"decode, mask {name}"] = step
    return rows_of(clocked(calls, repeats), {"backend": backend, "batch": batch, "kept": kept})


def rows_of(found: dict[str, dict], shared: dict) -> list[dict]:
    """With the ratio to the unpadded form of the same kind."""
    base = {"layer": "layer, unpadded", "period": "period, mask none", "decode": "decode, mask none"}
    rows = []
    for name, figures in found.items():
        ratio = figures["least_ms"] / found[base[name.partition(",")[0]]]["least_ms"]
        rows.append(shared | {"what": name} | figures | {"ratio": round(ratio, 3)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def before(layer, x: Tensor) -> Tensor:
    """The layer as it was before it knew of pads: the same projections, silu and split, one decay for all tokens."""
    from minimax_nb.lightning import layer as ours

    qkv, gate = layer.qkv_proj(x), layer.output_gate(x)
    heads, rates = layer.num_attention_heads, ours._rates(layer, x.device)
    if layer.lightning_backend == "torch":
        q, k, v = layer.act_fn(qkv).unflatten(-1, (heads, 3, layer.head_dim)).unbind(3)
        out, _ = lightning_attention(q, k, v, rates, backend="torch")
        return layer.out_proj(ours._norm_and_gate(layer.norm, out.flatten(2), gate))
    from fla.modules.norm.fused_norm_gate import rms_norm_gated
    from fla.ops.simple_gla import chunk_simple_gla

    from minimax_nb.lightning.kernels import silu_split

    q, k, v = silu_split(qkv, None, heads)
    state = torch.zeros(len(x), heads, layer.head_dim, layer.head_dim, device=x.device)
    settings = {"scale": 1.0, "initial_state": state, "output_final_state": True, "chunk_size": 64}
    out, _ = chunk_simple_gla(q, k, v, g_gamma=-rates, **settings)
    norm = layer.norm
    return layer.out_proj(rms_norm_gated(out.flatten(2), gate, norm.weight, None, "sigmoid", eps=norm.variance_epsilon))


def unhooked(period, call) -> None:
    hooks = dict(period.model._forward_pre_hooks)
    period.model._forward_pre_hooks.clear()
    try:
        call()
    finally:
        period.model._forward_pre_hooks.update(hooks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with Results(arguments.json, "python benchmarks/boundaries.py" + " --toy" * arguments.toy) as results:
        found = results.found
        found |= {"what": "pads and packed documents in lightning attention", "fault": ""}
        if DEVICE == "cuda":
            found["fault"] = backends.why_not_fused(True, backends.Sizes(8, 32, "bfloat16"))
        parts = {"kernels": kernels, "accuracy": accuracy, "model": model, "speed": lambda: speed(arguments.toy)}
        for part, run in parts.items():
            start = time.perf_counter()
            found[part] = run()
            results.save()
            wrong = json.dumps([row for row in found[part] if not row.get("ok", True)])
            print(f"{part}: {len(found[part])} rows, {time.perf_counter() - start:.1f} s, wrong: {wrong}", flush=True)
        found["complete"] = True
        results.save()
    worst = [row for part in ("kernels", "accuracy", "model") for row in found[part]]
    print(json.dumps(sorted(worst, key=lambda row: -row["error"])[:8], indent=1))


if __name__ == "__main__":
    main()
