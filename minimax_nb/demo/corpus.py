"""Conversations with a kitchen assistant, made from tables: the text that the demo model is trained and tested on.

Everything is drawn from a random.Random, so a seed is a conversation. Two splits share the knowledge and nothing else:
"train" and "test" use different phrasings, and different names, numbers and lists to be recalled. The tables are
pantry.py (what is known) and phrases.py (how it is asked).

    turns = conversation(random.Random(0))          # endless: Turn(user, reply, facts), ...
    questions = held_out_questions()                # what the scorer asks
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice

from . import pantry, phrases
from .phrases import draw, split


@dataclass(frozen=True)
class Turn:
    """One exchange. `facts` are the strings that a right reply must hold; `prior` the turns that it needs before it."""

    user: str
    reply: str
    facts: tuple[str, ...] = ()
    prior: tuple["Turn", ...] = ()
    kind: str = ""


@dataclass(frozen=True)
class Entry:
    """One piece of knowledge: its phrasings, one reply, the key facts, and the dish it is about."""

    kind: str
    phrasings: tuple[list[str], list[str]]  # for training, held out
    reply: str
    facts: tuple[str, ...]
    dish: str = ""

    def ask(self, rng: random.Random, test: bool) -> Turn:
        return Turn(draw(rng, rng.choice(self.phrasings[test])), self.reply, self.facts, kind=self.kind)


def rows(table: str) -> list[list[str]]:
    """A table of the pantry as stripped cells."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


# ---- recipes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """`items` holds (amount, unit, item); the unit is empty where the item itself is counted."""

    name: str
    items: tuple[tuple[int, str, str], ...]
    method: str
    keeps: str
    goes_with: str


@cache
def recipes() -> dict[str, Recipe]:
    """All recipes by English name."""

    def parse(text: str) -> tuple[int, str, str]:
        amount, *words = text.split()
        unit = words.pop(0) if words[0] in pantry.UNITS else ""
        return int(amount), unit, " ".join(words)

    return {
        name: Recipe(name, tuple(parse(item) for item in items.split(";")), method, keeps, goes_with)
        for name, items, method, keeps, goes_with in rows(pantry.RECIPES)
    }


def measure(amount: int, unit: str, item: str) -> str:
    """(2, "tbsp", "oil") -> "2 tablespoons of oil", (2, "", "onion") -> "2 onions"."""
    word = {"tbsp": "tablespoon", "tsp": "teaspoon"}.get(unit, unit or item)
    if amount > 1 and word not in ("g", "ml"):
        word += "es" if word in ("tomato", "chilli", "bunch") else "s"
    return f"{amount} {word} of {item}" if unit else f"{amount} {word}"


def measure_zh(amount: int, unit: str, item: str) -> str:
    return f"{amount}{pantry.UNITS.get(unit, '个')}{pantry.ITEMS_ZH[item]}"


