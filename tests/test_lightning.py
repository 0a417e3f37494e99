"""Lightning attention against its definition in float64, and in models. The fused backend is tested where a GPU is."""

import copy

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import remove_hook_from_submodules
from originals import original_config, original_weights, relative_error, write_original, yardstick
from torch import Tensor
from transformers import MiniMaxConfig, MiniMaxForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxLightningAttention

from minimax_nb import reference
from minimax_nb.cache import repair_cache
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.config import patch_config
from minimax_nb.demo.model import demo_config, new_model
from minimax_nb.lightning import layer as layer_module
from minimax_nb.lightning import lightning_attention, slopes, use_lightning
from minimax_nb.lightning import operator as lightning

torch.set_num_threads(1)

GPU = torch.cuda.is_available() and lightning.has_fused()
FUSED = pytest.param("fused", marks=pytest.mark.skipif(not GPU, reason="needs a CUDA GPU and flash-linear-attention"))
BOTH = pytest.mark.parametrize("backend", ["torch", FUSED])
DEVICE = "cuda" if GPU else "cpu"
RIGHT = {"torch": 1e-6, "fused": 3e-3}  # the kernels multiply fp32 in tf32, which has 10 bits


def inputs(length: int, heads: int = 16, batch: int = 2, width: int = 32, dtype=torch.float32, seed: int = 0):
    """q, k, v as a silu leaves them, and the slopes of layer 1 of 8."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(3, batch, length, heads, width, generator=generator)
    made = torch.nn.functional.silu(made).to(DEVICE, dtype)
    return *made.unbind(), slopes(heads, 1, 8, DEVICE)


# ---- the operator --------------------------------------------------------------------------------------------------


def test_slopes_are_those_of_the_definition():
    for heads, layer, layers in ((64, 0, 80), (64, 78, 80), (16, 3, 8), (4, 0, 1)):
        config = {"num_attention_heads": heads, "num_hidden_layers": layers}
        torch.testing.assert_close(slopes(heads, layer, layers), reference.slopes(config, layer).float())
    with pytest.raises(ValueError, match="powers of two"):
        slopes(12, 0, 8)


@BOTH
@pytest.mark.parametrize("heads", [16, 64])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 63, 64, 65, 200, 333])
def test_agrees_with_the_definition(backend, heads, length):
    q, k, v, rates = inputs(length, heads)
    start = torch.randn(2, heads, 32, 32, device=DEVICE)
    for given in (None, start):
        got, state = lightning_attention(q, k, v, rates, given, backend=backend)
        want, want_state = reference.recurrence(q, k, v, rates, given)
        assert relative_error(got, want) < RIGHT[backend]
        assert relative_error(state, want_state) < RIGHT[backend]
        assert got.shape == q.shape and got.dtype == q.dtype and state.dtype == torch.float32


@BOTH
def test_longer_than_a_segment(backend, monkeypatch):
    monkeypatch.setattr(lightning, "SEGMENT", 256)  # two rows: 128 tokens at a time
    q, k, v, rates = inputs(300)
    got, state = lightning_attention(q, k, v, rates, backend=backend)
    want, want_state = reference.recurrence(q, k, v, rates)
    assert relative_error(got, want) < RIGHT[backend] and relative_error(state, want_state) < RIGHT[backend]


@BOTH
@pytest.mark.parametrize("length", [20, 130])
def test_the_state_hands_over_at_every_split(backend, length):
    q, k, v, rates = inputs(length, heads=4, width=16)
    want, want_state = reference.recurrence(q, k, v, rates)
    for split in range(1, length):
        first, state = lightning_attention(*(x[:, :split] for x in (q, k, v)), rates, backend=backend)
        second, state = lightning_attention(*(x[:, split:] for x in (q, k, v)), rates, state, backend=backend)
        assert relative_error(torch.cat([first, second], 1), want) < RIGHT[backend]
        assert relative_error(state, want_state) < RIGHT[backend]


@BOTH
def test_pads(backend):
    """Zeros on the left change nothing; on the right they only decay the state."""
    q, k, v, rates = inputs(70, batch=1)
    want, state = lightning_attention(q, k, v, rates, backend=backend)
    pads = torch.zeros_like(q[:, :9])
    left, left_state = lightning_attention(*(torch.cat([pads, x], 1) for x in (q, k, v)), rates, backend=backend)
    assert relative_error(left[:, 9:], want.double()) < RIGHT[backend]
    assert relative_error(left_state, state.double()) < RIGHT[backend]
    right, right_state = lightning_attention(*(torch.cat([x, pads], 1) for x in (q, k, v)), rates, backend=backend)
    assert relative_error(right[:, :70], want.double()) < RIGHT[backend]
    decayed = torch.exp(-9 * rates.double())[:, None, None] * state
    assert relative_error(right_state, decayed) < RIGHT[backend]


@BOTH
@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 2.5e-3), (torch.float16, 1e-3)])
def test_half_precision_rounds_only_what_it_returns(backend, dtype, bound):
    q, k, v, rates = inputs(600, dtype=dtype, width=64)
    got, state = lightning_attention(q[:, :512], k[:, :512], v[:, :512], rates, backend=backend)
    rows = [got]
    for token in range(512, 600):
        step, state = lightning_attention(*(x[:, token : token + 1] for x in (q, k, v)), rates, state, backend=backend)
        rows.append(step)
    want, want_state = reference.recurrence(q, k, v, rates)
    assert rows[0].dtype == rows[1].dtype == dtype and state.dtype == torch.float32
    assert relative_error(torch.cat(rows, 1), want) < bound
    assert relative_error(state, want_state) < bound


@BOTH
def test_gradients_are_those_of_the_definition(backend):
    given = [
        x.double() if backend == "torch" else x
        for x in (*inputs(37, heads=4, width=16)[:3], torch.randn(2, 4, 16, 16, device=DEVICE))
    ]
    rates, bound = slopes(4, 1, 8, DEVICE), {"torch": 1e-10, "fused": 2e-2}[backend]

    def gradients(form):
        leaves = [x.clone().requires_grad_() for x in given]
        out, state = form(*leaves[:3], rates, leaves[3])
        (out.sin().sum() + state.cos().sum()).backward()
        return [leaf.grad for leaf in leaves]

    ours = gradients(lambda *args: lightning_attention(*args, backend=backend))
    for got, want in zip(ours, gradients(reference.recurrence), strict=True):
        assert relative_error(got, want.double()) < bound


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="'auto', 'torch' or 'fused'"):
        lightning_attention(*inputs(3), backend="stock")


# ---- in a model ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A converted folder with its original config and weights: 3 layers, the second softmax."""
    folder = tmp_path_factory.mktemp("lightning")
    config = original_config(num_hidden_layers=3, attn_type_list=[0, 1, 0])
    weights = original_weights(config)
    return patch_checkpoint(write_original(folder / "original", config, weights), folder / "converted"), config, weights


