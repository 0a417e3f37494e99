"""The scorer: does a model answer held-out questions, and does it recall what it was told?

    replies = card.stock_replies(model, tokenizer)          # or anything from prompts (ids) to replies (ids)
    score_questions(replies, tokenizer, corpus.held_out_questions())
    score_recall(replies, tokenizer, recall_cases(tokenizer))

A reply is right when it holds every key fact of its question and names no number, ingredient or replacement
that the reference answer does not: a right list with a wrong amount in it is wrong.
"""

import re
from collections.abc import Callable, Iterable
from functools import cache
from itertools import islice
from random import Random

from . import corpus
from .corpus import kitchen, pantry
from .corpus.kitchen import Turn
from .corpus.recall import MAKERS

Replies = Callable[[list[list[int]]], list[list[int]]]
DISTANCES = (125, 250, 500, 750, 1000)  # tokens; a case counts for the first that is not below its distance


def is_right(reply: str, turn: Turn) -> bool:
    """All key facts, and nothing that contradicts the reference answer."""
    said, reference = reply.lower(), turn.reply.lower()
    return all(fact.lower() in said for fact in turn.facts) and claims(said) <= claims(reference)


def claims(text: str) -> set[str]:
    """The numbers and the things of the pantry that a text names."""
    return set(re.findall(r"\d+", text)) | {word for word in things() if word in text}


@cache
def things() -> frozenset[str]:
    found = {item for recipe in kitchen.recipes().values() for _, _, item in recipe.items}
    found |= {word for pair in pantry.REPLACE.values() for word in pair} | set(pantry.ITEMS_ZH.values())
    return frozenset(word.lower() for word in found)


def prompt(tokenizer, turn: Turn) -> list[int]:
    """Token ids of a question with the turns it needs before it, up to where the reply begins."""
    messages = []
    for earlier in turn.prior:
        messages += [("user", earlier.user), ("assistant", earlier.reply)]
    messages.append(("user", turn.user))
    chat = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in messages]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def ask(replies: Replies, tokenizer, turns: list[Turn]) -> list[str]:
    answers = replies([prompt(tokenizer, turn) for turn in turns])
    return [tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]


def score_questions(replies: Replies, tokenizer, turns: list[Turn]) -> dict:
    """{"right", "asked", "share", "by_kind": {kind: [right, asked]}, "wrong": some (question, reply, reference)}."""
    by_kind, wrong = tally(replies, tokenizer, [(turn.kind, turn) for turn in turns])
    right, asked = (sum(counts[i] for counts in by_kind.values()) for i in (0, 1))
    wrong = [(turn.user, reply, turn.reply) for _, turn, reply in wrong]
    return {"right": right, "asked": asked, "share": right / asked, "by_kind": by_kind, "wrong": wrong[:40]}


def tally(replies: Replies, tokenizer, cases: list[tuple]) -> tuple[dict, list[tuple]]:
    """For (key, turn) cases: {key: [right, asked]}, and the wrong ones as (key, turn, reply)."""
    counts: dict = {}
    wrong = []
    answers = ask(replies, tokenizer, [turn for _, turn in cases])
    for (key, turn), reply in zip(cases, answers, strict=True):
        count, right = counts.setdefault(key, [0, 0]), is_right(reply, turn)
        count[0] += right
        count[1] += 1
        if not right:
            wrong.append((key, turn, reply))
    return counts, wrong


def recall_cases(tokenizer, each: int = 60, seed: int = 0) -> list[tuple[int, Turn]]:
    """(distance, case): `each` held-out cases just below each of DISTANCES, over all kinds that can be recalled."""
    kinds = [(kind, language) for language in MAKERS for kind in MAKERS[language]]
    return [
        (distance, case_at(tokenizer, f"{seed} {distance} {i}", *kinds[i % len(kinds)], distance))
        for distance in DISTANCES
        for i in range(each)
    ]


def case_at(tokenizer, seed: str, kind: str, language: str, distance: int) -> Turn:
    """The longest case of this seed in which the value lies at most `distance` tokens before the reply."""
    fillers = 0
    case = corpus.recall_case(Random(seed), kind, language, 0)
    while tokens_since(tokenizer, longer := corpus.recall_case(Random(seed), kind, language, fillers + 1)) <= distance:
        case, fillers = longer, fillers + 1
    return case


def tokens_since(tokenizer, case: Turn) -> int:
    """Tokens between the end of the message that stated the value and the reply that must hold it."""
    stated = next(i for i, turn in enumerate(case.prior) if case.facts[0] in turn.user)
    before = prompt(tokenizer, Turn(case.prior[stated].user, "", prior=case.prior[:stated]))
    return len(prompt(tokenizer, case)) - len(before)


def score_recall(replies: Replies, tokenizer, cases: list[tuple[int, Turn]]) -> dict:
    """{"by_distance": {distance: [right, asked]}, "wrong": the first of (distance, reply, wanted)}."""
    by_distance, wrong = tally(replies, tokenizer, cases)
    wrong = [(distance, reply, turn.reply) for distance, turn, reply in wrong]
    return {"by_distance": by_distance, "wrong": wrong[:40]}


def held_out_rows(
    tokenizer, count: int = 64, length: int = 768, seed: int = 1
) -> Iterable[tuple[list[int], list[bool]]]:
    """Held-out conversations as (ids, which of them are replies), each at most `length` tokens."""
    for row in range(count):
        ids: list[int] = []
        learned: list[bool] = []
        turns = islice(corpus.conversation(Random(f"{seed} {row}"), test=True), 64)
        prior: tuple[Turn, ...] = ()
        while len(ids) < length:
            turn = next(turns)
            asked = prompt(tokenizer, Turn(turn.user, turn.reply, prior=prior))
            reply = tokenizer(turn.reply + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
            learned += [False] * (len(asked) - len(ids)) + [True] * len(reply)
            ids, prior = asked + reply, (*prior, turn)
        yield ids[:length], learned[:length]
