"""Gradients of a model in training, against those of the float64 definition, parameter by parameter.

The definition (minimax_nb.reference) is plain arithmetic on tensors, so autograd differentiates it as it stands.
"""

import pytest
import torch
import torch.nn.functional as F
from originals import original_config, original_weights, relative_error, write_original
from transformers import DataCollatorWithFlattening, MiniMaxForCausalLM
from traps import random_ids

from minimax_nb import reference
from minimax_nb.cache import repair_cache
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.checkpoint.layout import original_weights as as_original
from minimax_nb.lightning import has_fused, lightning_attention, slopes, training, use_lightning
from minimax_nb.lightning.operator import STEEPEST
from minimax_nb.lightning.training import Rows, attend_norm_gate

GPU = torch.cuda.is_available() and has_fused()
FUSED = pytest.param("fused", marks=pytest.mark.skipif(not GPU, reason="needs a CUDA GPU and flash-linear-attention"))
DEVICE = "cuda" if GPU else "cpu"
RIGHT = {"torch": 1e-5, "fused": 1e-2}
LENGTHS = (20, 1, 70, 133)
LAYERS = [0, 1, 0]


class Case:
    """A model of 3 layers, the second softmax, and what its gradients should be."""

    def __init__(self, folder, backend: str):
        self.config = original_config(num_hidden_layers=len(LAYERS), attn_type_list=LAYERS)
        self.weights = original_weights(self.config)
        source = write_original(folder / "original", self.config, self.weights)
        converted = patch_checkpoint(source, folder / "converted")
        self.model = MiniMaxForCausalLM.from_pretrained(converted).to(DEVICE).train()
        self.backend, self.bound = backend, RIGHT[backend]
        use_lightning(self.model, backend)

    def gradients(self, autocast: bool = False, **batch) -> tuple[float, dict[str, torch.Tensor]]:
        """Loss and gradients under the original names and in the original order of rows."""
        self.model.zero_grad()
        batch = {name: x.to(DEVICE) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            loss = self.model(**batch).loss
        loss.backward()
        return loss.item(), self.collected()

    def collected(self) -> dict[str, torch.Tensor]:
        grads = {name: weight.grad for name, weight in self.model.named_parameters()}
        holder = torch.nn.Module()
        holder.state_dict = lambda: grads
        return as_original(holder, self.config)

    def right(self, rows: list[list[int]], learned=None, aux: float = 0.0) -> tuple[float, dict[str, torch.Tensor]]:
        """Of the mean cross-entropy over all learned tokens of all rows (all but the first of each, by default)."""
        weights = {name: weight.clone().double().requires_grad_() for name, weight in self.weights.items()}
        total, count, routed = 0.0, 0, []
        for number, row in enumerate(rows):
            logits = forward(self.config, weights, row, routed)
            labels = torch.tensor(row if learned is None else learned[number])[1:]
            total = total + F.cross_entropy(logits[:-1], labels, ignore_index=-100, reduction="sum")
            count += int((labels != -100).sum())
        loss = total / count
        if aux:
            loss = loss + aux * balance(routed, self.config)
        loss.backward()
        return loss.item(), {name: weight.grad for name, weight in weights.items()}

    def compare(self, got: tuple, want: tuple, bound: float | None = None) -> None:
        bound = bound or self.bound
        assert got[0] == pytest.approx(want[0], rel=bound)
        assert got[1].keys() == want[1].keys()
        wrong = {name: relative_error(got[1][name].cpu(), want[1][name]) for name in want[1] if want[1][name].norm()}
        assert len(wrong) > 0.9 * len(want[1])
        assert {name: error for name, error in wrong.items() if not error < 20 * bound} == {}
        quiet = [name for name in want[1] if name not in wrong]
        assert all(got[1][name].abs().max() == 0 for name in quiet)


def forward(config, weights, row, routed: list) -> torch.Tensor:
    """reference.forward, which also notes the scores of the routers: (layers, tokens, experts) of this row."""
    scores, original = [], reference.mixture_of_experts

    def watched(config, weights, layer, h):
        scores.append((h @ weights[f"model.layers.{layer}.block_sparse_moe.gate.weight"].T).softmax(-1))
        return original(config, weights, layer, h)

    reference.mixture_of_experts = watched
    try:
        return reference.forward(config, weights, row)
    finally:
        reference.mixture_of_experts = original
        routed.append(torch.stack(scores))


def balance(routed: list[torch.Tensor], config: dict) -> torch.Tensor:
    """The balance loss over all layers and tokens together (arXiv 2101.03961, equations 4 to 6, for top-k).

    experts * sum over experts of f * P; f: how often an expert is chosen for each token, P: its mean score.
    """
    scores = torch.cat(routed, 1).flatten(0, 1)
    chosen = scores.topk(config["num_experts_per_tok"], -1).indices
    share = F.one_hot(chosen, scores.shape[-1]).double().sum(1).mean(0)
    return config["num_local_experts"] * (share * scores.mean(0)).sum()


@pytest.fixture(scope="module", params=["torch", FUSED])
def case(request, tmp_path_factory):
    repair_cache()
    return Case(tmp_path_factory.mktemp("training"), request.param)


@pytest.fixture(scope="module")
def right(case):
    """What the rows of LENGTHS should give."""
    return case.right(random_ids(*LENGTHS))


def padded(*rows: list[int], left: bool = False) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    fill = [[0] * (width - len(row)) for row in rows]
    ids = [pads + row if left else row + pads for row, pads in zip(rows, fill, strict=True)]
    ones = [[1] * len(row) for row in rows]
    mask = [pads + one if left else one + pads for one, pads in zip(ones, fill, strict=True)]
    ids, mask = torch.tensor(ids), torch.tensor(mask)
    labels = ids.masked_fill(mask == 0, -100)
    if left:  # the first token of a row is predicted from nothing
        labels = labels.masked_fill(mask.cumsum(1) == 1, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def packed(*rows: list[int], drop: tuple[str, ...] = (), **collator) -> dict:
    batch = DataCollatorWithFlattening(**collator)([{"input_ids": row, "labels": row} for row in rows])
    return {name: value for name, value in batch.items() if name not in drop}


# ---- pads and packed rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padded_rows(case, right, left):
    case.compare(case.gradients(**padded(*random_ids(*LENGTHS), left=left)), right)


@pytest.mark.parametrize(
    "collator, drop",
    [
        ({}, ()),
        ({"return_seq_idx": True}, ("position_ids",)),
        ({"return_flash_attn_kwargs": True}, ("position_ids",)),
        ({"return_flash_attn_kwargs": True, "return_seq_idx": True}, ()),
    ],
    ids=["position_ids", "seq_idx", "cu_seq_lens", "all"],
)
def test_packed_rows(case, right, collator, drop):
    case.compare(case.gradients(**packed(*random_ids(*LENGTHS), drop=drop, **collator)), right)


def test_labels_of_replies_alone(case):
    rows = random_ids(*LENGTHS)
    learned = [[-100] * (len(row) // 2) + row[len(row) // 2 :] for row in rows]
    batch = padded(*rows)
    for number, labels in enumerate(learned):
        batch["labels"][number, : len(labels)] = torch.tensor(labels)
    want = case.right(rows, learned)
    case.compare(case.gradients(**batch), want)
    flat = packed(*rows)
    flat["labels"] = torch.tensor([label for labels in learned for label in (-100, *labels[1:])])[None]
    case.compare(case.gradients(**flat), want)


# ---- gradient checkpointing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [padded, packed])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(case, right, reentrant, rows):
    case.model.activation_checkpointing_enable({"use_reentrant": reentrant})
    case.model.enable_input_require_grads()
    try:
        case.compare(case.gradients(**rows(*random_ids(*LENGTHS))), right)
    finally:
        case.model.activation_checkpointing_disable()
        case.model.disable_input_require_grads()


# ---- the routers' auxiliary loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_routers_auxiliary_loss(case, checkpointing):
    """Its gradients too, and pads do not count."""
    rows, weight = random_ids(20, 70), 0.5
    want = case.right(rows, aux=weight)
    case.model.router_aux_loss_coef = weight
    if checkpointing:
        case.model.activation_checkpointing_enable({"use_reentrant": False})
    try:
        case.compare(case.gradients(**padded(*rows), output_router_logits=True), want)
        case.compare(case.gradients(**packed(*rows), output_router_logits=True), want)
    finally:
        case.model.router_aux_loss_coef = case.config["router_aux_loss_coef"]
        case.model.activation_checkpointing_disable()


def test_an_auxiliary_loss_without_gradients_is_refused(case):
    """Under reentrant checkpointing it would be added to the loss and move no router."""
    case.model.activation_checkpointing_enable({"use_reentrant": True})
    case.model.enable_input_require_grads()
    batch = padded(*random_ids(20, 70))
    try:
        with pytest.raises(ValueError, match="use_reentrant"):
            case.gradients(**batch, output_router_logits=True)
        with torch.no_grad():
            assert case.model(**batch, output_router_logits=True).aux_loss > 0
    finally:
        case.model.activation_checkpointing_disable()
        case.model.disable_input_require_grads()


# ---- half precision ------------------------------------------------------------------------------------------------


def norm_error(got: dict, want: dict) -> float:
    """Of all gradients of attention together. Experts are left out: rounding may choose others."""
    names = [name for name in want if "self_attn" in name]
    off = sum((got[name].cpu().double() - want[name]).square().sum() for name in names)
    return (off / sum(want[name].square().sum() for name in names)).sqrt().item()


def test_autocast_keeps_decay_and_states_in_fp32(case, right):
    loss, got = case.gradients(autocast=True, **padded(*random_ids(*LENGTHS)))
    assert loss == pytest.approx(right[0], rel=0.02)
    assert norm_error(got, right[1]) < 0.15


@pytest.mark.parametrize("length", [400])
def test_in_bf16_a_slow_heads_gradients_are_as_exact_as_its_inputs(length):
    """The last layer but one of 80 forgets slowest. Products of bf16 values are exact in fp32, sums nearly so."""
    rates = slopes(4, 78, 80)
    qkv, gate, grad, weight = inputs(2, length, 4, 16, dtype=torch.bfloat16)
    rows = Rows(rates, 1e-6, None, False, None)
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.autograd.grad(attend_norm_gate(qkv, gate, weight, None, rows)[0], (qkv, gate), grad)
    exact = [x.detach().double().requires_grad_() for x in (qkv, gate, weight)]
    want = torch.autograd.grad(defined(*exact, None, rows)[0], exact[:2], grad.double())
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.bfloat16 and relative_error(a, b) < 4e-3


# ---- the layer's own gradients -------------------------------------------------------------------------------------


def inputs(batch, length, heads, head_dim, dtype=torch.float32):
    generator = torch.Generator().manual_seed(length)
    width = heads * head_dim
    shapes = (batch, length, 3 * width), (batch, length, width), (batch, length, width), (width,)
    made = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
    made[2] = made[2].detach()
    return made


def defined(qkv, gate, weight, state, rows: Rows):
    """Token by token, in the dtype of its inputs, left to autograd."""
    heads = len(rows.slopes)
    q, k, v = F.silu(qkv).unflatten(-1, (heads, 3, -1)).unbind(3)
    state = q.new_zeros(len(q), heads, q.shape[-1], q.shape[-1]) if state is None else state
    outs = []
    for t in range(q.shape[1]):
        real = torch.ones(len(q)) if rows.mask is None else rows.mask[:, t]
        fades = torch.exp(-rows.slopes.to(q.dtype) * (real[:, None] if rows.gated else 1))[..., None, None]
        if rows.begins is not None:
            state = state * ~rows.begins[:, t, None, None, None]
        state = fades * state + real[:, None, None, None] * k[:, t, :, :, None] * v[:, t, :, None]
        outs.append(real[:, None, None] * (q[:, t, :, None] @ state)[:, :, 0])
    out = reference.rms_norm(torch.stack(outs, 1).flatten(2), weight, rows.eps)
    return torch.sigmoid(gate) * out, state


@pytest.mark.parametrize("length", [2, 33, 300])
@pytest.mark.parametrize("kind", ["plain", "pads", "pads between", "packed"])
def test_gradients_of_the_layer(kind, length, monkeypatch):
    monkeypatch.setattr(training, "CPU_PIECE", 256)  # so that the longest has pieces, and a rest
    qkv, gate, grad, weight = inputs(2, length, 4, 16)
    mask = begins = state = None
    if kind.startswith("pads"):
        mask = torch.rand(2, length, generator=torch.Generator().manual_seed(1)) < 0.7
        mask[:, 0] = True
        mask = mask if kind == "pads between" else mask.sort(1, descending=True).values
    if kind == "packed":
        begins = torch.rand(2, length, generator=torch.Generator().manual_seed(2)) < 0.05
        begins[:, 0] = True
    else:
        state = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3)).requires_grad_()
    rows = Rows(slopes(4, 1, 8), 1e-6, mask, kind == "pads between", begins)
    leaves = [qkv, gate, weight] + ([] if state is None else [state])
    grads = grad, torch.ones(2, 4, 16, 16)
    outs = attend_norm_gate(qkv, gate, weight, state, rows)
    got = torch.autograd.grad(outs, leaves, grads)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    right = defined(*exact, *([None] if state is None else []), rows)
    want = torch.autograd.grad(right, exact, [g.double() for g in grads])
    for a, b in zip((*outs, *got), (*right, *want), strict=True):
        assert relative_error(a.detach(), b.detach()) < 3e-6


def test_only_what_needs_gradients_gets_them():
    """As with LoRA, where the norm is frozen."""
    qkv, gate, grad, weight = inputs(1, 40, 4, 16)
    weight.requires_grad_(False)
    attend_norm_gate(qkv, gate, weight, None, Rows(slopes(4, 1, 8), 1e-6, None, False, None))[0].backward(grad)
    assert qkv.grad is not None and gate.grad is not None and weight.grad is None


def test_a_steep_slope_is_refused():
    qkv, gate, _, weight = inputs(1, 40, 4, 16)
    with pytest.raises(ValueError, match="slope"):
        attend_norm_gate(qkv, gate, weight, None, Rows(torch.full((4,), STEEPEST + 1), 1e-6, None, False, None))


def test_the_operator_under_autocast():
    """Products stay in fp32 inside, as they are without autocast."""
    q, k, v = torch.randn(3, 2, 100, 4, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    want = lightning_attention(q, k, v, slopes(4, 0, 8), backend="torch")
    with torch.autocast("cpu", torch.bfloat16):
        got = lightning_attention(q, k, v, slopes(4, 0, 8), backend="torch")
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
