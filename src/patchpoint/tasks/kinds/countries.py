"""Facts about countries from two tables that agree: the packages countryinfo and babel (Unicode CLDR)."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from patchpoint.errors import FactError

RELATIONS = ("capital", "country", "continent", "language", "currency", "demonym")
"""What is said of a subject; `country` says of a capital which country it is the capital of."""


@dataclass(frozen=True)
class CountryFact:
    """One fact: the `relation` of `subject` is `attribute`.

    `definite`: text calls the subject "the ...". Raises FactError where a part is missing or unknown.
    """

    relation: str
    subject: str
    attribute: str
    definite: bool = False

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise FactError(f"no relation {self.relation!r}; known: {', '.join(RELATIONS)}")
        for name, value in (("subject", self.subject), ("attribute", self.attribute)):
            if not value or value != value.strip():
                raise FactError(f"{name} {value!r} of a {self.relation} must be text without space around it")


@dataclass(frozen=True)
class Country:
    """A country in both tables: countryinfo's row, and babel's names of its currency and official languages."""

    code: str
    name: str
    row: Mapping[str, Any]
    currencies: tuple[str, ...]
    languages: tuple[str, ...]


_STATES = """
    AD AE AF AG AL AM AO AR AT AU AZ BA BB BD BE BF BG BH BI BJ BN BO BR BS BT BW BY BZ CA CD CF CG CH CI CL CM CN CO
    CR CU CV CY CZ DE DJ DK DM DO DZ EC EE EG ER ES ET FI FJ FM FR GA GB GD GE GH GM GN GQ GR GT GW GY HN HR HT HU ID
    IE IL IN IQ IR IS IT JM JO JP KE KG KH KI KM KN KP KR KW KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MG MH MK
    ML MM MN MR MT MU MV MW MX MY MZ NA NE NG NI NL NO NP NR NZ OM PA PE PG PH PK PL PT PW PY QA RO RS RU RW SA SB SC
    SD SE SG SI SK SL SM SN SO SR SS ST SV SY SZ TD TG TH TJ TL TM TN TO TR TT TV TW TZ UA UG US UY UZ VC VE VN VU WS
    YE ZA ZM ZW
"""
STATES = tuple(_STATES.split())
"""ISO 3166 codes: the members of the United Nations and Taiwan. Territories of other states are left out."""

_WITH_ARTICLE = "AE BS CD CF CG CZ DO FM GB GM KM MH MV NL PH SB SC US"
_DEFINITE = frozenset(_WITH_ARTICLE.split())
_NAMES = {"BS": "Bahamas", "GM": "Gambia", "MK": "North Macedonia", "MM": "Myanmar", "SZ": "Eswatini"}
_CAPITALS = {"US": "Washington"}

_DOUBTFUL: Mapping[str, frozenset[str]] = {
    relation: frozenset(codes.split())
    for relation, codes in {
        # Two seats, or a seat that is disputed or unnamed: BO IL LK NR SZ YE ZA. Moved, or to be moved by law, since
        # the table was made: BI GQ ID KZ. Two spellings or two places in other tables: AG KI PW.
        "capital": "AG BI BO GQ ID IL KI KZ LK NR PW SZ YE ZA",
        # On two continents, or counted to another one by other tables; AU is one itself.
        "continent": "AM AU AZ CY EG GE ID KZ RU TL TR",
        # Changed since the table was made: BF ET ML NE. Others are official as well: IQ MK. Several names: BD CN MV.
        "language": "BD BF CN ET IQ MK ML MV NE",
        # The euro since 2026: BG. A name with a letter that is written in several ways: TO.
        "currency": "BG TO",
        # Nouns that no adjective is, rare or outdated spellings, or one half of the people.
        "demonym": "AR BF BW CV DJ EC GW IS KG KI KM KN KZ LI LS LU MV NZ SA SB SI SM SR ST SZ TJ TT UZ VU",
    }.items()
}


def facts_of(country: Country) -> Iterator[CountryFact]:
    """All that both tables say of a country, in the order of RELATIONS."""
    definite = country.code in _DEFINITE
    for relation in RELATIONS:
        if relation == "country":
            found = None if definite else _attribute("capital", country)
            if found:
                yield CountryFact(relation, found, country.name)
            continue
        found = _attribute(relation, country)
        if found:
            yield CountryFact(relation, country.name, found, definite)


@cache
def country_facts() -> tuple[CountryFact, ...]:
    """Every fact, relation by relation, in the alphabetical order of the countries.

    Left out are: what the two tables, or other tables and the two, disagree on; what has several answers (two
    official languages or currencies, a capital of two countries); a capital that is told by the country's name.
    """
    found = [fact for country in _countries() for fact in facts_of(country)]
    asked = Counter((fact.relation, fact.subject) for fact in found)
    return tuple(
        fact
        for relation in RELATIONS
        for fact in found
        if fact.relation == relation and asked[relation, fact.subject] == 1
    )


def _countries() -> list[Country]:
    from babel import Locale
    from babel.languages import get_official_languages
    from babel.numbers import get_territory_currencies
    from countryinfo import CountryInfo

    english = Locale("en")
    found = []
    for code in STATES:
        row = CountryInfo(code).info()
        currencies = tuple(str(english.currencies[name]) for name in get_territory_currencies(code))
        languages = dict.fromkeys(name.split("_")[0] for name in get_official_languages(code))
        row = {
            **row,
            "currencies": [str(english.currencies.get(name, name)) for name in row["currencies"]],
            "languages": [str(english.languages.get(name, name)) for name in row["languages"]],
        }
        spoken = tuple(str(english.languages.get(name, name)) for name in languages)
        found.append(Country(code, _NAMES.get(code, row["name"]), row, currencies, spoken))
    return sorted(found, key=lambda country: country.name)


def _attribute(relation: str, country: Country) -> str | None:
    return None if country.code in _DOUBTFUL[relation] else _ATTRIBUTES[relation](country)


def _capital(country: Country) -> str | None:
    capital = _CAPITALS.get(country.code, country.row["capital"])
    told = capital in country.name or country.name in capital
    return None if told else str(capital)


def _continent(country: Country) -> str:
    region = str(country.row["region"])
    if region != "Americas":
        return region
    return "South America" if country.row["intermediateregion"] == "South America" else "North America"


def _language(country: Country) -> str | None:
    """The only language that babel calls official, where countryinfo names it first."""
    return country.languages[0] if list(country.languages) == country.row["languages"][:1] else None


def _currency(country: Country) -> str | None:
    """The unit of the only currency, where countryinfo has a currency of that unit too."""
    units = [_unit(name) for name in country.currencies]
    return units[0] if len(units) == 1 and units[0] in map(_unit, country.row["currencies"]) else None


def _unit(currency: str) -> str:
    """`Japanese Yen` -> `yen`; an old currency's years are no part of its name."""
    return currency.partition(" (")[0].split()[-1].lower()


def _demonym(country: Country) -> str | None:
    """One word, or the two of a country of two words."""
    demonym = str(country.row["demonym"] or "")
    return demonym if demonym and not set(demonym) & set(",-/") else None


_ATTRIBUTES: Mapping[str, Callable[[Country], str | None]] = {
    "capital": _capital,
    "continent": _continent,
    "language": _language,
    "currency": _currency,
    "demonym": _demonym,
}
