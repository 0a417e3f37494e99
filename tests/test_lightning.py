"""Lightning attention against its definition in float64, and in models. The fused backend is tested where a GPU is."""

import copy
import io
import sys
import time
from itertools import pairwise

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import remove_hook_from_submodules
from originals import original_config, original_weights, relative_error, write_original, yardstick
from torch import Tensor
from transformers import MiniMaxConfig, MiniMaxForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxLightningAttention
from traps import kept

from minimax_nb import reference
from minimax_nb.cache import repair_cache
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.config import patch_config
from minimax_nb.demo.model import demo_config, new_model
from minimax_nb.lightning import backends, has_fused, lightning_attention, slopes, use_lightning
from minimax_nb.lightning import layer as layer_module
from minimax_nb.lightning import operator as lightning
from minimax_nb.lightning.proof import gradient_error
from minimax_nb.original import DECAY_BUFFERS, DECAY_TABLES

if torch.cuda.is_available() and has_fused():
    from minimax_nb.lightning.kernels import decode_step

torch.set_num_threads(1)

GPU = torch.cuda.is_available() and has_fused()
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
@pytest.mark.parametrize("length", [1, 9, 16, 70, 333])
def test_pads_anywhere_leave_the_state_as_it_is(backend, length):
    """What pads hold, NaN included, does not matter; each row is as its real tokens alone."""
    q, k, v, rates = inputs(length, batch=4)
    start = torch.randn(4, 16, 32, 32, device=DEVICE)
    mask = torch.rand(4, length, generator=torch.Generator().manual_seed(1)).to(DEVICE) > 0.3
    mask[0], mask[1] = False, torch.arange(length, device=DEVICE) < length // 2  # only pads; pads on the right
    q, k, v = (x.masked_fill(~mask[..., None, None], float("nan")) for x in (q, k, v))
    for given in (None, start):
        got, state = lightning_attention(q, k, v, rates, given, mask=mask.long(), backend=backend)
        assert got[~mask].eq(0).all()
        for i, real in enumerate(mask):
            before = None if given is None else given[i : i + 1]
            if not real.any():
                assert state[i].equal(torch.zeros_like(state[i]) if given is None else given[i])
                continue
            alone = [x[i : i + 1, real] for x in (q, k, v)]
            want, want_state = reference.recurrence(*alone, rates, before)
            assert relative_error(got[i : i + 1, real], want) < RIGHT[backend]
            assert relative_error(state[i : i + 1], want_state) < RIGHT[backend]


@BOTH
@pytest.mark.parametrize("ends", [[37], [1, 2, 64, 65, 130], [64], [128, 128 + 64], [7, 7 + 16, 199]])
def test_packed_documents_begin_anew(backend, ends):
    """Two rows of 200 tokens; the second row begins a document too."""
    q, k, v, rates = inputs(200, heads=4, width=16)
    edges = torch.tensor([0, *ends, 200, 263, 400], device=DEVICE)
    got, state = lightning_attention(q, k, v, rates, cu_seqlens=edges, backend=backend)
    assert state is None and got.shape == q.shape
    flat = [x.flatten(0, 1)[None] for x in (q, k, v)]
    for first, last in pairwise(edges.tolist()):
        want, _ = reference.recurrence(*(x[:, first:last] for x in flat), rates)
        assert relative_error(got.flatten(0, 1)[None, first:last], want) < RIGHT[backend]


def test_packed_documents_have_neither_state_nor_pads():
    q, k, v, rates = inputs(6, batch=1)
    edges = torch.tensor([0, 2, 6])
    for more in ({"mask": torch.ones(1, 6)}, {"state": torch.zeros(1, 16, 32, 32)}):
        with pytest.raises(ValueError, match="packed"):
            lightning_attention(q, k, v, rates, cu_seqlens=edges, backend="torch", **more)


def test_a_slope_too_steep_for_the_block_form_is_refused():
    q, k, v, _ = inputs(100, heads=2)
    steep = torch.tensor([0.1, lightning.STEEPEST])
    got, _ = lightning_attention(q, k, v, steep, backend="torch")
    assert relative_error(got, reference.recurrence(q, k, v, steep)[0]) < 1e-6
    with pytest.raises(ValueError, match="slope"):
        lightning_attention(q, k, v, 2 * steep, backend="torch")


