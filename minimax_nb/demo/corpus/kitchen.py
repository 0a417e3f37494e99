"""What the kitchen assistant can be asked: the tables of pantry.py and phrases.toml, made into questions with answers.

groups, follow_ups = knowledge("en", test=False)
groups["dish"][0][0].ask(random.Random(0), test=False)      # Turn("How do I make mayonnaise?", "For ...")
"""

import random
from dataclasses import dataclass
from functools import cache

from . import pantry
from .phrases import Phrasings, draw, fill, phrases, split

OUTSIDE_REPLY = "I only know about the kitchen, so I cannot help with that. Ask me about a sauce instead."
UNKNOWN_REPLY = "I do not know how to make {x}. Ask me about a sauce or a condiment."


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
    phrasings: Phrasings
    reply: str
    facts: tuple[str, ...]
    dish: str = ""

    def ask(self, rng: random.Random, test: bool) -> Turn:
        return Turn(draw(rng, rng.choice(self.phrasings[test])), self.reply, self.facts, kind=self.kind)


Answer = tuple[str, tuple[str, ...]]  # a reply and its key facts


@dataclass(frozen=True)
class Recipe:
    """`items` holds (amount, unit, item); the unit is empty where the item itself is counted."""

    name: str
    items: tuple[tuple[int, str, str], ...]
    method: str
    keeps: str
    goes_with: str


def rows(table: str) -> list[list[str]]:
    """A table of the pantry as stripped cells."""
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


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


def ruled_out(recipe: Recipe, allergen: str) -> list[str]:
    """The items of a recipe that an allergen rules out."""
    return [item for _, _, item in recipe.items if item in pantry.ALLERGENS[allergen][1]]


def answers(recipe: Recipe) -> dict[tuple[str, str], Answer]:
    """(kind, allergen or "") -> the answer, for one recipe."""
    name = recipe.name

    def needs(times: int) -> list[str]:
        return [measure(times * amount, unit, item) for amount, unit, item in recipe.items]

    found: dict[tuple[str, str], Answer] = {
        ("recipe", ""): (f"For {name} you need {listing(needs(1))}. {recipe.method}.", tuple(needs(1))),
        ("keeps", ""): (f"Kept cold in a closed jar, {name} is good for {recipe.keeps}.", (recipe.keeps,)),
        ("with", ""): (f"Serve {name} with {recipe.goes_with}.", (recipe.goes_with,)),
        ("double", ""): (f"For twice as much {name} you need {listing(needs(2))}.", tuple(needs(2))),
        ("triple", ""): (f"For three times as much {name} you need {listing(needs(3))}.", tuple(needs(3))),
    }
    for allergen in pantry.ALLERGENS:
        out = ruled_out(recipe, allergen)
        swaps = [f"{pantry.REPLACE[item][0]} instead of {item}" for item in out]
        verdict = f"Take care, {name} contains {listing(out)}" if out else f"There is no trace of {allergen} in {name}"
        advice = f"use {listing(swaps)}" if out else "you can make it as it is"
        found["contains", allergen] = (f"{verdict}.", tuple(out) or (f"no trace of {allergen}",))
        found["without", allergen] = (f"To make {name} without {allergen}, {advice}.", tuple(swaps) or ("as it is",))
    return found


def answers_zh(recipe: Recipe, name: str, method: str, goes_with: str) -> dict[tuple[str, str], Answer]:
    """The same in Chinese, but for what a dish contains and three times the amount."""
    needs = {times: [measure_zh(times * amount, unit, item) for amount, unit, item in recipe.items] for times in (1, 2)}
    days = f"{recipe.keeps.split()[0]}天"
    found: dict[tuple[str, str], Answer] = {
        ("recipe", ""): (f"做{name}需要{'、'.join(needs[1])}。{method}。", tuple(needs[1])),
        ("keeps", ""): (f"{name}密封冷藏可以放{days}。", (days,)),
        ("with", ""): (f"{name}适合配{goes_with}。", (goes_with,)),
        ("double", ""): (f"双份{name}需要{'、'.join(needs[2])}。", tuple(needs[2])),
    }
    for allergen, (allergen_zh, _) in pantry.ALLERGENS.items():
        swaps = [f"用{pantry.REPLACE[item][1]}代替{pantry.ITEMS_ZH[item]}" for item in ruled_out(recipe, allergen)]
        advice = "，".join(swaps) or "可以照原样做"
        found["without", allergen] = (f"不放{allergen_zh}做{name}：{advice}。", tuple(swaps) or ("照原样",))
    return found


