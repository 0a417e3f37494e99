"""Conversations with a kitchen assistant, made from tables: the text that the demo model is trained and tested on.

Everything is drawn from a random.Random, so a seed is a conversation. Two splits share the knowledge and nothing else:
"train" and "test" use different phrasings, and different names, numbers and lists to be recalled. What is known is in
pantry.py, how it is asked in phrases.toml; kitchen.py and recall.py make single turns of them.

    turns = conversation(random.Random(0))          # endless: Turn(user, reply, facts), ...
    questions = held_out_questions()                # what the scorer asks
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from .kitchen import Turn, knowledge, listing, measure, recipes
from .phrases import phrases
from .recall import MAKERS, both, make_value, recall, state

REASONS = (
    "because it wakes up almost any dish; because it is sharp and fresh; because it goes with everything; "
    "since it keeps for weeks; because my family makes it every summer; as it is quick to make; "
    "because a little of it is enough"
).split("; ")


def conversation(
    rng: random.Random, *, language: str | None = None, with_recall: bool = True, test: bool = False
) -> Iterator[Turn]:
    """An endless conversation in one language ("en", "zh" or drawn); cut it where it is long enough."""
    language = language or ("zh" if rng.random() < 0.15 else "en")
    told: dict[str, str] = {}
    dish, eager = "", rng.random()
    quiet = rng.choice([0, rng.randint(4, 32)])  # some ask only when what they said lies far back
    while True:
        quiet -= 1
        untold = [kind for kind in MAKERS[language] if kind not in told]
        draw = rng.random() if with_recall else 1.0
        if untold and draw < (0.5 * eager if len(told) < 4 else 0.05):
            turn, dish = stating(rng, told, untold, dish, test, language)
        elif told and quiet < 0 and 0.62 < draw < 1.0:
            kind = next(iter(told)) if rng.random() < 0.5 else rng.choice(list(told))
            told[kind] = told.pop(kind)  # least recently mentioned first, and asked for most
            turn = recall(rng, kind, told[kind], test, language)
        elif untold and 0.612 < draw < 0.62:
            turn = recall(rng, rng.choice(untold), None, test, language)
        elif dish and rng.random() < 0.5:
            entries = knowledge(language, test)[1][dish]
            turn = rng.choice(entries[:5] if rng.random() < 0.5 else entries).ask(rng, test)
        else:
            turn, dish = subject(rng, language, test)
        yield turn if test else replace(turn, user=dress(rng, turn.user, language), reply=opened(rng, turn, language))


def stating(
    rng: random.Random, told: dict[str, str], untold: list[str], dish: str, test: bool, language: str
) -> tuple[Turn, str]:
    """A value or two stated (and noted in `told`), at times with a question; and the dish spoken of after it."""

    def one(kind: str) -> Turn:
        told[kind] = make_value(rng, kind, test, language)
        return state(rng, kind, told[kind], test, language)

    kind = rng.choice(untold)
    turn = one(kind)
    if rng.random() < 0.2:
        asked, dish = subject(rng, language, test)
        turn = replace(asked, user=f"{turn.user} {asked.user}")
    elif len(untold) > 1 and rng.random() < 0.2:
        turn = both(turn, one(rng.choice([other for other in untold if other != kind])), language)
    return turn, dish


def subject(rng: random.Random, language: str, test: bool) -> tuple[Turn, str]:
    """A question that needs nothing before it, and the dish it is about (or "")."""
    groups, _ = knowledge(language, test)
    group = rng.choice([name for name in ("dish", "dish", "dish", "facts", "talk", "refusals") if name in groups])
    entries = rng.choice(groups[group])
    entry = rng.choice(entries[:5] if group == "dish" and rng.random() < 0.6 else entries)  # allergens are many
    return entry.ask(rng, test), entry.dish


def dress(rng: random.Random, text: str, language: str) -> str:
    """A question as people type it: some greet, some drop capitals, stops and little words, or put some in.

    Without this the model learns the phrasings by heart, and fails on those it has not seen.
    """
    habits = phrases(language)["habits"]
    if language == "zh":
        text = rng.choice(habits["before"]) + text if rng.random() < 0.2 else text
        return text.rstrip("？。") if rng.random() < 0.2 else text
    if rng.random() < 0.35:
        text = " ".join(little_words_changed(rng, text.split(" "), habits["little"].split()))
    if rng.random() < 0.15:
        text = rng.choice(habits["before"]) + text
    if rng.random() < 0.1:
        text += rng.choice(habits["after"])
    if rng.random() < 0.15:
        text = text[0].lower() + text[1:]
    return text.rstrip("?.") if rng.random() < 0.2 else text


def little_words_changed(rng: random.Random, words: list[str], little: list[str]) -> Iterator[str]:
    """The words, some of the little ones left out and some others put in."""
    for i, word in enumerate(words):
        skippable = word.lower() in little and i + 1 < len(words)
        if not (skippable and rng.random() < 0.25):
            yield word
        if rng.random() < 0.04:
            yield rng.choice(little)


def opened(rng: random.Random, turn: Turn, language: str) -> str:
    """Recipes may begin with a courtesy, so that there is something to sample."""
    courteous = language == "en" and turn.kind in ("recipe", "double", "triple")
    return rng.choice(phrases("en")["habits"]["openers"]) + turn.reply if courteous else turn.reply


def plain_text(rng: random.Random) -> str:
    """One to three sentences outside any conversation."""
    return " ".join(plain_sentence(rng) for _ in range(rng.randint(1, 3)))


def plain_sentence(rng: random.Random) -> str:
    dish = rng.choice(list(recipes().values()))
    favourite = rng.choice([dish.name, "lemon juice", "mustard"])
    sentences = [
        f"My favourite condiment is {favourite}, {rng.choice(REASONS)}.",
        f"My favourite sauce is {dish.name}, {rng.choice(REASONS)}.",
        f"I like {dish.name} with {dish.goes_with}, {rng.choice(REASONS)}.",
        f"For {dish.name} you need {listing([measure(*item) for item in dish.items])}.",
        f"Nothing goes better with {dish.goes_with} than {dish.name}.",
    ]
    return rng.choice(sentences)


def held_out_questions(languages: tuple[str, ...] = ("en", "zh"), seed: int = 0) -> list[Turn]:
    """Every entry asked in a held-out phrasing; follow-ups come with the turn that names their dish."""
    rng, asked = random.Random(seed), []
    for language in languages:
        groups, follow_ups = knowledge(language, True)
        asked += [entry.ask(rng, True) for group in groups.values() for part in group for entry in part]
        naming = {part[0].dish: part[0] for part in groups["dish"]}
        for dish, entries in follow_ups.items():
            for entry in entries:
                turn = entry.ask(rng, True)
                asked.append(replace(turn, prior=(naming[dish].ask(rng, True),)))
    return asked


def recall_case(rng: random.Random, kind: str, language: str, fillers: int) -> Turn:
    """A held-out value stated with two of other kinds around it, `fillers` other turns, then the question for it.

    With the same rng state, more fillers only lengthen the same case.
    """
    others = [other for other in MAKERS[language] if other != kind]
    kinds = [kind, *rng.sample(others, min(2, len(others)))]
    rng.shuffle(kinds)
    values = {k: make_value(rng, k, True, language) for k in kinds}
    turns = [state(rng, k, values[k], True, language) for k in kinds]
    asked = recall(rng, kind, values[kind], True, language)
    turns += islice(conversation(rng, language=language, with_recall=False, test=True), fillers)
    return replace(asked, prior=tuple(turns))