@BOTH
@pytest.mark.parametrize("layer", [0, 40, 78])
def test_single_tokens_decay_a_slow_head_exactly(backend, layer):
    """exp(-slope) rounded to fp32 forgets at a rate that is off by up to 4e-4 in layer 78."""
    rates = slopes(64, layer, 80, DEVICE)
    generator, state = torch.Generator().manual_seed(0), None
    made = torch.randn(1, 1024, 64 * 3 * 16, generator=generator).to(DEVICE)
    q, k, v = torch.nn.functional.silu(made).unflatten(-1, (64, 3, 16)).unbind(3)
    for token in range(1024):
        if backend == "fused":
            if state is None:
                state = torch.zeros(1, 64, 16, 16, device=DEVICE)
            out, state = decode_step(made[:, token : token + 1], rates, state, 64)
        else:
            step = (x[:, token : token + 1] for x in (q, k, v))
            out, state = lightning_attention(*step, rates, state, backend="torch")
    want, want_state = reference.recurrence(q, k, v, rates)
    assert relative_error(out.view(1, 1, 64, 16), want[:, -1:]) < 2e-6
    assert relative_error(state, want_state) < 2e-6


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
@pytest.mark.parametrize("gates", ["none", "pads", "documents"])
def test_gradients_are_those_of_the_definition(backend, gates):
    given = [
        x.double() if backend == "torch" else x
        for x in (*inputs(37, heads=4, width=16)[:3], torch.randn(2, 4, 16, 16, device=DEVICE))
    ]
    rates, bound = slopes(4, 1, 8, DEVICE), {"torch": 1e-10, "fused": 2e-2}[backend]
    mask = torch.ones(2, 37, device=DEVICE, dtype=torch.bool)
    mask[0, 20:30], mask[1, 33:] = False, False
    edges = torch.tensor([0, 5, 37, 60, 74], device=DEVICE)

    def ours(q, k, v, state):
        if gates == "documents":
            return lightning_attention(q, k, v, rates, cu_seqlens=edges, backend=backend)[0], state
        return lightning_attention(q, k, v, rates, state, mask=mask if gates == "pads" else None, backend=backend)

    def definition(q, k, v, state):
        if gates == "none":
            return reference.recurrence(q, k, v, rates, state)
        if gates == "documents":
            flat, outs = [x.flatten(0, 1)[None] for x in (q, k, v)], []
            for first, last in pairwise(edges.tolist()):
                outs.append(reference.recurrence(*(x[:, first:last] for x in flat), rates)[0])
            return torch.cat(outs, 1).view(q.shape), state
        outs, states = [], []
        for i, real in enumerate(mask):
            alone = (x[i : i + 1, real] for x in (q, k, v))
            out, last = reference.recurrence(*alone, rates, state[i : i + 1])
            outs.append(
                torch.zeros(1, 37, 4, 16, device=DEVICE, dtype=out.dtype).index_copy(1, real.nonzero()[:, 0], out)
            )
            states.append(last)
        return torch.cat(outs), torch.cat(states)

    def gradients(form):
        leaves = [x.clone().requires_grad_() for x in given]
        out, state = form(*leaves)
        (out.sin().sum() + state.cos().sum()).backward()
        return [leaf.grad for leaf in leaves]

    for got, want in zip(gradients(ours), gradients(definition), strict=True):
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
    return torch.cat([model(piece, **kept(cache)).logits[0] for piece in pieces]).cpu()


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
    lengths, original = [], lightning.attend
    monkeypatch.setattr(layer_module, "attend", lambda q, *a: lengths.append(q.shape[1]) or original(q, *a))
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


def test_the_module_tree_stays_and_the_decay_tables_are_freed(small, tmp_path):
    model, ids = loaded(small[0]), row(40)
    names, modules = set(model.state_dict()), [name for name, _ in model.named_modules()]
    sizes = {name: buffer.shape for name, buffer in model.named_buffers()}
    use_lightning(model, "torch")
    want = logits_of(model, ids)
    left = {name: buffer.numel() for name, buffer in model.named_buffers()}
    assert left.keys() == sizes.keys()
    assert {name.rpartition(".")[2] for name in left if left[name] == 0} == set(DECAY_TABLES)
    assert [name for name, _ in model.named_modules()] == modules
    assert set(model.state_dict()) == names  # they are given back where a model is saved
    model.save_pretrained(tmp_path)
    again = loaded(tmp_path)
    use_lightning(again, "torch")
    assert logits_of(again, ids).equal(want)
    use_lightning(model, "stock")
    assert {name: buffer.shape for name, buffer in model.named_buffers()} == sizes


@pytest.mark.parametrize("hooks_first", [True, False])
def test_under_accelerates_hooks(small, hooks_first, monkeypatch):
    ran, ids = [], row(40)
    original = lightning.attend
    monkeypatch.setattr(layer_module, "attend", lambda *a: ran.append(1) or original(*a))
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
        use_lightning(layer, "fused")
        x, cache, pieces = torch.randn(1, length, config.hidden_size, dtype=torch.bfloat16), MiniMaxCache(), []
        whole, _ = layer(x, cache=MiniMaxCache())
        for piece in x.split(16_384, 1):
            pieces.append(layer(piece, cache=cache)[0])
        assert relative_error(whole[:, -64:], pieces[-1][:, -64:].double()) < 1e-2
        assert relative_error(whole, torch.cat(pieces, 1).double()) < 1e-2


