"""Lightning attention as stock Transformers computes it and as minimax_nb.lightning does: errors and times, one run.

    python benchmarks/lightning.py accuracy speed effect --json FILE     # on a GPU with 120 GB, real width
    python benchmarks/lightning.py accuracy speed effect --toy           # anywhere, seconds: does it run?
    OMP_NUM_THREADS=2 python benchmarks/lightning.py cpu --json FILE     # the demo model on the CPU

accuracy: one layer's attention, before its norm, against the definition in float64, from the same q, k and v.
speed: one hybrid period (8 layers, random weights). effect: the demo model in bf16 against itself in fp32.
Everything in a run has the same weights and inputs; each part is written as soon as it is measured.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, MiniMaxForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxLightningAttention

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from minimax_nb.attention import register  # noqa: E402
from minimax_nb.bench.clock import Clock  # noqa: E402
from minimax_nb.bench.measure import building_in, random_config, random_model  # noqa: E402
from minimax_nb.bench.results import Results  # noqa: E402
from minimax_nb.cache import CACHE_ARGUMENT, repair_cache, restore, snapshot  # noqa: E402
from minimax_nb.lightning import has_fused, lightning_attention, slopes, use_lightning  # noqa: E402
from minimax_nb.reference import recurrence  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
OURS = ["fused", "torch"] if DEVICE == "cuda" and has_fused() else ["torch"]


def error(got: Tensor, want: Tensor) -> float | str:
    """Relative, in percent; "inf" if anything is not finite."""
    if not got.isfinite().all():
        return "not finite"
    return round(100 * ((got.double() - want).norm() / want.norm()).item(), 4)


# ---- accuracy ------------------------------------------------------------------------------------------------------


class Rows(nn.Module):
    """Stands in for qkv_proj and gives rows computed beforehand, so that all forms attend to the same q, k and v."""

    rows: Tensor

    def forward(self, hidden_states):
        return self.rows


def accuracy(toy: bool, measured: tuple[int, ...] = (0, 40, 78)) -> list[dict]:
    """Errors of these of the 80 layers."""
    layers, prompt, found = 80, 4096 if not toy else 128, []
    for dtype, scale, steps in ((torch.bfloat16, 1.0, prompt), (torch.float16, 1.0, 256), (torch.float16, 8.0, 256)):
        for layer in measured:
            kinds = [1 if i % 8 == 7 else 0 for i in range(layers)]
            config = random_config(toy, num_hidden_layers=layers, attn_type_list=kinds)
            torch.manual_seed(layer)
            with torch.device(DEVICE):
                module = MiniMaxLightningAttention(config, layer)
                nn.init.normal_(module.qkv_proj.weight, std=scale * config.initializer_range)
                x = torch.randn(1, prompt + steps, config.hidden_size, dtype=dtype)
            with torch.inference_mode():
                found += one_layer(module.to(dtype), built_in(dtype, config, layer), x, prompt, steps, scale)
    return found


def built_in(dtype: torch.dtype, config, layer: int) -> MiniMaxLightningAttention:
    """A layer whose decay buffers were computed in `dtype`, as by MiniMaxForCausalLM(config) under that default.

    `from_pretrained` of Transformers 5.23.0 computes them in fp32 and rounds once.
    """
    with building_in(dtype, DEVICE):
        return MiniMaxLightningAttention(config, layer)


def one_layer(module, built, x: Tensor, prompt: int, steps: int, scale: float) -> list[dict]:
    """Errors in percent of a prefill and of decoding after it, by stock and by each backend."""
    qkv = module.qkv_proj(x)
    shape = (module.num_attention_heads, 3, module.head_dim)
    q, k, v = module.act_fn(qkv).unflatten(-1, shape).unbind(3)
    want, _ = recurrence(q, k, v, rates_of(module, x.device))
    forms = {"stock": stock_form(module, x, qkv)} | {name: our_form(module, qkv, name) for name in OURS}
    forms["stock, built in half precision"] = stock_form(built, x, qkv)
    rows = []
    for name, form in forms.items():
        state, at, outs = None, 0, []
        for size in [prompt] + [1] * (0 if "," in name else steps):
            out, state = form(at, at + size, state)
            outs.append(out.float())
            at += size
        out = torch.cat(outs, 1)
        row = {"form": name, "dtype": str(x.dtype)[6:], "qkv_scale": scale, "layer": module.layer_idx}
        row |= {f"prefill_{prompt}": error(out[:, :prompt], want[:, :prompt])}
        for first in sorted({256, steps}) if len(outs) > 1 else ():
            row[f"decode_{first}_after"] = error(out[:, prompt : prompt + first], want[:, prompt : prompt + first])
        rows.append(row)
    return rows


def stock_form(module, x: Tensor, qkv: Tensor):
    """Transformers' forward pass, its attention caught before the norm."""
    caught = []
    module.norm.register_forward_pre_hook(lambda norm, args: caught.append(args[0]))
    module.qkv_proj = Rows()

    def run(start, stop, state):
        cache = MiniMaxCache()
        cache.linear_cache = [None] * module.layer_idx + [state]
        module.qkv_proj.rows = qkv[:, start:stop]
        _, state = module(x[:, start:stop], position_embeddings=None, attention_mask=None, **{CACHE_ARGUMENT: cache})
        return caught.pop().unflatten(-1, (module.num_attention_heads, module.head_dim)), state

    return run


