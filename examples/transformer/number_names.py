"""English number names and their German ones: cardinals, ordinals and sums of money.

Whether a number is held out depends on the number alone, so one that the test asks for was met in
no form: neither as a cardinal nor as an ordinal nor as the whole units of a sum. Numbers below 100
are never held out: their names are the words that all others are made of.
"""

from __future__ import annotations

import random
import zlib
from enum import StrEnum

from num2words import num2words

from transformer.pairs import Pair, Pairs, draw_pairs

DIGITS = 6  # names go up to 999,999
CURRENCIES = ("EUR", "USD", "GBP")
_SMALL = 100
_HELD_OUT = 10  # one number in so many


class Form(StrEnum):
    """How a number is spoken."""

    CARDINAL = "cardinal"
    ORDINAL = "ordinal"
    CURRENCY = "currency"


def number_names(train: int, asked: int, seed: int) -> Pairs:
    """Draw different pairs to learn from, and to ask for of the numbers held out."""
    return draw_pairs(train, asked, seed, _one)


def held_out(number: int) -> bool:
    """Whether the test alone may ask for a number."""
    return number >= _SMALL and zlib.crc32(str(number).encode()) % _HELD_OUT == 0


def name(number: int, form: Form, rng: random.Random) -> Pair:
    """Name a number in both languages; the cents and the currency of a sum are drawn."""
    if form is not Form.CURRENCY:
        return Pair(*(num2words(number, lang=lang, to=form) for lang in ("en", "de")))
    amount, currency = number + rng.randrange(100) / 100, rng.choice(CURRENCIES)
    return Pair(
        *(num2words(amount, lang=lang, to=form, currency=currency) for lang in ("en", "de"))
    )


def _one(rng: random.Random) -> tuple[Pair, bool]:
    """Draw a number, each count of its digits as often as the others, and a form."""
    number = rng.randrange(10 ** rng.randint(1, DIGITS))
    form = rng.choice(tuple(Form))
    return name(number, form, rng), held_out(number)
