"""Pads and packed documents in a whole model: each row gives what it gives alone, or the call is refused."""

import copy
import warnings
from itertools import pairwise

import pytest
import torch
from originals import original_config, original_weights, relative_error, write_original, yardstick
from transformers import DataCollatorWithFlattening, MiniMaxForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxCache
from traps import kept, random_ids

from minimax_nb.cache import CACHE_ARGUMENT, repair_cache, restore, snapshot
from minimax_nb.checkpoint import patch_checkpoint
from minimax_nb.lightning import has_fused, use_lightning

torch.set_num_threads(1)

GPU = torch.cuda.is_available() and has_fused()
FUSED = pytest.param("fused", marks=pytest.mark.skipif(not GPU, reason="needs a CUDA GPU and flash-linear-attention"))
DEVICE = "cuda" if GPU else "cpu"
RIGHT = {"torch": 1e-5, "fused": 3e-3}
LENGTHS = (20, 33)


class Case:
    """A model of 4 layers, 2 of them softmax, and float64 logits of a row alone."""

    def __init__(self, folder, backend: str, attention: str):
        self.config = original_config(num_hidden_layers=4, attn_type_list=[0, 1, 0, 1])
        self.weights = original_weights(self.config)
        converted = patch_checkpoint(
            write_original(folder / "original", self.config, self.weights), folder / "converted"
        )
        self.model = MiniMaxForCausalLM.from_pretrained(converted, attn_implementation=attention).to(DEVICE).eval()
        self.bound = RIGHT[backend]
        use_lightning(self.model, backend)

    def right(self, *rows: list[int]) -> list[torch.Tensor]:
        return yardstick(self.config, self.weights, list(rows))

    @torch.no_grad()
    def logits(self, ids, mask=None, cache=None, **more) -> torch.Tensor:
        more |= {} if cache is None else kept(cache)
        more |= {} if mask is None else {"attention_mask": tensor(mask)}
        return self.model(tensor(ids), **more).logits.cpu()

    def close(self, got: torch.Tensor, want: torch.Tensor) -> bool:
        return relative_error(got, want) < self.bound


def tensor(rows) -> torch.Tensor:
    return torch.as_tensor(rows, device=DEVICE)


@pytest.fixture(scope="module", params=[("torch", "sdpa"), ("torch", "eager"), FUSED], ids=str)
def case(request, tmp_path_factory):
    repair_cache()
    backend, attention = request.param if isinstance(request.param, tuple) else (request.param, "sdpa")
    return Case(tmp_path_factory.mktemp("boundaries"), backend, attention)


# ---- pads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [True, False], ids=["positions given", "no positions"])
def test_a_batch_padded_on_the_right_goes_on_decoding(case, positions):
    a, b = random_ids(*LENGTHS)
    mask, cache = [[1] * 20 + [0] * 13, [1] * 33], MiniMaxCache()
    for step in range(3):
        ids = [a + [0] * 13, b] if step == 0 else [[7], [9]]
        more = {"position_ids": (tensor(mask).cumsum(1) - 1).clamp(min=0)[:, -len(ids[0]) :]} if positions else {}
        got = case.logits(ids, mask, cache, **more)
        if step == 0:
            want = case.right(a, b)
            assert case.close(got[0, :20], want[0]) and case.close(got[1], want[1])
        else:
            want = case.right(a + [7] * step, b + [9] * step)
            assert case.close(got[0, -1], want[0][-1]) and case.close(got[1, -1], want[1][-1])
        mask = [row + [1] for row in mask]


@pytest.mark.parametrize("pads", [1, 6, 64, 300])
def test_pads_between_two_messages(case, pads):
    a, b = random_ids(70, 80)
    ids, mask = [a + [0] * pads + b], [[1] * 70 + [0] * pads + [1] * 80]
    (want,) = case.right(a + b)
    got = case.logits(ids, mask)[0]
    assert case.close(got[:70], want[:70]) and case.close(got[70 + pads :], want[70:])


