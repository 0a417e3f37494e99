"""What our Triton kernels compute, against float64: cases for a GPU, or for Triton's interpreter.

    python tests/triton_cases.py                          # on a CUDA GPU; prints a line of JSON a case
    TRITON_INTERPRET=1 python tests/triton_cases.py       # on a CPU: small cases, a minute

tests/test_expert_kernels.py runs both where they can run. Alone it needs no pytest. Every piece of memory
that a case allocates is filled with NaN first (torch.use_deterministic_algorithms), so that what a kernel
forgot to write shows.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from minimax_nb import reference  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
TOLERANCE = {torch.float32: 1e-5, torch.float16: 6e-4, torch.bfloat16: 5e-3}
EXPERTS = {  # name: tokens, hidden, inter, experts, k, and the experts that all tokens choose
    "one token": (1, 128, 192, 4, 2, None),
    "one token, one expert": (1, 144, 208, 4, 1, None),
    "three tokens": (3, 144, 208, 4, 2, None),
    "no padding": (16, 128, 192, 32, 2, None),
    "one expert each": (7, 128, 96, 32, 1, None),
    "experts without a token": (5, 64, 32, 32, 2, None),
    "more slots than experts": (33, 64, 32, 4, 2, None),
    "the most of the few": (64, 48, 32, 8, 2, None),
    "all in one": (40, 64, 48, 8, 1, [5]),
    "sorted, tiles cut": (130, 144, 208, 8, 2, None),
    "sorted, all in two": (150, 64, 48, 8, 2, [7, 0]),
}
LARGE = {
    "300 tokens, one expert each": (300, 512, 272, 32, 1, None),
    "5000 tokens": (5000, 256, 400, 32, 2, None),
    "5000 tokens, all in one": (5000, 256, 192, 32, 1, [31]),
    "two pieces": (70000, 64, 48, 8, 2, None),
    "real width, one token": (1, 6144, 9216, 32, 2, None),
    "real width, 16 tokens": (16, 6144, 9216, 32, 2, None),
    "real width, 300 tokens": (300, 6144, 9216, 32, 2, None),
}


def problem(
    tokens: int,
    hidden: int,
    inter: int,
    experts: int,
    k: int,
    same: list[int] | None,
    dtype: torch.dtype,
    int8: bool = False,
):
    """x, gate_up, down, chosen, weights as Transformers has them, and the definition's result in float64.

    int8: the two are int8, their scales come last, and the definition has scale times integer.
    """
    made = torch.Generator(DEVICE).manual_seed(tokens + hidden)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=made, device=DEVICE, dtype=torch.float32).mul_(scale).to(dtype)

    gate_up = torch.stack([normal(2 * inter, hidden, scale=hidden**-0.5) for _ in range(experts)])
    down = torch.stack([normal(hidden, inter, scale=inter**-0.5) for _ in range(experts)])
    x, router = normal(tokens, hidden), normal(experts, hidden)
    if same:  # a feature that all tokens have draws them to these experts
        x[:, 0], router[:, 0] = 4, -100
        router[same, 0] = 100
    scales, seen = (), (gate_up, down)
    if int8:
        (gate_up, gate_up_scale), (down, down_scale) = rounded(gate_up), rounded(down)
        scales = (gate_up_scale, down_scale)
        seen = (gate_up * gate_up_scale[..., None], down * down_scale[..., None])  # in fp32, for memory's sake
    names = {"model.layers.0.block_sparse_moe.gate.weight": router}
    for expert in range(experts):
        prefix = f"model.layers.0.block_sparse_moe.experts.{expert}."
        gate, up = seen[0][expert].chunk(2)
        names |= {prefix + "w1.weight": gate, prefix + "w3.weight": up, prefix + "w2.weight": seen[1][expert]}
    want = reference.mixture_of_experts({"num_experts_per_tok": k}, names, 0, x.double())
    top, chosen = (x.double() @ router.double().T).softmax(-1).topk(k, -1)
    assert not same or set(chosen.unique().tolist()) == set(same)
    return (x, gate_up, down, chosen, (top / top.sum(-1, keepdim=True)).float(), *scales), want


def rounded(weights: Tensor) -> tuple[Tensor, Tensor]:
    """(e, rows, columns) as int8 and fp32 scales (e, rows); an expert at a time, for memory's sake."""
    scales = torch.stack([expert.float().abs().amax(-1) / 127.5 for expert in weights])
    each = zip(weights, scales, strict=True)
    return torch.stack([(w.float() / s[:, None]).round().clamp(-128, 127).to(torch.int8) for w, s in each]), scales


def error(got: Tensor, want: Tensor) -> float:
    """||got - want|| / ||want||; NaN where a NaN is."""
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def expert_errors(dtype: torch.dtype, cases: dict, int8: bool = False) -> dict[str, float]:
    from minimax_nb.experts import launch

    found = {}
    for name, case in cases.items():
        inputs, want = problem(*case, dtype, int8)
        x, gate_up, down, chosen, weights, *scales = inputs
        found[name] = error(launch.mixture_of_experts(*inputs), want)
        if case[0] > 1 and case[0] <= launch.FEW:  # the form for many tokens serves any number
            held = launch.Experts(gate_up, down, *scales)
            found[name + ", sorted"] = error(launch.many(x, held, chosen, weights, torch.empty_like(x)), want)
    return found


