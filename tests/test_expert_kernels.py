"""The experts' Triton kernels and the fused norms against float64, and their fallbacks.

On a machine with Triton the kernels run in its interpreter, and with a GPU on that as well, each in a process
of its own (tests/triton_cases.py says what). Here, without it, those tests say so and are skipped.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import remove_hook_from_submodules
from on_gpu import OnGpu
from torch import nn
from transformers.models.minimax.modeling_minimax import MiniMaxConfig, MiniMaxExperts
from triton_cases import TOLERANCE, problem, small_model

from minimax_nb.experts import NAME, held, interface, register
from minimax_nb.norms import layers, use_fused_norms

IDS = torch.arange(2 * 20).view(2, 20)
CASES = Path(__file__).with_name("triton_cases.py")


# The kernels


@pytest.fixture(scope="module", params=["interpreter", "gpu"])
def runs(request) -> list[dict]:
    """The lines that tests/triton_cases.py printed."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed: pip install triton")
    if request.param == "gpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    environment = os.environ | {"TRITON_INTERPRET": "1" if request.param == "interpreter" else "0"}
    run = subprocess.run([sys.executable, str(CASES)], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    if reason := lines[0].get("cannot"):
        pytest.skip(reason)
    return lines


def of(runs: list[dict], what: str) -> list[tuple[torch.dtype, dict[str, float]]]:
    return [(getattr(torch, line["dtype"]), line["errors"]) for line in runs if line["what"] == what]


def test_experts_against_the_definition(runs):
    for dtype, errors in of(runs, "experts"):
        assert len(errors) >= 18
        assert {name: error for name, error in errors.items() if not error < TOLERANCE[dtype]} == {}


def test_int8_experts_against_the_definition(runs):
    assert len(of(runs, "int8 experts")) >= 2
    for dtype, errors in of(runs, "int8 experts"):
        assert {name: error for name, error in errors.items() if not error < TOLERANCE[dtype]} == {}


def test_norms_against_the_definition_and_stock(runs):
    for dtype, errors in of(runs, "norms"):
        ours = {name: error for name, error in errors.items() if not name.startswith("stock")}
        assert {name: error for name, error in ours.items() if not error < TOLERANCE[dtype]} == {}
        if dtype == torch.float16:  # one rounding instead of two to four
            assert all(error < 0.8 * errors[f"stock {name}"] for name, error in ours.items())


def test_a_whole_model_agrees_with_stock(runs):
    ((dtype, errors),) = of(runs, "model")
    assert max(errors.values()) < (1e-6 if dtype == torch.float32 else 0.02)


def test_graphs_compiling_hooks_and_fallbacks_on_the_device(runs):
    found = of(runs, "device")
    if not found:
        pytest.skip("the interpreter has no device")
    assert set(found[0][1].values()) == {0.0}


# The fallback of the experts


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_cpu_it_is_transformers_default_to_the_bit(dtype):
    model = small_model(dtype)
    want = model.to("cpu")(IDS).logits
    model.set_experts_implementation(register())
    assert model.config._experts_implementation == NAME == "minimax_nb"
    assert torch.equal(model(IDS).logits, want)
    model.set_experts_implementation("grouped_mm")
    assert torch.equal(model(IDS).logits, want)


def test_gradients_are_those_of_transformers_default():
    gradients = []
    for name in ("grouped_mm", register()):
        model = small_model(torch.float32).to("cpu").requires_grad_(True)
        model.set_experts_implementation(name)
        model(IDS, labels=IDS).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def on_a_gpu(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype).as_subclass(OnGpu)


@pytest.fixture
def on_gpu(monkeypatch) -> list:
    """A call (module, x, chosen, weights) that the kernels serve."""
    monkeypatch.setattr(interface, "HAS_TRITON", True)
    monkeypatch.setattr(held, "PLAIN", (OnGpu,))
    monkeypatch.setattr(interface, "launch", SimpleNamespace(FEW=64), raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=9))
    with torch.device("meta"):
        module = MiniMaxExperts(MiniMaxConfig(hidden_size=64, intermediate_size=48, num_local_experts=4))
    del module.gate_up_proj, module.down_proj
    module.gate_up_proj, module.down_proj = on_a_gpu(4, 96, 64), on_a_gpu(4, 64, 48)
    chosen = on_a_gpu(100, 2, dtype=torch.int64)
    return [module, on_a_gpu(100, 64), chosen, on_a_gpu(100, 2, dtype=torch.float32)]


def test_a_call_that_the_kernels_serve(on_gpu):
    assert interface.why_not(*on_gpu) is None