def test_turns_of_a_padded_batch_on_one_cache(case):
    """Rows end at different places in each turn, the pads on the right, once in the middle of single tokens."""
    cache, mask, texts = MiniMaxCache(), [[], []], [[], []]
    for lengths in ((30, 18), (3, 9), (1, 0), (0, 1), (1, 1), (40, 70)):
        width, ids = max(lengths), []
        for row, turn in enumerate(random_ids(*lengths, seed=sum(lengths))):
            texts[row] += turn
            mask[row] = mask[row] + [1] * len(turn) + [0] * (width - len(turn))
            ids.append(turn + [0] * (width - len(turn)))
        got, want = case.logits(ids, mask, cache), case.right(*texts)
        for row, length in enumerate(lengths):
            if length:
                assert case.close(got[row, :length], want[row][-length:])


def ended_early(case):
    """A padded batch in generate() whose first row ends before the second: its output, ids and mask for a next turn."""
    a, b = random_ids(*LENGTHS)
    ids, mask = tensor([[0] * 13 + a, b]), tensor([[0] * 13 + [1] * 20, [1] * 33])
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "return_dict_in_generate": True}
    first = case.model.generate(ids, attention_mask=mask, **settings).sequences[:, 33:].tolist()
    eos = next(token for token in first[0][1:5] if token not in first[1])
    out = case.model.generate(ids, attention_mask=mask, eos_token_id=eos, **settings)
    r0, r1 = out.sequences[:, 33:].tolist()
    r0, turn = r0[: r0.index(eos) + 1], [11, 12, 13, 14]
    ids = torch.cat([out.sequences, tensor([turn, turn])], 1)
    new = tensor([[1] * len(r0) + [0] * (8 - len(r0)) + [1] * 4, [1] * 12])
    return out, ids, torch.cat([mask, new], 1), (a + r0 + turn, b + r1 + turn)


def test_a_second_turn_of_a_batch_whose_rows_ended_at_different_steps(case):
    out, ids, mask, rows = ended_early(case)
    settings = {"max_new_tokens": 1, "do_sample": False, "pad_token_id": 0, "output_logits": True}
    again = case.model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **settings)
    for got, want in zip(again.logits[0].cpu(), case.right(*rows), strict=True):
        assert case.close(got, want[-1])
    full = kept(out[CACHE_ARGUMENT])
    with pytest.raises(ValueError, match="Feed all tokens again"):  # generate fed its pads as if they were tokens
        case.model.generate(ids, attention_mask=mask, **settings, **full)


def test_a_row_that_has_ended_waits_when_its_mask_says_so(case):
    """The same kept cache is right if pads are fed as pads."""
    a, b = random_ids(*LENGTHS)
    ids, mask, cache = [[0] * 13 + a, b], [[0] * 13 + [1] * 20, [1] * 33], MiniMaxCache()
    case.logits(ids, mask, cache)
    for token in (5, 6):
        mask = [mask[0] + [0], mask[1] + [1]]
        case.logits([[0], [token]], mask, cache)
    mask = [row + [1, 1] for row in mask]
    got = case.logits([[7, 8], [7, 8]], mask, cache)
    for row, want in zip(got, case.right(a + [7, 8], b + [5, 6, 7, 8]), strict=True):
        assert case.close(row, want[-2:])


def test_beams_of_a_padded_batch(case):
    a, b = random_ids(*LENGTHS)
    ids, mask = tensor([[0] * 13 + a, b]), tensor([[0] * 13 + [1] * 20, [1] * 33])
    settings = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    settings |= {"output_scores": True, "return_dict_in_generate": True, "length_penalty": 0.0}
    out = case.model.generate(ids, attention_mask=mask, **settings)
    for i, text in enumerate(out.sequences.tolist()):
        text = text[13:] if i < 3 else text
        chances = case.right(text)[0].log_softmax(-1)[-6:-1]
        want = chances.gather(1, torch.tensor(text[-5:])[:, None]).sum()
        assert case.close(out.sequences_scores[i].cpu(), want)


