"""What else a token could have been: the likeliest candidates at its place, and their probabilities.

    draws = []
    chat.send("How do I make pesto?", watch=lambda *tensors: draws.append(draw(*tensors)))
    describe(draws[0], chat.tokenizer, before=[], sampled=False)      # {"title": "'For': ...", "rows": [...]}

`draw` keeps what the decoding loop has drawn from; nothing is computed a second time.
"""

from math import inf
from typing import NamedTuple

import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ...language import tr

COUNT = 8
PART = "·"  # stands for a token that is part of a character which a later token completes
BYTES = {sign: byte for byte, sign in bytes_to_unicode().items()}  # how byte-level vocabularies write each byte


class Candidate(NamedTuple):
    """A token, its rank in the draw from 1, None if the settings cut it, and two probabilities: `drawn` is
    the one with the settings, `own` the model's without them.
    """

    id: int
    rank: int | None
    drawn: float
    own: float


class Draw(NamedTuple):
    """The token that was taken, how many of the vocabulary were not cut, and the candidates.

    These are the COUNT likeliest, cut ones last. The token itself and the model's own first follow, if not
    among them.
    """

    id: int
    kept: int
    vocabulary: int
    candidates: list[Candidate]


def draw(token: torch.Tensor, scores: torch.Tensor, logits: torch.Tensor) -> Draw:
    """What is worth keeping of what `Chat` hands to its `watch`: token (1, 1), scores and logits (1, vocabulary)."""
    token, scores, logits = token[0], scores[0], logits[0]  # (1,), (vocabulary,), (vocabulary,)
    own_first = logits.topk(COUNT).indices  # (COUNT,)
    ids = torch.cat([scores.topk(COUNT).indices, token, own_first])  # (2 COUNT + 1,), some of them twice
    above = (scores > scores[ids, None]).sum(-1)  # (2 COUNT + 1,): how many tokens are likelier than each
    figures = torch.stack([scores.softmax(-1)[ids], logits.softmax(-1)[ids]])  # (2, 2 COUNT + 1)
    chosen, first, kept, *above = torch.cat([token, own_first[:1], (scores > -inf).sum()[None], above]).tolist()

    every = {}
    for each, better, drawn, own in zip(ids.tolist(), above, *figures.tolist(), strict=True):
        every[each] = Candidate(each, better + 1 if better < kept else None, drawn, own)
    by_rank = sorted(every.values(), key=lambda candidate: (candidate.rank or inf, -candidate.own))
    others = [candidate for candidate in by_rank[COUNT:] if candidate.id in (chosen, first)]
    return Draw(chosen, kept, len(scores), by_rank[:COUNT] + others)


def describe(draw: Draw, tokenizer, before: list[int], sampled: bool) -> dict:
    """A draw for a page: a `title`, and `rows` of text and figures. `before` as in `name`."""
    rows = [
        {
            "name": name(each.id, tokenizer, before),
            "chosen": each.id == draw.id,
            "rank": str(each.rank or "-"),
            "shares": [each.drawn, each.own],
            "figures": [_figure(each.drawn) if each.rank else tr("cut"), _figure(each.own)],
        }
        for each in draw.candidates
    ]
    token = name(draw.id, tokenizer, before)
    title = tr("{token}: the likeliest, taken without a draw", token=token)
    if sampled:
        title = tr("{token}: drawn, {number}", token=token, number=_number(draw))
    return {"title": title, "rows": rows}


def _number(draw: Draw) -> str:
    if draw.kept == 1:
        return tr("the only one that was kept")
    counts = {"kept": f"{draw.kept:,}", "rank": next(each.rank for each in draw.candidates if each.id == draw.id)}
    if draw.kept == draw.vocabulary:
        return tr("number {rank} of all {kept} tokens", **counts)
    return tr("number {rank} of the {kept} that were kept", **counts)


def _figure(share: float) -> str:
    return f"{share:.3f}" if share >= 0.0005 else "<0.001"


def name(token: int, tokenizer, before: list[int]) -> str:
    """A token as one can read it: text in quotes, a special token as it is, a part of a character in bytes.

    `before` are the tokens that began the character. With them the token that completes it can say which one
    it is.
    """
    if token in tokenizer.all_special_ids:
        return tokenizer.convert_ids_to_tokens(token)
    text = _text([token], tokenizer)
    if "\ufffd" not in text:
        return repr(text) if text else tr("token {number}", number=token)
    signs = tokenizer.convert_ids_to_tokens(token)
    code = " ".join(f"{BYTES[sign]:02X}" if sign in BYTES else sign for sign in signs)
    whole = _text([*before, token], tokenizer)
    made = tr("part of a character") if "\ufffd" in whole else tr("makes {text}", text=repr(whole))
    if len(signs) > 1:
        return tr("bytes {code}, {made}", code=code, made=made)
    return tr("byte {code}, {made}", code=code, made=made)


def sign(token: int, text: str, tokenizer) -> str:
    """What to draw for a token of which little or nothing is to be seen; empty where its text suffices."""
    if text:
        return "↵" if text.isspace() and "\n" in text else ""
    if token == tokenizer.eos_token_id:
        return tr("end")
    return tokenizer.convert_ids_to_tokens(token) if token in tokenizer.all_special_ids else PART


def _text(tokens: list[int], tokenizer) -> str:
    return tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