def test_weights_go_between_stock_and_switched_models(small):
    """A strict load_state_dict in both directions, and Transformers' initialisation of a switched model."""
    stock, ours, ids = loaded(small[0]), loaded(small[0]), row(40)
    use_lightning(ours, "torch")
    want = logits_of(ours, ids)
    with torch.no_grad():
        ours.lm_head.weight.mul_(2)
    stock.load_state_dict(ours.state_dict())
    assert stock.lm_head.weight.equal(ours.lm_head.weight)
    ours.load_state_dict(loaded(small[0]).state_dict())
    assert logits_of(ours, ids).equal(want)
    tables = {name: value for name, value in stock.state_dict().items() if name.endswith(DECAY_BUFFERS)}
    given = ours.state_dict()
    assert tables and all(given[name].cpu().equal(table.cpu()) for name, table in tables.items())
    ours.apply(ours._init_weights)
    assert logits_of(ours, ids).isfinite().all()


def test_saved_in_half_precision_the_decays_stay_exact(small, tmp_path):
    model = loaded(small[0], "bfloat16")
    use_lightning(model, "torch")
    model.save_pretrained(tmp_path)
    again = loaded(tmp_path)  # in fp32, by stock
    layer = again.model.layers[0].self_attn
    exact = layer.decay_factors(layer.get_slope_rate())
    assert all(getattr(layer, name).cpu().equal(table) for name, table in zip(DECAY_TABLES, exact, strict=True))


def test_a_copy_of_a_switched_model_is_a_model_of_its_own(small):
    """As DataParallel makes them: a replica computes with its own weights."""
    model, ids = loaded(small[0]), row(20)
    use_lightning(model, "torch")
    want = logits_of(model, ids)
    replicas = [copy.deepcopy(model), model.model.layers[0].self_attn._replicate_for_data_parallel()]
    with torch.no_grad():
        replicas[0].model.layers[0].self_attn.out_proj.weight.mul_(0)
    assert not logits_of(replicas[0], ids).equal(want) and logits_of(model, ids).equal(want)
    assert not any("forward" in vars(module) for module in (*replicas[0].modules(), replicas[1]))


def test_exported_in_the_first_pass(small):
    """torch.export computes with tensors that hold no values; they must not serve a later pass."""
    model, ids = loaded(small[0]).cpu(), row(20).cpu()
    model.set_attn_implementation("eager")
    model.set_experts_implementation("batched_mm")
    use_lightning(model, "torch")
    layer_module._KEPT.clear()
    want = model(ids, use_cache=False).logits
    layer_module._KEPT.clear()
    mask = torch.ones_like(ids)
    program = torch.export.export(
        model, (), {"input_ids": ids, "attention_mask": mask, "use_cache": False}, strict=False
    )
    got = program.module()(input_ids=ids, attention_mask=mask, use_cache=False).logits
    assert relative_error(got.detach(), want.double().detach()) < 1e-6
    assert relative_error(logits_of(model, ids), want[0].double().detach()) < 1e-6


@pytest.mark.parametrize("seconds, terminal", [(0.5, True), (0.0, True), (0.5, False)])
def test_that_kernels_are_compiled_is_said_if_it_takes_long(monkeypatch, seconds, terminal):
    """And is gone when it is done: nothing of it stays before what load() prints."""
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("minimax_nb.terminal.PATIENCE", 0.1)
    monkeypatch.setattr("minimax_nb.lightning.proof.largest_error", lambda *_: time.sleep(seconds) or 0.0)
    backends._fault.cache_clear()
    assert backends._fault(backends.Sizes(4, 16, "bfloat16")) == ""
    lines = stream.getvalue().split("\r")
    assert any("compiles them once" in line for line in lines) == (terminal and seconds > 0)
    assert not lines[-1] and (len(lines) == 1 or lines[-2].isspace() and len(lines[-2]) == len(lines[-3]))
    backends._fault.cache_clear()