def few_errors(cases: dict) -> dict[str, float]:
    """int8 experts with fp32 tokens, by the kernels that serve them on a GPU."""
    from minimax_nb.experts import launch

    found = {}
    for name, case in cases.items():
        inputs, want = problem(*case, torch.float32, int8=True)
        found[name] = error(launch.mixture_of_experts(*inputs), want)
    return found


def norm_errors(dtype: torch.dtype) -> dict[str, float]:
    """Ours, and stock's on the same input for comparison."""
    from transformers.models.minimax.modeling_minimax import MiniMaxRMSNorm

    from minimax_nb.norms import kernels

    found, alpha, beta = {}, 3.5565588200778455, 0.75
    for hidden in (96, 144, 6144) if DEVICE == "cuda" else (96, 144):
        torch.manual_seed(hidden)
        h, f = torch.randn(2, 3, 5, hidden, device=DEVICE, dtype=torch.float32).to(dtype)
        norm = MiniMaxRMSNorm(hidden, eps=1e-5).to(DEVICE, dtype).requires_grad_(False)
        norm.weight += 0.2 * torch.randn_like(norm.weight)
        added = alpha * h.double() + beta * f.double()
        want = {
            "norm": reference.rms_norm(h.double(), norm.weight.double(), 1e-5),
            "residual": added,
            "both": reference.rms_norm(added, norm.weight.double(), 1e-5),
        }
        stock = {"norm": norm(h), "residual": h * alpha + f * beta, "both": norm(h * alpha + f * beta)}
        ours = {
            "norm": kernels.rms_norm(h, norm.weight, 1e-5),
            "residual": kernels.residual(h, f, alpha, beta),
            "both": kernels.norm_residual(h, f, alpha, beta, norm.weight, 1e-5),
        }
        for name in want:
            found[f"{name} of {hidden}"] = error(ours[name], want[name])
            found[f"stock {name} of {hidden}"] = error(stock[name], want[name])
    return found


def small_model(dtype: torch.dtype):
    from transformers import MiniMaxConfig, MiniMaxForCausalLM

    torch.manual_seed(0)
    kinds = ["linear_attention", "full_attention", "linear_attention"]
    factors = {f"{name}_{part}_factor": value for name in ("full_attn", "linear_attn", "mlp")
               for part, value in (("alpha", 1.5), ("beta", 0.5))}  # fmt: skip
    config = MiniMaxConfig(
        vocab_size=64, hidden_size=64, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, head_dim=16,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, layer_types=kinds, **factors,
    )  # fmt: skip
    model = MiniMaxForCausalLM(config).to(DEVICE, dtype).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def model_errors(dtype: torch.dtype) -> dict[str, float]:
    """Logits of a whole model with our experts and our norms, against stock's."""
    from minimax_nb import experts
    from minimax_nb.classes import change_class
    from minimax_nb.experts import interface, launch
    from minimax_nb.norms import layers

    model, ids = small_model(dtype), torch.arange(2 * 40, device=DEVICE).view(2, 40) % 64
    want = model(ids).logits
    if INTERPRETED:  # the checks ask for a GPU
        interface.why_not, interface.launch = lambda *_: None, launch
        layers.servable = lambda *_: True
    model.set_experts_implementation(experts.register())
    found = {"experts": error(model(ids).logits, want)}
    for module in model.modules():
        if isinstance(module, layers.MiniMaxDecoderLayer):
            change_class(module, layers.FusedDecoderLayer)
    found["experts and norms"] = error(model(ids).logits, want)
    model.set_experts_implementation("grouped_mm")
    found["norms"] = error(model(ids).logits, want)
    return found | int8_model_errors(dtype, ids)


def int8_model_errors(dtype: torch.dtype, ids: Tensor) -> dict[str, float]:
    """Logits of a model whose experts are torchao's Int8Tensor: our kernels against plain PyTorch."""
    from minimax_nb.experts import interface
    from minimax_nb.lazy import installed

    if not installed("torchao"):
        return {}
    from minimax_nb.experts.int8 import quantise

    model, why_not = small_model(dtype), interface.why_not
    quantise(model)
    got = model(ids).logits
    interface.why_not = lambda *_: "for comparison"
    want = model(ids).logits
    interface.why_not = why_not
    return {"int8": error(got, want)}