def dish_entries(dish: str, x: str, found: dict[tuple[str, str], Answer], language: str) -> list[list[Entry]]:
    """Entries about one dish: those that name it, and the follow-ups that leave it unsaid."""
    entries: list[list[Entry]] = [[], []]
    for (kind, allergen), (reply, facts) in found.items():
        a = pantry.ALLERGENS[allergen][0] if allergen and language == "zh" else allergen
        for form, asked in zip(entries, phrases(language)["dish"][kind].values(), strict=True):
            form.append(Entry(kind, fill(asked, x=x, a=a), reply, facts, dish))
    return entries


@cache
def knowledge(language: str, test: bool) -> tuple[dict[str, list[list[Entry]]], dict[str, list[Entry]]]:
    """("en" or "zh", split) -> groups of entries that start a subject, and the follow-ups of each dish."""
    if language == "zh":
        names = rows(pantry.RECIPES_ZH)
        dishes = {dish: (name, answers_zh(recipes()[dish], name, *rest)) for dish, name, *rest in names}
        groups = {"talk": [talk_entries(pantry.TALK_ZH)]}
    else:
        dishes = {dish: (dish, answers(recipe)) for dish, recipe in recipes().items()}
        groups = {"talk": [talk_entries(pantry.TALK)], "facts": [fact_entries()], "refusals": refusals(test)}
    entries = {dish: dish_entries(dish, x, found, language) for dish, (x, found) in dishes.items()}
    follow_ups = {dish: unnamed for dish, (_, unnamed) in entries.items()}
    return {"dish": [named for named, _ in entries.values()]} | groups, follow_ups


def talk_entries(table: str) -> list[Entry]:
    return [
        Entry("talk", split(asked), reply, tuple(fact.strip() for fact in facts.split(",")))
        for facts, reply, asked in rows(table)
    ]


def fact_entries() -> list[Entry]:
    """Substitutes, words explained, cooking times and measures."""
    made, substitutes = [], {x: [x, *rest] for x, *rest in rows(pantry.SUBSTITUTES)}
    swaps = {x: [x, other] for x, (other, _) in pantry.REPLACE.items()}
    for kind, table, reply in (
        ("substitute", (swaps | substitutes).values(), "Instead of {x}, take {answer}."),
        ("glossary", rows(pantry.GLOSSARY), "{x} is {answer}."),
        ("time", rows(pantry.TIMES), "{answer}."),
        ("measure", rows(pantry.MEASURES), "{x} is {answer}."),
    ):
        for x, answer, *facts in table:
            text = reply.format(x=x, answer=answer)
            keys = tuple(fact.strip() for fact in (facts[0] if facts else answer).split(","))
            asked = fill(phrases("en")["other"][kind], x=x)
            made.append(Entry(kind, asked, text[0].upper() + text[1:], keys))
    return made


def refusals(test: bool) -> list[list[Entry]]:
    """What lies outside the kitchen, and dishes that are not known; the splits share no subject."""
    outside, unknown = phrases("en")["other"]["outside"], phrases("en")["dish"]["recipe"]["named"]
    return [
        strangers("outside", pantry.OUTSIDE[test], outside, OUTSIDE_REPLY, "only know about the kitchen", test),
        strangers("unknown", pantry.UNKNOWN[test], unknown, UNKNOWN_REPLY, "do not know", test),
    ]


def strangers(kind: str, table: str, asked: str, reply: str, fact: str, test: bool) -> list[Entry]:
    """Subjects to be refused. In training two in three are made-up words, for what is strange cannot be listed."""
    words, rng = [x.strip() for x in table.split(";")], random.Random(kind)
    made_up = [] if test else [made_up_word(rng) for _ in range(2 * len(words))]
    return [Entry(kind, fill(asked, x=x), reply.format(x=x), (fact,)) for x in words + made_up]


def made_up_word(rng: random.Random) -> str:
    """Two or three syllables that mean nothing."""
    syllables = (
        rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") + rng.choice(["", "", "", "n", "r", "l", "s"])
        for _ in range(rng.choice([2, 2, 3]))
    )
    return "".join(syllables)