def test_kernels_that_do_not_run_are_not_promised(monkeypatch):
    """Installed is not enough: what they raise, or that they compute something else, is the reason."""
    sizes = backends.Sizes(4, 16, "bfloat16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backends, "has_fused", lambda: True)
    for result, reason in ((RuntimeError("no compiler"), "no compiler"), (0.3, "30% off")):
        backends._fault.cache_clear()

        def largest_error(*_, result=result):
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr("minimax_nb.lightning.proof.largest_error", largest_error)
        assert reason in backends.why_not_fused(True, sizes)
        assert backends.choose("auto", True, sizes) == "torch"
        with pytest.raises(RuntimeError, match=reason):
            backends.choose("fused", True, sizes)
    backends._fault.cache_clear()
    monkeypatch.setattr("minimax_nb.lightning.proof.largest_error", lambda *_: 1e-4)
    assert backends.choose("auto", True, sizes) == "fused" and backends.choose("auto", False, sizes) == "torch"
    backends._fault.cache_clear()


@pytest.mark.skipif(not GPU, reason="needs a CUDA GPU and flash-linear-attention")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("heads, head_dim", [(4, 16), (8, 48), (64, 128)])
def test_the_kernels_compute_what_pytorch_does(heads, head_dim, dtype):
    from minimax_nb.lightning.proof import largest_error

    assert largest_error(heads, head_dim, dtype) < (3e-3 if dtype != "bfloat16" else 2e-2)


KINDS = [backends.Kind(*kind) for kind in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1))]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_are_wrong_are_seen(monkeypatch, kind):
    """Plain PyTorch in place of the fused kernels: right as it is, and with a gradient that lacks a part."""
    given = []

    def attend(q, k, v, rates, state, mask, cu_seqlens, lacks=0.0):
        given.append((mask is not None, cu_seqlens is not None, q.shape[1] <= lightning.fused.RECURRENT))
        k = k - lacks * (k - k.detach())
        return lightning.attend(q, k, v, rates, state, mask, cu_seqlens, "torch")

    monkeypatch.setattr("minimax_nb.lightning.proof.attend", attend)
    assert gradient_error(2, 16, "float32", *kind, device="cpu") < 1e-6 and given == [kind]
    monkeypatch.setattr("minimax_nb.lightning.proof.attend", lambda *rows: attend(*rows, lacks=0.2))
    assert gradient_error(2, 16, "float32", *kind, device="cpu") == pytest.approx(0.2, rel=0.01)


@pytest.mark.parametrize("found", [1e-3, 0.3, RuntimeError("upgrade Triton")])
def test_rows_whose_gradients_fail_are_trained_with_plain_pytorch(monkeypatch, capsys, found):
    """And only those: without gradients the fused kernels stay. A line says it, once."""

    def proved(*sizes_and_kind):
        asked.append(sizes_and_kind)
        if isinstance(found, Exception):
            raise found
        return found

    asked, right = [], found == 1e-3
    monkeypatch.setattr("minimax_nb.lightning.proof.gradient_error", proved)
    monkeypatch.setattr(lightning.fused, "attend", lambda *given: ("fused", None))
    q, k, v, rates = inputs(20, heads=4, batch=2, width=16)
    mask = torch.arange(20, device=DEVICE) < torch.tensor([[12], [20]], device=DEVICE)
    backends.trains.cache_clear()
    assert lightning_attention(q, k, v, rates, mask=mask, backend="fused")[0] == "fused" and not asked
    leaves = [x.requires_grad_() for x in (q, k, v)]
    for _ in range(2):
        out = lightning_attention(q, k, v, rates, mask=mask, backend="fused")[0]
        assert asked == [(4, 16, "float32", True, False, False)]
        if right:
            assert out == "fused"
        else:
            want = lightning_attention(q, k, v, rates, mask=mask, backend="torch")[0]
            grads = (torch.autograd.grad(x.square().sum(), leaves) for x in (out, want))
            assert all(map(torch.equal, *grads))
    said = capsys.readouterr().out
    assert said.count("\n") == (not right) and ("rows with pads" in said) == (not right)
    assert ("30% off" in said) == (found == 0.3) and ("upgrade Triton" in said) == isinstance(found, Exception)
    backends.trains.cache_clear()


@pytest.mark.skipif(not GPU, reason="needs a CUDA GPU and flash-linear-attention")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernels_gradients_are_those_of_pytorch_or_refused(kind, dtype):
    try:
        assert gradient_error(64, 128, dtype, *kind) < 0.05
    except RuntimeError as refused:
        assert kind.gated and "Hopper" in str(refused)


def test_what_cannot_be_done_is_said():
    with pytest.raises(ValueError, match="no lightning layers"):
        use_lightning(torch.nn.Linear(2, 2))
    model = new_model(demo_config(128, num_hidden_layers=2, attn_type_list=[0, 1]))
    with pytest.raises(ValueError, match="'auto', 'fused', 'torch', 'stock'"):
        use_lightning(model, "triton")
    with pytest.raises(RuntimeError, match="need a CUDA GPU"):
        use_lightning(model, "fused")