def listing(parts: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def replacements(recipe: Recipe, allergen: str) -> list[str]:
    """The items of a recipe that an allergen rules out."""
    return [item for _, _, item in recipe.items if item in pantry.ALLERGENS[allergen][1]]


def answers(recipe: Recipe) -> dict[tuple[str, str], tuple[str, tuple[str, ...]]]:
    """(kind, allergen or "") -> (reply, key facts), for one recipe."""
    name = recipe.name

    def needs(times: int) -> list[str]:
        return [measure(times * amount, unit, item) for amount, unit, item in recipe.items]

    found = {
        ("recipe", ""): (f"For {name} you need {listing(needs(1))}. {recipe.method}.", tuple(needs(1))),
        ("keeps", ""): (f"Kept cold in a closed jar, {name} is good for {recipe.keeps}.", (recipe.keeps,)),
        ("with", ""): (f"Serve {name} with {recipe.goes_with}.", (recipe.goes_with,)),
        ("double", ""): (f"For twice as much {name} you need {listing(needs(2))}.", tuple(needs(2))),
        ("triple", ""): (f"For three times as much {name} you need {listing(needs(3))}.", tuple(needs(3))),
    }
    for allergen in pantry.ALLERGENS:
        out = replacements(recipe, allergen)
        swaps = [f"{pantry.REPLACE[item][0]} instead of {item}" for item in out]
        verdict = f"Take care, {name} contains {listing(out)}" if out else f"There is no trace of {allergen} in {name}"
        advice = f"use {listing(swaps)}" if out else "you can make it as it is"
        found["contains", allergen] = (f"{verdict}.", tuple(out) or (f"no trace of {allergen}",))
        found["without", allergen] = (f"To make {name} without {allergen}, {advice}.", tuple(swaps) or ("as it is",))
    return found


def answers_zh(recipe: Recipe, name: str, method: str, goes_with: str) -> dict[tuple[str, str], tuple]:
    """The same in Chinese, for the kinds in DISH_ZH."""
    needs = {times: [measure_zh(times * amount, unit, item) for amount, unit, item in recipe.items] for times in (1, 2)}
    days = f"{recipe.keeps.split()[0]}天"
    found = {
        ("recipe", ""): (f"做{name}需要{'、'.join(needs[1])}。{method}。", tuple(needs[1])),
        ("keeps", ""): (f"{name}密封冷藏可以放{days}。", (days,)),
        ("with", ""): (f"{name}适合配{goes_with}。", (goes_with,)),
        ("double", ""): (f"双份{name}需要{'、'.join(needs[2])}。", tuple(needs[2])),
    }
    for allergen, (allergen_zh, _) in pantry.ALLERGENS.items():
        out = replacements(recipe, allergen)
        swaps = [f"用{pantry.REPLACE[item][1]}代替{pantry.ITEMS_ZH[item]}" for item in out]
        advice = "，".join(swaps) or "可以照原样做"
        found["without", allergen] = (f"不放{allergen_zh}做{name}：{advice}。", tuple(swaps) or ("照原样",))
    return found


# ---- everything that can be asked ----------------------------------------------------------------------------------


def fill(phrasings: str, **values: str) -> tuple[list[str], list[str]]:
    """Phrasings of a template with its slots filled: (for training, held out)."""
    train, test = split(phrasings)
    return [text.format(**values) for text in train], [text.format(**values) for text in test]


def dish_entries(dish: str, x: str, found: dict, templates: dict, allergen_name) -> tuple[list[Entry], list[Entry]]:
    """Entries about one dish: those that name it, and the follow-ups that do not."""
    entries: tuple[list[Entry], list[Entry]] = ([], [])
    for (kind, allergen), (reply, facts) in found.items():
        for follow_up in (0, 1):
            phrasings = fill(templates[kind][follow_up], x=x, a=allergen_name(allergen))
            entries[follow_up].append(Entry(kind, phrasings, reply, facts, dish))
    return entries


@cache
def knowledge(language: str) -> tuple[dict[str, list[list[Entry]]], dict[str, list[Entry]]]:
    """("en" or "zh") -> groups of entries that start a subject, and the follow-ups of each dish."""
    groups: dict[str, list[list[Entry]]] = {"dish": []}
    follow_ups: dict[str, list[Entry]] = {}
    if language == "zh":
        for dish, name, method, goes_with in rows(pantry.RECIPES_ZH):
            found = answers_zh(recipes()[dish], name, method, goes_with)
            named, follow_ups[dish] = dish_entries(
                dish, name, found, phrases.DISH_ZH, lambda a: a and pantry.ALLERGENS[a][0]
            )
            groups["dish"].append(named)
        groups["talk"] = [talk_entries(pantry.TALK_ZH)]
        return groups, follow_ups
    for dish, recipe in recipes().items():
        named, follow_ups[dish] = dish_entries(dish, dish, answers(recipe), phrases.DISH, lambda a: a)
        groups["dish"].append(named)
    groups["talk"] = [talk_entries(pantry.TALK)]
    groups["facts"] = [fact_entries()]
    groups["outside"] = [outside_entries()]
    return groups, follow_ups


def talk_entries(table: str) -> list[Entry]:
    return [
        Entry("talk", split(asked), reply, tuple(fact.strip() for fact in facts.split(",")))
        for facts, reply, asked in rows(table)
    ]


def fact_entries() -> list[Entry]:
    """Substitutes, words explained, cooking times and measures."""
    made = []
    for kind, table, asked, reply in (
        ("substitute", pantry.SUBSTITUTES, phrases.SUBSTITUTE, "Instead of {x}, take {answer}."),
        ("glossary", pantry.GLOSSARY, phrases.GLOSSARY, "{x} is {answer}."),
        ("time", pantry.TIMES, phrases.TIMES, "{answer}."),
        ("measure", pantry.MEASURES, phrases.MEASURES, "{x} is {answer}."),
    ):
        for x, answer, *facts in rows(table):
            text = reply.format(x=x, answer=answer)
            keys = tuple(fact.strip() for fact in (facts[0] if facts else answer).split(","))
            made.append(Entry(kind, fill(asked, x=x), text[0].upper() + text[1:], keys))
    return made


def outside_entries() -> list[Entry]:
    """Subjects to be refused. The held-out phrasings also ask about subjects never seen in training."""
    seen, unseen = ([x.strip() for x in part.split(";")] for part in pantry.OUTSIDE)
    made = []
    for i, x in enumerate(seen):
        held_out = fill(phrases.OUTSIDE, x=unseen[i % len(unseen)])[1]
        reply = "I only know about the kitchen, so I cannot help with that. Ask me about a sauce instead."
        made.append(
            Entry("outside", (fill(phrases.OUTSIDE, x=x)[0], held_out), reply, ("only know about the kitchen",))
        )
    return made


# ---- what users state and ask back ---------------------------------------------------------------------------------


def is_held_out(value: str) -> bool:
    """One name, number or list in eight belongs to the test split, whichever it is decided by its checksum."""
    return zlib.crc32(value.encode()) % 8 == 0


def make_name(rng: random.Random) -> str:
    """A name: a common one, or two or three syllables that nobody may be called; now and then a family name too."""
    name = rng.choice(COMMON_NAMES) if rng.random() < 0.3 else make_word(rng)
    return f"{name} {make_word(rng)}" if rng.random() < 0.15 else name


def make_word(rng: random.Random) -> str:
    syllables = (
        rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") + rng.choice(["", "", "", "n", "r", "l", "s"])
        for _ in range(rng.choice([2, 2, 3]))
    )
    return "".join(syllables).capitalize()


def make_name_zh(rng: random.Random) -> str:
    given = "明华丽伟芳军敏静强磊洋艳勇杰娟涛超秀霞平刚桂英玉兰红梅春雪晨阳"
    return rng.choice("王李张刘陈杨黄赵周吴徐孙马朱胡林郭何高罗") + "".join(rng.sample(given, rng.choice([1, 2])))


def make_digits(fewest: int, most: int):
    """A maker of numbers of so many digits. Lengths vary, or a short number is learned whole and never copied."""

    def make(rng: random.Random) -> str:
        count = rng.randint(fewest, most)
        return str(rng.randrange(10 ** (count - 1), 10**count))

    return make


def make_list(rng: random.Random) -> str:
    return listing(rng.sample([x.strip() for x in pantry.GROCERIES.split(";")], rng.randint(3, 5)))


MAKERS = {
    "name": make_name, "sister": make_name, "shop": make_name, "order": make_digits(4, 7), "phone": make_digits(7, 10),
    "code": make_digits(3, 6), "table": make_digits(1, 3), "guests": make_digits(1, 3), "list": make_list,
    "amount": lambda rng: f"{rng.randrange(5, 200) * 5} g of {rng.choice(AMOUNT_ITEMS)}",
}  # fmt: skip
MAKERS_ZH = {"name": make_name_zh, "order": make_digits(4, 7)}
COMMON_NAMES = (
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Maria Noah Olga Paul Rosa Sam Tom Uma Vera Will Zoe Alice "
    "Bruno Carl Dora Elena Frank Gina Hugo Iris James Karen Laura Max Nina Oscar Petra Robert Sara Theo Victor Wendy Yusuf "
    "Amir Bella Chen Diego Eva Fatima George Hana Ivan Julia Kofi Lina Marco Nadia Omar Priya Ravi Sofia Tara Jo Mei Lucas"
).split()
AMOUNT_ITEMS = ["flour", "sugar", "butter", "rice", "chocolate", "cheese", "salt", "honey"]


def make_value(rng: random.Random, kind: str, test: bool, language: str = "en") -> str:
    """A value to be recalled that belongs to the split."""
    make = (MAKERS_ZH if language == "zh" else MAKERS)[kind]
    while is_held_out(value := make(rng)) != test:
        pass
    return value


@cache
def recall_phrasings(language: str, kind: str) -> tuple[tuple[list[str], list[str]], ...]:
    """(statements, questions) of a kind, each (for training, held out); the general forms are for training only."""
    zh = language == "zh"
    names, stated, asked, *_ = (phrases.RECALL_ZH if zh else phrases.RECALL)[kind]
    slot = f"[{'|'.join(name.strip() for name in names.split(';'))}]"
    general = (phrases.STATED_ZH, phrases.ASKED_ZH) if zh else (phrases.STATED, phrases.ASKED)
    found = []
    for special, forms in zip((stated, asked), general, strict=True):
        train, held_out = split(special)
        if kind != "amount":  # what is left in a kitchen has no one name
            train = train + [form.replace("{n}", slot) for part in split(forms) for form in part]
        found.append((train, held_out))
    return tuple(found)


def state(rng: random.Random, kind: str, value: str, test: bool, language: str = "en") -> Turn:
    """The user states a value; the reply does not repeat it, so that the distance to it is what it seems."""
    text = draw(rng, rng.choice(recall_phrasings(language, kind)[0][test])).format(v=value)
    return Turn(text[0].upper() + text[1:], rng.choice(phrases.NOTED_ZH if language == "zh" else phrases.NOTED))


def both(first: Turn, second: Turn, language: str) -> Turn:
    """Two statements in one message."""
    joined = f"{first.user.rstrip('.')} and {second.user[0].lower()}{second.user[1:]}"
    return Turn(first.user + second.user if language == "zh" else joined, second.reply, kind="state")


def recall(rng: random.Random, kind: str, value: str | None, test: bool, language: str = "en") -> Turn:
    """The user asks for a value stated earlier (or never: value None)."""
    *_, told, untold = (phrases.RECALL_ZH if language == "zh" else phrases.RECALL)[kind]
    item = value.split(" of ")[1] if value and kind == "amount" else rng.choice(AMOUNT_ITEMS)
    question = draw(rng, rng.choice(recall_phrasings(language, kind)[1][test])).format(i=item)
    question = question[0].upper() + question[1:]
    if value is None:
        return Turn(question, untold.format(i=item), kind="untold")
    return Turn(question, told.format(v=value), (value,), kind="recall")


# ---- conversations -------------------------------------------------------------------------------------------------


def dress(rng: random.Random, text: str, language: str) -> str:
    """A question as people type it: some greet, some drop capitals, stops and little words, or put some in.

    Without this the model learns the phrasings by heart, and fails on those it has not seen.
    """
    if language == "zh":
        text = rng.choice(phrases.BEFORE_ZH) + text if rng.random() < 0.2 else text
        return text.rstrip("？。") if rng.random() < 0.2 else text
    if rng.random() < 0.35:
        text = " ".join(shuffled_little(rng, text.split(" ")))
    if rng.random() < 0.15:
        text = rng.choice(phrases.BEFORE) + text
    if rng.random() < 0.1:
        text += rng.choice(phrases.AFTER)
    if rng.random() < 0.15:
        text = text[0].lower() + text[1:]
    return text.rstrip("?.") if rng.random() < 0.2 else text


def shuffled_little(rng: random.Random, words: list[str]) -> Iterator[str]:
    """The words, each little one kept, left out or joined by another at random."""
    for i, word in enumerate(words):
        little = word.lower() in phrases.LITTLE and i + 1 < len(words)
        if not (little and rng.random() < 0.25):
            yield word
        if rng.random() < 0.04:
            yield rng.choice(phrases.LITTLE)


def subject(rng: random.Random, language: str, test: bool) -> tuple[Turn, str]:
    """A question that needs nothing before it, and the dish it is about (or "")."""
    groups, _ = knowledge(language)
    group = rng.choice([name for name in ("dish", "dish", "dish", "facts", "talk", "outside") if name in groups])
    entries = rng.choice(groups[group])
    entry = rng.choice(entries[:5] if group == "dish" and rng.random() < 0.6 else entries)  # allergens are many
    return entry.ask(rng, test), entry.dish


def conversation(
    rng: random.Random, *, language: str | None = None, with_recall: bool = True, test: bool = False
) -> Iterator[Turn]:
    """An endless conversation in one language ("en", "zh" or drawn); cut it where it is long enough."""
    language = language or ("zh" if rng.random() < 0.15 else "en")
    makers = MAKERS_ZH if language == "zh" else MAKERS
    told: dict[str, str] = {}
    dish, eager = "", rng.random()
    while True:
        untold = [kind for kind in makers if kind not in told]
        draw = rng.random() if with_recall else 1.0
        if untold and draw < (0.5 * eager if len(told) < 4 else 0.05):
            kind = rng.choice(untold)
            told[kind] = make_value(rng, kind, test, language)
            turn = state(rng, kind, told[kind], test, language)
            if rng.random() < 0.2:
                asked, dish = subject(rng, language, test)
                turn = Turn(f"{turn.user} {asked.user}", asked.reply, asked.facts, kind=asked.kind)
            elif len(untold) > 1 and rng.random() < 0.2:
                kind = rng.choice([other for other in untold if other != kind])
                told[kind] = make_value(rng, kind, test, language)
                turn = both(turn, state(rng, kind, told[kind], test, language), language)
        elif told and draw > 0.62 and draw != 1.0:
            kind = rng.choice(list(told))
            turn = recall(rng, kind, told[kind], test, language)
        elif untold and 0.61 < draw < 0.62:
            turn = recall(rng, rng.choice(untold), None, test, language)
        elif dish and rng.random() < 0.5:
            _, follow_ups = knowledge(language)
            entries = follow_ups[dish]
            turn = rng.choice(entries[:5] if rng.random() < 0.5 else entries).ask(rng, test)
        else:
            turn, dish = subject(rng, language, test)
        yield (
            turn
            if test
            else Turn(dress(rng, turn.user, language), opened(rng, turn, language), turn.facts, kind=turn.kind)
        )


def opened(rng: random.Random, turn: Turn, language: str) -> str:
    """Recipes may begin with a courtesy, so that there is something to sample."""
    courteous = language == "en" and turn.kind in ("recipe", "double", "triple")
    return rng.choice(phrases.OPENERS) + turn.reply if courteous else turn.reply


REASONS = (
    "because it wakes up almost any dish; because it is sharp and fresh; because it goes with everything; since it keeps "
    "for weeks; because my family makes it every summer; as it is quick to make; because a little of it is enough"
).split("; ")


def plain_text(rng: random.Random) -> str:
    """A sentence or two outside any conversation."""
    dishes = list(recipes().values())
    made = []
    for _ in range(rng.randint(1, 3)):
        dish = rng.choice(dishes)
        made.append(
            rng.choice(
                [
                    f"My favourite condiment is {rng.choice([dish.name, 'lemon juice', 'mustard'])}, {rng.choice(REASONS)}.",
                    f"My favourite sauce is {dish.name}, {rng.choice(REASONS)}.",
                    f"I like {dish.name} with {dish.goes_with}, {rng.choice(REASONS)}.",
                    f"For {dish.name} you need {listing([measure(*item) for item in dish.items])}.",
                    f"Nothing goes better with {dish.goes_with} than {dish.name}.",
                ]
            )
        )
    return " ".join(made)


# ---- held-out questions --------------------------------------------------------------------------------------------


def held_out_questions(language: str | None = None, per_entry: int = 1, seed: int = 0) -> list[Turn]:
    """Every entry asked in a held-out phrasing; follow-ups come with the turn that names their dish."""
    rng, asked = random.Random(seed), []
    for lang in [language] if language else ["en", "zh"]:
        groups, follow_ups = knowledge(lang)
        entries = [entry for group in groups.values() for part in group for entry in part]
        asked += [entry.ask(rng, True) for entry in entries for _ in range(per_entry)]
        first = {part[0].dish: part[0] for part in groups["dish"]}
        for dish, entries in follow_ups.items():
            for entry in entries:
                turn, opening = entry.ask(rng, True), first[dish].ask(rng, True)
                asked.append(Turn(turn.user, turn.reply, turn.facts, (opening,), turn.kind))
    return asked


def recall_case(rng: random.Random, kind: str, language: str, fillers: int) -> Turn:
    """A held-out value stated with two of other kinds around it, `fillers` other turns, then the question for it.

    With the same rng state, more fillers only lengthen the same case.
    """
    makers = MAKERS_ZH if language == "zh" else MAKERS
    others = [other for other in makers if other != kind]
    kinds = [kind, *rng.sample(others, min(2, len(others)))]
    rng.shuffle(kinds)
    values = {k: make_value(rng, k, True, language) for k in kinds}
    turns = [state(rng, k, values[k], True, language) for k in kinds]
    asked = recall(rng, kind, values[kind], True, language)
    turns += islice(conversation(rng, language=language, with_recall=False, test=True), fillers)
    return Turn(asked.user, asked.reply, asked.facts, tuple(turns), "recall")