def our_form(module, qkv: Tensor, backend: str):
    """What a model runs, up to the norm."""
    heads, rates = module.num_attention_heads, rates_of(module, qkv.device)

    def run(start, stop, state):
        piece = qkv[:, start:stop]
        if backend == "fused" and stop - start == 1 and state is not None:
            from minimax_nb.lightning.kernels import decode_step

            out, state = decode_step(piece, rates, state, heads)
            return out.unflatten(-1, (heads, module.head_dim)), state
        piece = module.act_fn(piece)
        piece = piece.float() if piece.dtype == torch.float16 else piece  # for its range, as the layer does
        q, k, v = piece.unflatten(-1, (heads, 3, module.head_dim)).unbind(3)
        return lightning_attention(q, k, v, rates, state, backend=backend)

    return run


def rates_of(module, device) -> Tensor:
    return slopes(module.num_attention_heads, module.layer_idx, module.num_hidden_layers, device)


# ---- times ---------------------------------------------------------------------------------------------------------


def timed(clock: Clock, call, repeats: int, before=lambda: None) -> dict:
    """Medians over `repeats` calls after one that warms up, and the spread of the whole."""
    parts = []
    for _ in range(repeats + 1):
        before()
        parts.append(clock.split(call))
    whole, sublayers = ([sum(part.values()) for part in parts[1:]], [part["lightning"] for part in parts[1:]])
    found = {"ms": statistics.median(whole), "lightning_ms": statistics.median(sublayers)}
    return {name: round(ms, 3) for name, ms in (found | {"least_ms": min(whole), "most_ms": max(whole)}).items()}


@torch.inference_mode()
def times(model, clock: Clock, lengths: dict[str, int], forms: list[str], repeats: int) -> list[dict]:
    """Prefill, a second turn on a kept cache and decode steps, by each form; decode twice, for its times drift."""
    rows = []
    ids = torch.randint(model.config.vocab_size, (1, max(lengths.values())), device=model.device)
    for form in forms:
        use_lightning(model, form)
        start, size = time.perf_counter(), lengths["prefill"]
        cached(model, ids[:, : lengths["kept"]])
        first = round(time.perf_counter() - start, 2)  # kernels are compiled and tuned here
        found = timed(clock, lambda size=size: model(ids[:, :size], use_cache=True, logits_to_keep=1), min(repeats, 3))
        rows.append({"form": form, "what": "prefill", "tokens": size} | found)
        rows[-1] |= {"peak_gb": peak(), "first_call_s": first}
        rows.append(going_on(model, clock, ids, form, lengths["kept"], lengths["turn"], repeats))
        print(json.dumps(rows[-2:]), flush=True)
    for form in forms * 2:
        rows.append(going_on(model, clock, ids, form, lengths["kept"], 1, 10 * repeats))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def cached(model, ids: Tensor) -> MiniMaxCache:
    cache = MiniMaxCache()
    model(ids, **{CACHE_ARGUMENT: cache}, use_cache=True, logits_to_keep=1).logits.cpu()
    return cache


