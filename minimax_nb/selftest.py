"""A small model against the definition, in this process: for a Transformers that the kit was not tested with.

Another version can rename an argument, and a layer that swallows the new name computes nonsense without an error. So
`load()` builds a tiny random model there, runs it in each way that has gone wrong before, and compares it with the
float64 `reference`, before it reads any weights of yours.

    run("sdpa", "torch")                    # a Result, in under a second; RuntimeError if anything is wrong
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import MiniMaxConfig, MiniMaxForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxCache

from . import reference
from .cache import CACHE_ARGUMENT
from .checkpoint.layout import original_weights
from .config import patch_config
from .decode import use_decoding
from .lightning.layer import use_lightning
from .original import original_config

# Both experts for each token, so that no rounding can choose another one.
SIZES = {"num_hidden_layers": 3, "attn_type_list": [0, 1, 0], "hidden_size": 64, "intermediate_size": 32}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "rotary_dim": 16, "vocab_size": 96}
SIZES |= {"num_local_experts": 2, "num_experts_per_tok": 2}
LENGTHS = (21, 13)  # tokens of the rows
STEPS = 4


class Result(NamedTuple):
    """What was compared, and the largest relative error of logits (of scores for beams)."""

    compared: tuple[str, ...]
    error: float


class Small(NamedTuple):
    """A tiny model, and what it should compute."""

    model: MiniMaxForCausalLM
    config: dict
    weights: dict[str, Tensor]

    def rows(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(1)
        return [torch.randint(3, SIZES["vocab_size"], (length,), generator=generator).tolist() for length in LENGTHS]

    def right(self, ids: list[int]) -> Tensor:
        """Logits (len(ids), vocabulary) in float64."""
        return reference.forward(self.config, self.weights, ids)

    def logits(self, ids: list[list[int]], cache: MiniMaxCache | None = None, **more) -> Tensor:
        """Logits of rows fed in one pass, on the CPU."""
        kept = {} if cache is None else {CACHE_ARGUMENT: cache, "use_cache": True}
        return self.model(torch.tensor(ids, device=self.model.device), **kept, **more).logits.double().cpu()


def run(attention: str, lightning: str, device: str = "cpu", dtype: str = "float32") -> Result:
    """Compare a model with these implementations in each way of use. RuntimeError says which one is wrong."""
    ours_alone = ("pads in between", "static steps")
    checks = {name: check for name, check in CHECKS.items() if lightning != "stock" or name not in ours_alone}
    bound = 5e-2 if dtype != "float32" else 1e-2 if lightning == "fused" else 1e-4
    errors = {}
    try:
        small = build(attention, lightning, device, dtype)
        for name, check in checks.items():
            errors[name] = check(small)
    except Exception as problem:  # whatever another version raises
        where = next((name for name in checks if name not in errors), "building it")
        raise RuntimeError(f"{where} raises {type(problem).__name__}: {str(problem).strip()[:300]}") from problem
    wrong = [f"{name} is {error:.1%} off" for name, error in errors.items() if not error < bound]
    if wrong:
        raise RuntimeError(", ".join(wrong))
    return Result(tuple(errors), max(errors.values()))


def build(attention: str, lightning: str, device: str, dtype: str) -> Small:
    config = original_config(**SIZES)
    with torch.random.fork_rng():  # the caller's random numbers stay as they are
        torch.manual_seed(0)
        model = MiniMaxForCausalLM(MiniMaxConfig(**patch_config(config))).eval()
        for name, weight in model.named_parameters():
            if weight.ndim > 1:  # outputs of size 1, and a softmax that is far from even
                scale = 3 if name.endswith(("q_proj.weight", "k_proj.weight")) else 1
                torch.nn.init.normal_(weight, std=scale * weight.shape[-1] ** -0.5)
    model.to(device, getattr(torch, dtype))
    model.set_attn_implementation(attention)
    use_lightning(model, lightning)
    return Small(model, config, original_weights(model, config))


@torch.no_grad()
def one_pass(small: Small) -> float:
    (row, _) = small.rows()
    return _error(small.logits([row])[0], small.right(row))


@torch.no_grad()
def token_by_token(small: Small) -> float:
    """A prompt, then single tokens on its cache."""
    row, cache = small.rows()[0], MiniMaxCache()
    pieces = [row[:-STEPS], *([token] for token in row[-STEPS:])]
    got = torch.cat([small.logits([piece], cache)[0] for piece in pieces])
    return _error(got, small.right(row))


@torch.no_grad()
def second_turn(small: Small) -> float:
    first, second = small.rows()
    cache = MiniMaxCache()
    small.logits([first], cache)
    return _error(small.logits([second], cache)[0], small.right(first + second)[len(first) :])


@torch.no_grad()
def padded_batch(small: Small) -> float:
    """The shorter row padded on the left, a prompt and then single tokens."""
    rows, cache, width = small.rows(), MiniMaxCache(), max(LENGTHS)
    ids = [[0] * (width - len(row)) + row for row in rows]
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=small.model.device)
    edges = [0, *range(width - STEPS, width + 1)]
    got = []
    for start, end in zip(edges, edges[1:], strict=False):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, start:end]  # as generate() gives them
        piece = [row[start:end] for row in ids]
        got.append(small.logits(piece, cache, attention_mask=mask[:, :end], position_ids=positions))
    got = torch.cat(got, 1)
    return max(_error(got[i, width - len(row) :], small.right(row)) for i, row in enumerate(rows))


@torch.no_grad()
def pads_in_between(small: Small) -> float:
    """A pad after a token, and then more of the row."""
    (row, _) = small.rows()
    mask = torch.tensor([[1] * 9 + [0] * 5 + [1] * (len(row) - 9)], device=small.model.device)
    got = small.logits([row[:9] + [0] * 5 + row[9:]], attention_mask=mask)[0]
    return _error(got[14:], small.right(row)[9:])


def beams(small: Small) -> float:
    """The scores that a beam search gives its texts, which it reads from its cache, against their true ones."""
    prompt = small.rows()[1]
    settings = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": STEPS, "do_sample": False}
    settings |= {"pad_token_id": 0, "eos_token_id": None, "length_penalty": 0.0}  # a score is then a sum
    out = small.model.generate(
        torch.tensor([prompt], device=small.model.device), output_scores=True, return_dict_in_generate=True, **settings
    )
    want = []
    for text in out.sequences.tolist():
        chances = small.right(text).log_softmax(-1)[len(prompt) - 1 : -1]
        want.append(chances.gather(1, torch.tensor(text[len(prompt) :])[:, None]).sum())
    return _error(out.sequences_scores.double().cpu(), torch.stack(want))


def static_steps(small: Small) -> float:
    """Single tokens by the static step, which takes them from a model of this class."""
    use_decoding(small.model, "static")
    error = max(token_by_token(small), padded_batch(small))
    use_decoding(small.model, "plain")
    return error


CHECKS: dict[str, Callable[[Small], float]] = {
    "one pass": one_pass,
    "token by token": token_by_token,
    "second turn": second_turn,
    "padded batch": padded_batch,
    "pads in between": pads_in_between,
    "beams": beams,
    "static steps": static_steps,
}


def _error(got: Tensor, want: Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()
