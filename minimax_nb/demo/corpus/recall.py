"""What users state and ask back: names, numbers, amounts and lists, to be repeated to the letter.

The two splits share no value: whether a value is held out is decided by its checksum.
"""

import random
import zlib
from functools import cache

from . import pantry
from .kitchen import Turn, listing, made_up_word
from .phrases import Phrasings, draw, phrases, split

COMMON_NAMES = """
Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Maria Noah Olga Paul Rosa Sam Tom Uma Vera Will Zoe Alice
Bruno Carl Dora Elena Frank Gina Hugo Iris James Karen Laura Max Nina Oscar Petra Robert Sara Theo Victor Wendy Yusuf
Amir Bella Chen Diego Eva Fatima George Hana Ivan Julia Kofi Lina Marco Nadia Omar Priya Ravi Sofia Tara Jo Mei Lucas
""".split()
SURNAMES_ZH = "王李张刘陈杨黄赵周吴徐孙马朱胡林郭何高罗"
GIVEN_ZH = "明华丽伟芳军敏静强磊洋艳勇杰娟涛超秀霞平刚桂英玉兰红梅春雪晨阳"
AMOUNT_ITEMS = ["flour", "sugar", "butter", "rice", "chocolate", "cheese", "salt", "honey"]


def make_name(rng: random.Random) -> str:
    """A common name, or one that nobody may have; now and then with a family name."""
    name = rng.choice(COMMON_NAMES) if rng.random() < 0.3 else made_up_word(rng).capitalize()
    return f"{name} {made_up_word(rng).capitalize()}" if rng.random() < 0.15 else name


def make_name_zh(rng: random.Random) -> str:
    return rng.choice(SURNAMES_ZH) + "".join(rng.sample(GIVEN_ZH, rng.choice([1, 2])))


def make_digits(fewest: int, most: int):
    """A maker of numbers of so many digits. Lengths vary, or a short number is learned whole and never copied."""

    def make(rng: random.Random) -> str:
        count = rng.randint(fewest, most)
        return str(rng.randrange(10 ** (count - 1), 10**count))

    return make


def make_amount(rng: random.Random) -> str:
    return f"{rng.randrange(5, 200) * 5} g of {rng.choice(AMOUNT_ITEMS)}"


def make_list(rng: random.Random) -> str:
    return listing(rng.sample([x.strip() for x in pantry.GROCERIES.split(";")], rng.randint(3, 5)))


MAKERS = {
    "en": {
        "name": make_name,
        "sister": make_name,
        "shop": make_name,
        "order": make_digits(4, 7),
        "phone": make_digits(7, 10),
        "code": make_digits(3, 6),
        "table": make_digits(1, 3),
        "guests": make_digits(1, 3),
        "list": make_list,
        "amount": make_amount,
    },
    "zh": {"name": make_name_zh, "order": make_digits(4, 7)},
}


def is_held_out(value: str) -> bool:
    """One name, number or list in eight belongs to the test split."""
    return zlib.crc32(value.encode()) % 8 == 0


def make_value(rng: random.Random, kind: str, test: bool, language: str) -> str:
    """A value to be recalled that belongs to the split."""
    while is_held_out(value := MAKERS[language][kind](rng)) != test:
        pass
    return value


@cache
def phrasings(language: str, kind: str, form: str) -> Phrasings:
    """The statements (form "stated") or questions ("asked") of a kind; the general forms are for training only."""
    table = phrases(language)["recall"][kind]
    train, held_out = split(table[form])
    if kind != "amount":  # what is left in a kitchen has no one name
        slot = f"[{'|'.join(table['names'])}]"
        general = [text for part in split(phrases(language)["any"][form]) for text in part]
        train = train + [text.replace("{n}", slot) for text in general]
    return train, held_out


def state(rng: random.Random, kind: str, value: str, test: bool, language: str) -> Turn:
    """The user states a value; the reply does not repeat it, so that the distance to it is what it seems."""
    text = draw(rng, rng.choice(phrasings(language, kind, "stated")[test])).format(v=value)
    return Turn(text[0].upper() + text[1:], rng.choice(phrases(language)["habits"]["noted"]))


def both(first: Turn, second: Turn, language: str) -> Turn:
    """Two statements in one message."""
    joined = f"{first.user.rstrip('.')} and {second.user[0].lower()}{second.user[1:]}"
    return Turn(first.user + second.user if language == "zh" else joined, second.reply, kind="state")


def recall(rng: random.Random, kind: str, value: str | None, test: bool, language: str) -> Turn:
    """The user asks for a value stated earlier (or never: value None)."""
    table = phrases(language)["recall"][kind]
    item = value.split(" of ")[1] if value and kind == "amount" else rng.choice(AMOUNT_ITEMS)
    question = draw(rng, rng.choice(phrasings(language, kind, "asked")[test])).format(i=item)
    question = question[0].upper() + question[1:]
    if value is None:
        return Turn(question, table["untold"].format(i=item), kind="untold")
    return Turn(question, table["told"].format(v=value), (value,), kind="recall")
