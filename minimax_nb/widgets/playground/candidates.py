"""What else a token could have been: the likeliest candidates at its place, and their probabilities.

    steps = []
    chat.send("How do I make pesto?", watch=lambda *draw: steps.append(step(*draw)))
    described(steps[0], chat.tokenizer, before=[], sampled=False)      # {"words": "'For': ...", "rows": [...]}

`step` keeps what the decoding loop has drawn from and computes nothing anew. It knows no conversation and no page.
"""

from math import inf
from typing import NamedTuple

import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

COUNT = 8
PART = "·"  # stands for a token which is a part of a character that a later one completes
BYTES = {sign: byte for byte, sign in bytes_to_unicode().items()}  # how byte-level vocabularies write each byte


class Candidate(NamedTuple):
    """A token, its rank in the draw from 1, None if it was cut, its probability there, and the model's own for it."""

    id: int
    rank: int | None
    drawn: float
    own: float


class Step(NamedTuple):
    """One draw: the token, how many of the vocabulary were not cut, and the candidates.

    These are the COUNT likeliest, cut ones last; then the token itself and the model's own first, if not among them.
    """

    id: int
    kept: int
    vocabulary: int
    candidates: list[Candidate]


def step(token: torch.Tensor, scores: torch.Tensor, logits: torch.Tensor) -> Step:
    """What is worth keeping of what `Chat` tells its `watch`."""
    (chosen,), scores, logits = token, scores[0], logits[0]
    ids = torch.cat([scores.topk(COUNT).indices, chosen, logits.topk(COUNT).indices])
    above = (scores > scores[ids[COUNT : COUNT + 2], None]).sum(-1)  # the token itself, the model's own first
    *above, kept = torch.cat([above, (scores > -inf).sum()[None]]).tolist()
    shares = torch.stack([scores.softmax(-1)[ids], logits.softmax(-1)[ids]]).tolist()
    at = [*range(COUNT), *above, *[kept] * (COUNT - 1)]
    ranks = [None if better >= kept else better + 1 for better in at]
    rows = list(map(Candidate, ids.tolist(), ranks, *shares))
    return Step(chosen.item(), kept, len(scores), _shown(rows[: min(COUNT, kept)], rows[COUNT:]))


def _shown(likeliest: list[Candidate], others: list[Candidate]) -> list[Candidate]:
    """`others` begin with two that are shown in any case; the rest are cut where there is room for them."""
    there = {each.id for each in likeliest}
    shown = (likeliest + [each for each in others[1:] if each.id not in there])[:COUNT]
    there = {each.id for each in shown}
    beyond = {each.id: each for each in others[:2] if each.id not in there}
    return shown + sorted(beyond.values(), key=lambda each: each.rank or inf)


def described(step: Step, tokenizer, before: list[int], sampled: bool) -> dict:
    """A step for a page: `words` on the draw, and `rows` of text and figures. `before` as in `name`."""
    rows = [
        {
            "name": name(each.id, tokenizer, before),
            "chosen": each.id == step.id,
            "rank": str(each.rank or "-"),
            "shares": [each.drawn, each.own],
            "figures": [_figure(each.drawn) if each.rank else "cut", _figure(each.own)],
        }
        for each in step.candidates
    ]
    how = f"drawn, {_number(step)}" if sampled else "the likeliest, taken without a draw"
    return {"words": f"{name(step.id, tokenizer, before)}: {how}", "rows": rows}


def _number(step: Step) -> str:
    rank = next(each.rank for each in step.candidates if each.id == step.id)
    kept = f"all {step.kept:,} tokens" if step.kept == step.vocabulary else f"the {step.kept:,} that were kept"
    return f"number {rank} of {kept}" if step.kept > 1 else "the only one that was kept"


def _figure(share: float) -> str:
    return f"{share:.3f}" if share >= 0.0005 else "<0.001"


def name(token: int, tokenizer, before: list[int]) -> str:
    """A token as one can read it: text in quotes, a mark as it is, half a character in bytes.

    `before` are the tokens with which the character has begun, for it to be shown where the token completes it.
    """
    if token in tokenizer.all_special_ids:
        return tokenizer.convert_ids_to_tokens(token)
    text = _text([token], tokenizer)
    if "\ufffd" not in text:
        return repr(text) if text else f"token {token}"
    signs = tokenizer.convert_ids_to_tokens(token)
    code = " ".join(f"{BYTES[sign]:02X}" if sign in BYTES else sign for sign in signs)
    whole = _text([*before, token], tokenizer)
    made = "part of a character" if "\ufffd" in whole else f"makes {whole!r}"
    return f"byte{'s' if len(signs) > 1 else ''} {code}, {made}"


def sign(token: int, text: str, tokenizer) -> str:
    """What to draw for a token that shows little or nothing of the reply's text; empty where the text suffices."""
    if text:
        return "↵" if text.isspace() and "\n" in text else ""
    if token == tokenizer.eos_token_id:
        return "end"
    return tokenizer.convert_ids_to_tokens(token) if token in tokenizer.all_special_ids else PART


def _text(tokens: list[int], tokenizer) -> str:
    return tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