def going_on(model, clock: Clock, ids: Tensor, form: str, kept: int, size: int, repeats: int) -> dict:
    """A row: `size` tokens more on a cache that holds `kept`; the cache is put back before each repeat."""
    use_lightning(model, form)
    cache = cached(model, ids[:, :kept])
    before, settings = snapshot(cache), {"use_cache": True, "logits_to_keep": 1}
    call = lambda: model(ids[:, :size], **{CACHE_ARGUMENT: cache}, **settings)  # noqa: E731
    found = timed(clock, call, repeats, lambda: restore(cache, before))
    return {"form": form, "what": "second turn" if size > 1 else "decode", "tokens": size, "kept": kept} | found


def peak() -> float | None:
    return round(torch.cuda.max_memory_allocated() / 1e9, 1) if DEVICE == "cuda" else None


def speed(toy: bool) -> dict:
    model = random_model(toy, "bfloat16")
    model.set_attn_implementation(register())  # as load() does on a GPU
    lengths = {"kept": 4096, "turn": 1024, "prefill": 131072} if not toy else {"kept": 300, "turn": 64, "prefill": 600}
    rows = times(model, Clock(model), lengths, ["stock", *OURS], repeats=5)
    return {"rows": rows} | ({"within": within(model, lengths["prefill"])} if DEVICE == "cuda" else {})


@torch.inference_mode()
def within(model, length: int) -> list[dict]:
    """What one lightning sublayer spends its time on, and what else was tried for each of its parts."""
    from fla.modules.norm.fused_norm_gate import rms_norm_gated
    from fla.ops.simple_gla import chunk_simple_gla

    from minimax_nb.lightning.kernels import silu_split

    layer = model.model.layers[0].self_attn
    heads, width, norm = layer.num_attention_heads, layer.head_dim, layer.norm
    x = torch.randn(1, length, model.config.hidden_size, device=DEVICE, dtype=torch.bfloat16)
    qkv, gate = layer.qkv_proj(x), layer.output_gate(x)
    q, k, v = silu_split(qkv, None, heads)
    state = torch.zeros(1, heads, width, width, device=DEVICE)
    shared = {"g_gamma": -slopes(heads, 0, 80, DEVICE), "scale": 1.0, "initial_state": state}
    shared["output_final_state"] = True
    flat = q.flatten(2)
    parts = {
        "projections": lambda: (layer.qkv_proj(x), layer.output_gate(x), layer.out_proj(flat)),
        "silu and split, our kernel": lambda: silu_split(qkv, None, heads),
        "silu and split, PyTorch": lambda: [
            y.contiguous() for y in layer.act_fn(qkv).unflatten(-1, (heads, 3, width)).unbind(3)
        ],
        "attention, chunks of 64": lambda: chunk_simple_gla(q, k, v, chunk_size=64, **shared),
        "attention, torch backend": lambda: lightning_attention(q, k, v, -shared["g_gamma"], state, backend="torch"),
        "norm and gate, library kernel": lambda: rms_norm_gated(flat, gate, norm.weight, None, "sigmoid", eps=1e-6),
        "norm and gate, PyTorch": lambda: torch.sigmoid(gate) * norm(flat),
    }
    found = []
    for name, call in parts.items():
        try:
            figures = timed(Clock(nn.Module(), x.device), call, 5)
            found.append({"part": name} | {k: v for k, v in figures.items() if k != "lightning_ms"})
        except Exception as problem:  # a library kernel that does not compile at this size is a finding
            found.append({"part": name, "problem": f"{type(problem).__name__}: {str(problem)[:200]}"})
        print(json.dumps(found[-1]), flush=True)
    return found