def loaded(folder, dtype="float32"):
    return MiniMaxForCausalLM.from_pretrained(folder, dtype=dtype).to(DEVICE).eval()


def row(length: int, seed: int = 1) -> Tensor:
    return torch.randint(3, 128, (1, length), generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@torch.no_grad()
def logits_of(model, ids: Tensor, *, turns: tuple[int, ...] = ()) -> Tensor:
    """Logits (length, vocabulary) of one row fed in turns of these lengths and a last one."""
    cache, pieces = MiniMaxCache(), ids.tensor_split(torch.tensor(turns, dtype=torch.long).cumsum(0).tolist(), 1)
    return torch.cat([model(piece, past_key_values=cache, use_cache=True).logits[0] for piece in pieces]).cpu()


@BOTH
def test_a_model_agrees_with_the_yardstick_over_turns(small, backend):
    folder, config, weights = small
    repair_cache()
    model = loaded(folder)
    assert use_lightning(model, backend) == backend
    ids = row(90)
    (want,) = yardstick(config, weights, [ids[0].tolist()])
    for turns in ((), (70,), (20, 65, 1, 1), (89,)):
        assert relative_error(logits_of(model, ids, turns=turns), want) < {"torch": 1e-5, "fused": 3e-3}[backend]


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_there_and_back(small, backend, dtype):
    """Stock again after ours gives stock's bits; ours again gives ours."""
    model, ids = loaded(small[0], dtype), row(40)
    stock = logits_of(model, ids)
    use_lightning(model, backend)
    ours = logits_of(model, ids)
    assert not ours.equal(stock)
    use_lightning(model, "stock")
    assert logits_of(model, ids).equal(stock)
    use_lightning(model, backend)
    assert logits_of(model, ids).equal(ours)


@BOTH
def test_half_precision_model_is_nearer_to_fp32(small, backend):
    """The same rounded weights, in bf16 by stock and by ours, against fp32."""
    repair_cache()
    half, exact, ids = loaded(small[0], "bfloat16"), loaded(small[0], "bfloat16").float(), row(600)
    use_lightning(exact, "torch")  # also because .float() leaves stock's decay as bf16 rounded it
    want = logits_of(exact, ids, turns=(400,)).double()
    stock = relative_error(logits_of(half, ids, turns=(400,)), want)
    use_lightning(half, backend)
    ours = relative_error(logits_of(half, ids, turns=(400,)), want)
    print(f"{backend}: stock {stock:.1e}, ours {ours:.1e}")
    assert ours < 0.7 * stock


def test_a_model_takes_a_long_input_in_segments(small, monkeypatch):
    """With pads on the left of one row, so that a segment must take its own part of the mask."""
    lengths, original = [], lightning.lightning_attention
    monkeypatch.setattr(
        layer_module, "lightning_attention", lambda q, *a, **k: lengths.append(q.shape[1]) or original(q, *a, **k)
    )
    model, mask = loaded(small[0]), torch.ones(2, 150, dtype=torch.long, device=DEVICE)
    mask[0, :70] = 0
    ids = torch.cat([row(150), row(150, seed=2)])
    use_lightning(model, "torch")

    def logits() -> Tensor:
        with torch.no_grad():
            return model(ids, attention_mask=mask).logits[mask.bool()]

    want = logits()
    monkeypatch.setattr(lightning, "SEGMENT", 128)  # two rows: 64 tokens at a time
    assert relative_error(logits(), want.double()) < 1e-6
    assert lengths == [150, 150, 64, 64, 22, 64, 64, 22]


def test_the_module_tree_stays_and_the_decay_buffers_are_freed(small, tmp_path):
    model, ids = loaded(small[0]), row(40)
    names, modules = set(model.state_dict()), [name for name, _ in model.named_modules()]
    use_lightning(model, "torch")
    want = logits_of(model, ids)
    freed = names - set(model.state_dict())
    assert {name.rpartition(".")[2] for name in freed} == set(layer_module.DECAYS)
    assert [name for name, _ in model.named_modules()] == modules
    model.save_pretrained(tmp_path)
    again = loaded(tmp_path)
    use_lightning(again, "torch")
    assert logits_of(again, ids).equal(want)
    use_lightning(model, "stock")
    assert set(model.state_dict()) == names


@pytest.mark.parametrize("hooks_first", [True, False])
def test_under_accelerates_hooks(small, hooks_first, monkeypatch):
    ran, ids = [], row(40)
    original = lightning.lightning_attention
    monkeypatch.setattr(layer_module, "lightning_attention", lambda *a, **k: ran.append(1) or original(*a, **k))
    plain, model = loaded(small[0]), loaded(small[0])
    use_lightning(plain, "torch")
    want = logits_of(plain, ids)
    devices = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": "cpu", "model.layers.2": "cpu"}
    devices |= {"model.norm": "cpu", "lm_head": "cpu", "model.rotary_emb": "cpu"}
    devices = {name: DEVICE if GPU and place == 0 else "cpu" for name, place in devices.items()}
    if not hooks_first:
        use_lightning(model, "torch")
    dispatch_model(model, devices, main_device="cpu", force_hooks=True)
    if hooks_first:
        use_lightning(model, "torch")
    assert hasattr(model.model.layers[0].self_attn, "_hf_hook")
    ran.clear()
    got = logits_of(model, ids)
    assert len(ran) == 2
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    use_lightning(model, "stock")
    logits_of(model, ids)
    assert len(ran) == 2
    use_lightning(model, "torch")
    remove_hook_from_submodules(model)
    logits_of(model.to(DEVICE), ids)
    assert len(ran) == 4


@BOTH
def test_training_with_gradient_checkpointing(backend):
    torch.manual_seed(0)
    model = new_model(demo_config(128, num_hidden_layers=2, attn_type_list=[0, 1])).to(DEVICE).train()
    use_lightning(model, backend)
    ids = row(70)

    def gradient() -> Tensor:
        model.zero_grad()
        model(ids, labels=ids, use_cache=False).loss.backward()
        return model.model.layers[0].self_attn.qkv_proj.weight.grad.clone()

    want = gradient()
    assert want.norm() > 0
    model.gradient_checkpointing_enable()
    assert relative_error(gradient(), want.double()) < 1e-5


def test_large_activations_in_fp16_stay_finite():
    """The output before the norm is beyond fp16's 65504, and stock's state overflows."""
    torch.manual_seed(0)
    model = new_model(demo_config(128, num_hidden_layers=2, attn_type_list=[0, 1])).to(DEVICE).eval()
    with torch.no_grad():
        model.model.layers[0].self_attn.qkv_proj.weight.mul_(2000)
    half, ids = copy.deepcopy(model).half(), row(300)
    use_lightning(model, "torch")
    want = logits_of(model, ids)
    assert not logits_of(half, ids).isfinite().all()
    use_lightning(half)
    assert relative_error(logits_of(half, ids), want.double()) < 5e-3


@pytest.mark.skipif(not GPU, reason="needs a CUDA GPU and flash-linear-attention")
@pytest.mark.parametrize("length", [131_072, 262_144 + 64])
def test_more_values_than_32_bits_count(length):
    """At Text-01's 64 heads of 128, q, k and v of 131,072 tokens are 3 x 2^30 values: offsets need 64 bits."""
    config = MiniMaxConfig(**patch_config(demo_config(256, num_attention_heads=64, head_dim=128)))
    torch.manual_seed(0)
    with torch.device(DEVICE), torch.inference_mode():
        layer = MiniMaxLightningAttention(config, 0).bfloat16()
        layer.lightning_backend = "fused"
        x, cache, pieces = torch.randn(1, length, config.hidden_size, dtype=torch.bfloat16), MiniMaxCache(), []
        whole, _ = layer_module._forward(layer, x, cache=MiniMaxCache())
        for piece in x.split(16_384, 1):
            pieces.append(layer_module._forward(layer, piece, cache=cache)[0])
        assert relative_error(whole[:, -64:], pieces[-1][:, -64:].double()) < 1e-2
        assert relative_error(whole, torch.cat(pieces, 1).double()) < 1e-2


def test_what_cannot_be_done_is_said():
    with pytest.raises(ValueError, match="no lightning layers"):
        use_lightning(torch.nn.Linear(2, 2))
    model = new_model(demo_config(128, num_hidden_layers=2, attn_type_list=[0, 1]))
    with pytest.raises(ValueError, match="'auto', 'fused', 'torch', 'stock'"):
        use_lightning(model, "triton")
    with pytest.raises(RuntimeError, match="need a CUDA GPU"):
        use_lightning(model, "fused")
