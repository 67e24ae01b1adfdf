"""The members of the sequences, in their order: numerals, number words, months, days, ordinals, letters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from string import ascii_uppercase

from .words import MONTHS

Range = tuple[int, int]


@dataclass(frozen=True)
class Vocabulary:
    """Words in order; the value of a word is its place, from 1.

    `cyclic`: the first word follows the last. `preposition`: what stands before a member in a sentence. `usual`:
    order -> first and last value of its windows; other orders have all the words.
    """

    name: str
    words: tuple[str, ...]
    cyclic: bool = False
    preposition: str = "in"
    usual: Mapping[str, Range] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(set(self.words)) == len(self.words)
        assert all(1 <= first < last <= len(self.words) for first, last in self.usual.values())

    def __len__(self) -> int:
        return len(self.words)

    def range(self, order: str) -> Range:
        """First and last value that windows of an order have where nothing else is asked for."""
        return self.usual.get(order, (1, len(self)))


_UNITS = """
    one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
"""
UNITS = tuple(_UNITS.split())
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
TENS = tuple(_TENS.split())
_ORDINALS = """
    first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth
    fifteenth sixteenth seventeenth eighteenth nineteenth twentieth
"""
_SPANISH_MONTHS = "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre"
_WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"


def number_word(value: int) -> str:
    """An integer from 1 to 999 in words: `forty-two`, `one hundred seven`."""
    assert 1 <= value <= 999
    hundreds, rest = divmod(value, 100)
    words = [f"{UNITS[hundreds - 1]} hundred"] if hundreds else []
    if 0 < rest < 20:
        words.append(UNITS[rest - 1])
    elif rest:
        tens, unit = divmod(rest, 10)
        words.append(TENS[tens - 2] + (f"-{UNITS[unit - 1]}" if unit else ""))
    return " ".join(words)


_TWELVE = {"+1": (1, 12), "-1": (1, 12)}

NUMERALS = Vocabulary(
    "numerals",
    tuple(str(value) for value in range(1, 2001)),
    usual={
        **_TWELVE,
        "+2": (10, 29),
        "+3": (10, 33),
        "+10": (10, 120),
        "+100": (100, 1200),
        "x2": (1, 200),
    },
)
NUMWORDS = Vocabulary(
    "numwords",
    tuple(number_word(value) for value in range(1, 1000)),
    usual={**_TWELVE, "+2": (1, 20), "+3": (1, 20), "+10": (10, 100), "+100": (100, 900), "x2": (1, 200)},
)
ENGLISH_MONTHS = Vocabulary("months", MONTHS)
SPANISH_MONTHS = Vocabulary("spanish-months", tuple(_SPANISH_MONTHS.split()))
WEEKDAYS = Vocabulary(
    "days",
    tuple(_WEEKDAYS.split()),
    cyclic=True,
    preposition="on",
)
ORDINALS = Vocabulary("ordinals", tuple(_ORDINALS.split()), preposition="on the", usual=_TWELVE)
LETTERS = Vocabulary("letters", tuple(ascii_uppercase), usual=_TWELVE)