# ---- the whole model -----------------------------------------------------------------------------------------------


def demo(dtype: torch.dtype):
    from minimax_nb.checkpoint import patch_checkpoint
    from minimax_nb.demo import demo_checkpoint

    folder = patch_checkpoint(demo_checkpoint(), ROOT / "notebooks" / "_work" / "demo")
    model = MiniMaxForCausalLM.from_pretrained(folder, dtype=dtype).to(DEVICE).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def long_conversations(tokenizer, rows: int, length: int) -> Tensor:
    """Conversations of the demo's own corpus, drawn from seeds of their own, as token ids (rows, length)."""
    import random

    from minimax_nb.demo.train import Encoder

    encoder = Encoder(tokenizer)
    return torch.tensor([encoder.row(random.Random(f"effect {i}"), length, True)[0] for i in range(rows)])


@torch.inference_mode()
def effect(toy: bool) -> list[dict]:
    """KL(fp32 || bf16) in nats a token, and how often both prefer the same token, in a prefill and step by step."""
    length, prompt, count = (1024, 512, 16) if not toy else (96, 64, 2)
    exact, tokenizer = demo(torch.float32)
    ids = long_conversations(tokenizer, count, length).to(DEVICE)
    use_lightning(exact, "torch")
    want = teacher_forced(exact, ids, prompt).double().log_softmax(-1)
    rows = []
    for form in ["stock", *OURS]:
        half, _ = demo(torch.bfloat16)
        use_lightning(half, form)
        got = teacher_forced(half, ids, prompt).double().log_softmax(-1)
        kl, same = (want.exp() * (want - got)).sum(-1), want.argmax(-1) == got.argmax(-1)
        for name, part in (("prefill", slice(0, prompt)), ("decode", slice(prompt, length))):
            found = {
                "kl": round(kl[:, part].mean().item(), 6),
                "same_token": round(same[:, part].double().mean().item(), 5),
            }
            rows.append({"form": form, "dtype": "bfloat16", "what": name, "conversations": count} | found)
    return rows


def teacher_forced(model, ids: Tensor, prompt: int) -> Tensor:
    """Logits of given tokens: a prefill, then one token at a time on the cache."""
    repair_cache()
    cache, logits = MiniMaxCache(), []
    for piece in [ids[:, :prompt], *ids[:, prompt:].split(1, 1)]:
        logits.append(model(piece, **{CACHE_ARGUMENT: cache}, use_cache=True).logits.float())
    return torch.cat(logits, 1)


def cpu(toy: bool) -> list[dict]:
    model, _ = demo(torch.float32)
    lengths = {"kept": 512, "turn": 512, "prefill": 2048} if not toy else {"kept": 64, "turn": 32, "prefill": 128}
    return times(model, Clock(model), lengths, ["stock", "torch"], repeats=7)


def main() -> None:
    parts = {"accuracy": accuracy, "speed": speed, "effect": effect, "cpu": cpu}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="+", choices=parts)
    parser.add_argument("--toy", action="store_true", help="small sizes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    command = " ".join(["python benchmarks/lightning.py", *arguments.parts])
    with Results(arguments.json, command) as results:
        results.found |= {"what": "lightning attention, stock and ours", "errors_are": "percent"}
        for part in arguments.parts:
            start = time.perf_counter()
            results.found[part] = parts[part](arguments.toy)
            results.found[part + "_seconds"] = round(time.perf_counter() - start, 1)
            results.save()
            if not arguments.json:
                print(json.dumps({part: results.found[part]}, indent=1))
            print(f"{part}: {results.found[part + '_seconds']} s", flush=True)
        results.found["complete"] = True
        results.save()


if __name__ == "__main__":
    main()
