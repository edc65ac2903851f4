"""The words and numbers that stand in texts, charts, tables and documents; training sees four fifths of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from zlib import crc32

from phantrol.data.primer.splits import Split

HELD_OUT_OF = 5  # one word of so many is held out for `test_comp`


def _list(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split()))


PEOPLE = _list("""
    Tom Ann Bob Eve Max Kim Leo Mia Sam Zoe Ben Amy Jim Ida Ron Liz Dan Joy Pat Una Tim Eva Roy Ada Kai Meg Abe Fay Gus
    Ivy Hal Jan Ken Lou Ned Ora Pam Rex Sue Ted Val Wes""")
CITIES = _list("""
    Oslo Rome Lima Bonn Cairo Delhi Paris Seoul Tokyo Quito Perth Milan Lyon Bern Riga Kyiv Baku Doha Hanoi Turin Malmo
    Ghent Leeds Porto Nice Graz Brno Kobe Osaka Accra Dakar Tunis Lagos Bath York Cork Derby Basel Essen Minsk Sofia""")
GOODS = _list("""
    Milk Rice Tea Salt Soap Pasta Juice Honey Sugar Flour Beans Jam Oil Nuts Coffee Butter Cream Ham Plums Peas Figs
    Dates Leek Kale Yeast Oats Mint Water Wine Beer Candy Pens Paper Glue Tape""")
COLUMNS = _list("""
    Price Stock Age Points Weight Height Sales Score Visits Goals Wins Days Hours Cost Size Steps Miles Doors Trips Tax
    Load Power""")
TITLES = _list("Sales Visits Points Rain Votes Books Goals Trips Guests Orders Hours Miles Steps Calls Wins Tests")
SERIES = _list("East West North South Spring Summer Autumn Winter Boys Girls Men Women Morning Evening")
NODES = _list("""
    Sun Rain Seed Root Leaf Bud Fruit Soil Cloud River Sea Ice Wind Fire Ash Rock Sand Clay Wood Coal Steam Heat Light
    Plan Test Ship Sell Pack Load Sort Read Save Send Start Stop Wait Check Cook Wash Dry Cut Mix""")
SURNAMES = _list("""
    Hill Wood Lane Fox Moss Reed Stone Cole Dale Ford Gray Hart King Lamb Marsh North Park Rose Shaw Todd Vance Ward
    West Young Banks Cross Frost Glenn Hayes Lowe""")
STREETS = _list("Mill Park Lake Oak Elm Church Bridge King Queen Garden Station School High Long Rose Castle Market")
MONTHS_SHORT = _list("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec")
WORDS = _list("""
    cat car cap can cup cut cow cot hat hut hot hit bat bag bad bed beg big bog bug bus but pan pen pin pot pat pet pit
    man men map mat mud mug net nut not sun son sit set sat ten tin tan top tap tip log leg lip lap lot fan fin fun fit
    fog fig dog dig dot den rat rag rug run ran rid rod road load toad boat goat coat coal goal ball bell bill bull tall
    tell till wall well will hall hill fall fell fill land hand sand band bend send lend lamp camp damp ramp ring king
    wing sing song long lung lake cake make take bake bike like hike mine line fine wine pine pipe wipe ripe rope hope
    home dome door floor flood blood block clock click brick trick truck track crack crowd cloud proud plant plane plate
    slate state stage stone store score scope slope sleep sheep sheet sweet sleet greed greet great treat train brain
    grain drain drink think thick stick stack slack blank bank tank tanks thank house mouse horse nurse purse paper
    later water wafer river liver silver summer hammer winter sister mister master market basket casket ticket pocket
    rocket locket letter better butter button cotton kitten mitten garden golden wooden number member ember amber table
    cable fable apple ample open oven even event seven eleven""")
VOWELS, CONSONANTS = "aeiou", "bdfgklmnprstvz"


@lru_cache(maxsize=65536)
def is_held_out(word: str) -> bool:
    """Return whether only `test_comp` shows and says the word or number."""
    return crc32(word.lower().encode()) % HELD_OUT_OF == 0


@lru_cache(maxsize=64)
def _part(words: tuple[str, ...], held_out: bool) -> tuple[str, ...]:
    return tuple(word for word in words if is_held_out(word) == held_out)


def allowed(words: tuple[str, ...], split: Split) -> tuple[str, ...]:
    """Return the words that the split may show: the held-out ones in `test_comp`, else all the others."""
    return _part(words, split.unseen)


def draw_pseudo_word(rng: random.Random, split: Split) -> str:
    """Return four to six letters, consonants and vowels in turns."""
    while True:
        length = rng.randint(4, 6)
        word = "".join(rng.choice(VOWELS if i % 2 else CONSONANTS) for i in range(length))
        if is_held_out(word) == split.unseen and word not in WORDS:
            return word


def draw_digits(rng: random.Random, split: Split) -> str:
    """Return a number of two to five digits."""
    while True:
        length = rng.randint(2, 5)
        digits = str(rng.randrange(10 ** (length - 1), 10**length))
        if is_held_out(digits) == split.unseen:
            return digits


def edit(rng: random.Random, text: str, split: Split) -> str:
    """Return the text with one character changed for another of its class (vowel, consonant, digit).

    A word of the list becomes its nearest neighbour there, so that an edit cannot be told from a word by its form.
    """
    if text in WORDS:
        return rng.choice(_neighbours(text, split.unseen))
    edited = {text}
    while True:  # nearly always once: a short number may have no neighbour in the split
        edited = {changed for one in sorted(edited) for changed in _edits(one)}
        right = [one for one in sorted(edited) if one != text and is_held_out(one) == split.unseen and one not in WORDS]
        if right:
            return rng.choice(right)


def _edits(text: str) -> Iterator[str]:
    for i, letter in enumerate(text):
        classes = (VOWELS, CONSONANTS, "123456789" if i == 0 else "0123456789")
        letters = next(letters for letters in classes if letter in letters)
        yield from (text[:i] + other + text[i + 1 :] for other in letters if other != letter)


@lru_cache(maxsize=1024)
def _neighbours(word: str, held_out: bool) -> tuple[str, ...]:
    others = [other for other in _part(WORDS, held_out) if other != word]
    least = min(_distance(word, other) for other in others)
    return tuple(other for other in others if _distance(word, other) == least)


def _distance(one: str, other: str) -> int:
    """Return the number of places where two words differ, plus the difference of their lengths."""
    return sum(a != b for a, b in zip(one, other, strict=False)) + 2 * abs(len(one) - len(other))


def money(cents: int) -> str:
    """Return 1250 as "12.50"."""
    return f"{cents // 100}.{cents % 100:02d}"