def test_a_cache_of_padded_rows_is_selected_repeated_and_restored(case):
    a, b = random_ids(*LENGTHS)
    cache, mask = MiniMaxCache(), [[0] * 13 + [1] * 20, [1] * 33]
    case.logits([[0] * 13 + a, b], mask, cache)
    before = snapshot(cache)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(tensor([2, 1]))
    got = case.logits([[7], [7]], [[1] * 34, [0] * 13 + [1] * 21], cache)
    for row, want in zip(got, case.right(b + [7], a + [7]), strict=True):
        assert case.close(row[-1], want[-1])
    cache = MiniMaxCache()
    empty = snapshot(cache)
    case.logits([[0] * 13 + a, b], mask, cache)
    restore(cache, empty)
    assert case.close(case.logits([b, b], cache=cache)[1], case.right(b)[0])  # no pads are remembered
    assert before.fed.tolist() == tensor(mask).bool().tolist()
    cache.reset()
    assert case.close(case.logits([b, b], cache=cache)[1], case.right(b)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pads_in_half_precision(case, dtype):
    """No further from the yardstick than the row alone is."""
    a, b = random_ids(70, 80)
    (want,) = case.right(a + b)
    whole = case.model
    case.model = copy.deepcopy(whole).to(dtype)
    try:
        alone = relative_error(case.logits([a + b])[0, 70:], want[70:])
        padded = case.logits([a + [0] * 9 + b], [[1] * 70 + [0] * 9 + [1] * 80])[0, 79:]
    finally:
        case.model = whole
    assert relative_error(padded, want[70:]) < 1.5 * alone


def test_what_cannot_be_right_is_refused(case):
    (row,) = random_ids(12)
    cache = MiniMaxCache()
    case.logits([row, row], [[0] * 4 + [1] * 8, [1] * 12], cache)
    for mask, message in (
        (None, "all tokens, old and new"),
        ([[1] * 3, [1] * 3], "12 tokens and 3 are new"),
        ([[1] * 15, [1] * 15], "fed to this cache"),
    ):
        with pytest.raises(ValueError, match=message):
            case.logits([[5, 6, 7]] * 2, mask, cache)
    case.logits([[5, 6, 7]] * 2, [[0] * 4 + [1] * 11, [1] * 15], cache)  # nothing was fed by what was refused
    assert cache.get_seq_length() == 15
    pairs = torch.full((1, 1, 12, 12), -torch.inf, device=DEVICE).triu(1)
    assert case.close(case.logits([row], attention_mask=pairs)[0], case.right(row)[0])
    pairs[..., 6:, :6] = -torch.inf
    with pytest.raises(ValueError, match="pairs of tokens"):
        case.logits([row], attention_mask=pairs)


def test_an_unknown_argument_is_refused(case):
    (row,) = random_ids(5)
    with pytest.raises(TypeError, match="'kv_store'"):
        case.logits([row], kv_store=1)
    with pytest.raises(TypeError, match="'is_causal'"):
        case.logits([row], is_causal=False)
    case.logits([row], is_causal=True, output_attentions=False, num_items_in_batch=5)


def test_a_batch_without_pads_has_no_gates(case, monkeypatch):
    """Neither has one padded on the left: its pads decay what is still zero. So both are as fast as ever."""
    from minimax_nb.lightning import layer

    gates, original = [], layer.attend
    monkeypatch.setattr(layer, "attend", lambda *args: gates.append(args[5]) or original(*args))
    use_lightning(case.model, "torch")
    try:
        a, b = random_ids(*LENGTHS)
        cache = MiniMaxCache()
        case.logits([b, b], [[1] * 33] * 2, cache)
        case.logits([[5], [5]], [[1] * 34] * 2, cache)
        case.logits([[0] * 13 + a, b], [[0] * 13 + [1] * 20, [1] * 33])
        case.logits([a + [0] * 13, b], [[1] * 20 + [0] * 13, [1] * 33], use_cache=False)  # nothing follows its pads
        assert len(gates) == 8 and all(gate is None for gate in gates)
        case.logits([a + [0] * 13, b], [[1] * 20 + [0] * 13, [1] * 33], MiniMaxCache())
        assert gates[-1] is not None
    finally:
        use_lightning(case.model, "fused" if case.bound == RIGHT["fused"] else "torch")


# ---- packed documents ----------------------------------------------------------------------------------------------


def packed(*rows: list[int], **collator) -> dict:
    collate = DataCollatorWithFlattening(**collator)
    batch = collate([{"input_ids": row, "labels": row} for row in rows])
    return {name: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


@pytest.mark.parametrize("use_cache", [{}, {"use_cache": False}], ids=["default", "no cache"])
@pytest.mark.parametrize(
    "collator, drop",
    [
        ({}, ()),
        ({"return_flash_attn_kwargs": True, "return_seq_idx": True}, ()),
        ({"return_seq_idx": True}, ("position_ids",)),
        ({"return_flash_attn_kwargs": True}, ("position_ids",)),
    ],
    ids=["positions", "all", "seq_idx", "cu_seq_lens"],
)
@torch.no_grad()
def test_packed_documents_give_what_each_gives_alone(case, collator, drop, use_cache):
    rows = random_ids(20, 1, 133, 64, 7)
    batch = {name: value for name, value in packed(*rows, **collator).items() if name not in drop}
    logits = case.model(**batch, **use_cache).logits[0].cpu()
    ends = torch.tensor([0, *map(len, rows)]).cumsum(0).tolist()
    for (start, end), want in zip(pairwise(ends), case.right(*rows), strict=True):
        assert case.close(logits[start:end], want)


@torch.no_grad()
def test_two_rows_of_packed_documents(case):
    rows = random_ids(20, 13, 9, 24)
    ids = [rows[0] + rows[1], rows[2] + rows[3]]
    positions = tensor([[*range(20), *range(13)], [*range(9), *range(24)]])
    got = case.logits(ids, position_ids=positions)
    want = case.right(*rows)
    for part, right in zip((got[0, :20], got[0, 20:], got[1, :9], got[1, 9:]), want, strict=True):
        assert case.close(part, right)


def test_gradients_of_packed_documents(case):
    """Those of the same documents in a batch of their own, padded on the right."""
    rows = random_ids(20, 9, 33)
    case.model.train()

    def gradients(**batch) -> dict:
        case.model.zero_grad()
        out = case.model(use_cache=False, num_items_in_batch=torch.tensor(59, device=DEVICE), **batch)
        out.loss.backward()
        return {name: weight.grad.clone() for name, weight in case.model.named_parameters()}

    try:
        got = gradients(**packed(*rows))
        ids = tensor([row + [0] * (33 - len(row)) for row in rows])
        mask = tensor([[1] * len(row) + [0] * (33 - len(row)) for row in rows])
        want = gradients(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))
    finally:
        case.model.eval().zero_grad()
    for name, gradient in got.items():
        assert relative_error(gradient, want[name].double()) < 10 * case.bound, name


def test_packed_documents_and_what_does_not_go_with_them(case):
    batch = packed(*random_ids(5, 6), return_flash_attn_kwargs=True)
    del batch["labels"]
    for more in ({"use_cache": True}, kept(MiniMaxCache())):
        with pytest.raises(ValueError, match="cache"):
            case.model(**batch, **more)
    with pytest.raises(ValueError, match="leave out the pads"):
        case.model(**batch, attention_mask=tensor([[0] + [1] * 10]))
    with pytest.raises(ValueError, match="disagree"):
        case.model(**batch | {"position_ids": torch.arange(11, device=DEVICE)[None]})
    with pytest.raises(ValueError, match="from 0 to 11"):
        case.model(**batch | {"cu_seq_lens_q": tensor([0, 5])})


def test_positions_of_one_document_may_begin_anywhere(case):
    (row,) = random_ids(12)
    positions = torch.arange(100, 112, device=DEVICE)[None]
    assert case.close(case.logits([row], position_ids=positions)[0], case.right(row)[0])


def test_no_argument_is_used_under_an_old_name(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        case.logits(random_ids(5), cache=MiniMaxCache())