@pytest.mark.parametrize(
    "what, reason",
    [
        ("cpu", "not on an NVIDIA GPU"),
        ("triton", "Triton is not installed"),
        ("gradients", "gradients are needed"),
        ("adapter", "gradients are needed"),
        ("class", "quantised in another way"),
        ("fp32", "bf16 or fp16"),
        ("mixed", "bf16 or fp16"),
        ("devices", "different devices"),
        ("parallel", "plain SwiGLU"),
        ("gelu", "plain SwiGLU"),
        ("gaps", "gaps"),
        ("width", "16 does not divide"),
        ("none", "no tokens"),
        ("ampere", "compute capability 8"),
        ("turing", "compute capability 7"),
    ],
)
def test_calls_that_fall_back(on_gpu, what, reason, monkeypatch):
    module, x = on_gpu[:2]
    if what == "cpu":
        on_gpu[1] = x.as_subclass(torch.Tensor)
    elif what == "triton":
        monkeypatch.setattr(interface, "HAS_TRITON", False)
    elif what == "gradients":
        x.requires_grad_(True)
    elif what == "adapter":  # PEFT adds to the weight, and the sum needs a gradient
        module.gate_up_proj = module.gate_up_proj + torch.zeros(1, dtype=x.dtype, requires_grad=True)
    elif what == "class":
        monkeypatch.setattr(held, "PLAIN", (torch.Tensor, nn.Parameter))
    elif what == "fp32":
        on_gpu[1], module.gate_up_proj, module.down_proj = (
            x.float(),
            module.gate_up_proj.float(),
            module.down_proj.float(),
        )
    elif what == "mixed":
        on_gpu[1] = x.half()
    elif what == "devices":
        on_gpu[2] = torch.empty(100, 2, dtype=torch.int64, device="meta")
    elif what == "parallel":
        module._is_expert_parallel = True
    elif what == "gelu":
        module.act_fn = nn.GELU()
    elif what == "gaps":
        module.down_proj = module.down_proj.transpose(1, 2)
    elif what == "width":
        module.down_proj = on_a_gpu(4, 64, 40)
    elif what == "none":
        on_gpu[1] = x[:0]
    else:
        major = {"ampere": 8, "turing": 7}[what]
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=major))
    assert reason in interface.why_not(*on_gpu)


def test_an_older_gpu_has_the_kernels_for_few_tokens(on_gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=8))
    assert interface.why_not(on_gpu[0], *(tensor[:64] for tensor in on_gpu[1:])) is None


def test_a_training_model_in_inference_is_served(on_gpu):
    on_gpu[1].requires_grad_(True)
    with torch.no_grad():
        assert interface.why_not(*on_gpu) is None


def test_importing_costs_nothing_heavy():
    code = (
        "import sys, minimax_nb.experts, minimax_nb.norms; print(*sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_the_problems_that_are_set_have_experts_without_a_token():
    (_, _, _, chosen, weights), want = problem(5, 64, 32, 32, 2, None, torch.float16)
    assert len(chosen.unique()) < 32 and torch.allclose(weights.sum(-1), torch.ones(5).to(weights))
    assert want.norm() > 1


# The norms


@pytest.fixture
def marked(monkeypatch) -> list:
    """A GPU is pretended, so that the classes change; a mark a call of theirs, which computes as stock."""
    marks = []
    monkeypatch.setattr(layers, "can_run", lambda: True)
    monkeypatch.setattr(layers, "servable", lambda *_: bool(marks.append(1)))
    return marks


def test_where_it_cannot_run_it_says_so():
    model = small_model(torch.float32)
    if not layers.can_run():
        assert use_fused_norms(model) == "stock"
        with pytest.raises(RuntimeError, match="NVIDIA GPU and Triton"):
            use_fused_norms(model, "fused")
    with pytest.raises(ValueError, match="'auto', 'fused', 'stock'"):
        use_fused_norms(model, "fast")
    with pytest.raises(ValueError, match="Linear has no native decoder layers"):
        use_fused_norms(nn.Linear(2, 2))


def test_it_goes_in_and_comes_out(marked):
    model = small_model(torch.float32).to("cpu")
    want, names = model(IDS).logits, set(model.state_dict())
    assert use_fused_norms(model) == "fused" == use_fused_norms(model, "fused")
    assert torch.equal(model(IDS).logits, want) and len(marked) == 4  # 3 layers and the last norm
    assert set(model.state_dict()) == names
    assert len(model(IDS, output_hidden_states=True).hidden_states) == 4
    marked.clear()
    assert use_fused_norms(model, "stock") == "stock"
    assert torch.equal(model(IDS).logits, want) and marked == []


@pytest.mark.parametrize("hooks_first", [True, False])
def test_under_accelerates_hooks(marked, hooks_first):
    model = small_model(torch.float32).to("cpu")
    want = model(IDS).logits
    places = {name: "cpu" for name in ("model.embed_tokens", "model.norm", "lm_head")}
    places |= {f"model.layers.{i}": "cpu" for i in range(3)}

    def calls() -> int:
        marked.clear()
        assert torch.equal(model(IDS).logits, want)
        return len(marked)

    if not hooks_first:
        use_fused_norms(model)
    dispatch_model(model, places, main_device="cpu", force_hooks=True)
    if hooks_first:
        use_fused_norms(model)
    assert hasattr(model.model.layers[0], "_hf_hook") and calls() == 4
    use_fused_norms(model, "stock")
    assert calls() == 0
    use_fused_norms(model)
    remove_hook_from_submodules(model)
    assert calls() == 4
    use_fused_norms(model, "stock")
    assert calls() == 0


def test_gradients_and_watched_norms_are_left_to_stock(marked):
    model = small_model(torch.float32).to("cpu").requires_grad_(True)
    use_fused_norms(model)
    model(IDS, labels=IDS).loss.backward()
    assert len(marked) == 1  # the last norm asks for itself; no layer got so far
    assert all(parameter.grad is not None for parameter in model.model.layers[0].parameters())
    marked.clear()
    seen = []
    handle = model.model.layers[1].input_layernorm.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        model(IDS)
    handle.remove()
    assert seen == [1] and len(marked) == 3


def test_a_saved_model_can_be_loaded(marked, tmp_path):
    model = small_model(torch.float32).to("cpu")
    use_fused_norms(model)
    want = model(IDS).logits
    torch.save(model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    marked.clear()
    assert torch.equal(again(IDS).logits, want) and len(marked) == 4