def device_errors() -> dict[str, float]:
    """What only a GPU shows: graphs, torch.compile, accelerate's hooks, fallbacks. All must be 0."""
    from accelerate import dispatch_model
    from accelerate.hooks import remove_hook_from_submodules

    from minimax_nb import experts
    from minimax_nb.experts import launch
    from minimax_nb.norms import layers, use_fused_norms

    found = {}
    compiled = torch.compile(launch.mixture_of_experts, fullgraph=True)
    for tokens, int8 in ((1, False), (16, False), (200, False), (1, True), (16, True), (200, True)):
        (x, *rest), _ = problem(tokens, 128, 192, 8, 2, None, torch.bfloat16, int8)
        eager = launch.mixture_of_experts(x, *rest)
        tokens = f"{tokens}{', int8' if int8 else ''}"
        found[f"compiled, {tokens}"] = error(compiled(x, *rest), eager)
        still, graph = torch.zeros_like(x), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            recorded = launch.mixture_of_experts(still, *rest)
        still.copy_(x)
        graph.replay()
        found[f"in a graph, {tokens}"] = error(recorded, eager)

    name, ids = experts.register(), torch.arange(40, device=DEVICE)[None]
    for dtype, gradients in ((torch.float32, False), (torch.bfloat16, True)):
        model = small_model(dtype).requires_grad_(gradients)
        with torch.set_grad_enabled(gradients):
            want = model(ids).logits.detach()
            model.set_experts_implementation(name)
            if gradients:
                assert use_fused_norms(model) == "fused"
            found[f"fallback, {dtype}, gradients {gradients}"] = error(model(ids).logits.detach(), want)

    model = small_model(torch.bfloat16)
    model.set_experts_implementation(name)
    block, x = model.model.layers[0].mlp, torch.randn(1, 5, 64, device=DEVICE, dtype=torch.bfloat16)
    by_kernels, by_operator = block.experts.forward, torch.compile(block.experts, fullgraph=True)
    _, weights, chosen = block.gate(x)
    found["compiled module"] = error(by_operator(x[0], chosen, weights), by_kernels(x[0], chosen, weights))
    model.set_experts_implementation("grouped_mm")
    stock = model(ids).logits
    assert use_fused_norms(model) == "fused"
    want = model(ids).logits
    assert error(want, stock) > 0  # the kernels were used: they round less often
    assert use_fused_norms(model, "stock") == "stock"
    found["back"] = error(model(ids).logits, stock)
    places = {"model.embed_tokens": 0, "model.norm": 0, "lm_head": 0} | {f"model.layers.{i}": 0 for i in range(3)}
    dispatch_model(model, places, main_device=0, force_hooks=True)
    found["hooked"] = error(model(ids).logits, stock)
    use_fused_norms(model)
    found["fused after hooks"] = error(model(ids).logits, want)
    remove_hook_from_submodules(model)
    found["hooks gone"] = error(model(ids).logits, want)
    use_fused_norms(model, "stock")
    found["stock again"] = error(model(ids).logits, stock)
    assert not any(isinstance(module, layers.FusedDecoderLayer | layers.FusedRMSNorm) for module in model.modules())
    return found


def all_cases():
    """Yields (what, dtype, {name: error})."""
    # The interpreter of Triton 3.6 multiplies the bits of bf16 matrices as integers: there, fp16 stands for both.
    for dtype in (torch.float16,) if INTERPRETED else (torch.float16, torch.bfloat16):
        yield "experts", dtype, expert_errors(dtype, EXPERTS if INTERPRETED else EXPERTS | LARGE)
    for dtype in (torch.float16, torch.float32) if INTERPRETED else (torch.float16, torch.bfloat16):
        yield "int8 experts", dtype, expert_errors(dtype, EXPERTS if INTERPRETED else EXPERTS | LARGE, int8=True)
    if not INTERPRETED:  # the kernels for many tokens do not take fp32 on a GPU
        few = {name: case for name, case in EXPERTS.items() if case[0] <= 7}
        yield "int8 experts", torch.float32, few_errors(few)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        yield "norms", dtype, norm_errors(dtype)
    dtype = torch.float32 if INTERPRETED else torch.bfloat16
    yield "model", dtype, model_errors(dtype)
    if not INTERPRETED:
        yield "device", torch.bfloat16, device_errors()


def why_not() -> str | None:
    """Why the interpreter cannot run these kernels here, or None."""
    import triton
    import triton.language as tl

    @triton.jit
    def count(out, N):
        for i in range(0, N):
            tl.store(out + i, i)

    try:
        count[(1,)](torch.zeros(3), 3)
    except Exception as problem:  # Triton 3.6 with NumPy 2.4: loops with a bound known at run time only
        return f"Triton {triton.__version__}'s interpreter fails here: {problem}"


def main() -> None:
    if INTERPRETED and (reason := why_not()):
        print(json.dumps({"cannot": reason}))
        return
    if not INTERPRETED and DEVICE == "cpu":
        sys.exit("no CUDA GPU: set TRITON_INTERPRET=1 for the interpreter")
    torch.use_deterministic_algorithms(True, warn_only=True)
    with torch.no_grad():
        for what, dtype, errors in all_cases():
            print(json.dumps({"what": what, "dtype": str(dtype).removeprefix("torch."), "errors": errors}), flush=True)


if __name__ == "__main__":
    main()
