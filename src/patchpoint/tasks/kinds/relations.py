"""Pairs of words that stand in a relation, for analogies."""

from collections.abc import Mapping

_TEXTS = {
    "capital": """
        Paris-France Rome-Italy London-England Madrid-Spain Berlin-Germany Tokyo-Japan Moscow-Russia Cairo-Egypt
        Athens-Greece Vienna-Austria Dublin-Ireland Oslo-Norway Lisbon-Portugal Stockholm-Sweden Warsaw-Poland
        Beijing-China Havana-Cuba Lima-Peru Baghdad-Iraq Tehran-Iran Budapest-Hungary Prague-Czechia Kiev-Ukraine
        Helsinki-Finland Copenhagen-Denmark Brussels-Belgium Ankara-Turkey Nairobi-Kenya
    """,
    "language": """
        France-French Italy-Italian Spain-Spanish Germany-German Japan-Japanese Russia-Russian China-Chinese
        Greece-Greek Portugal-Portuguese Sweden-Swedish Poland-Polish Turkey-Turkish Norway-Norwegian Denmark-Danish
        Hungary-Hungarian Finland-Finnish
    """,
    "woman": """
        king-queen man-woman boy-girl father-mother brother-sister son-daughter uncle-aunt husband-wife
        prince-princess actor-actress waiter-waitress nephew-niece grandfather-grandmother
    """,
    "opposite": """
        hot-cold big-small up-down fast-slow old-young rich-poor black-white left-right good-bad light-dark high-low
        happy-sad early-late strong-weak wet-dry true-false
    """,
    "plural": """
        cat-cats dog-dogs house-houses child-children man-men tree-trees foot-feet mouse-mice tooth-teeth book-books
        city-cities
    """,
    "past": """
        go-went see-saw eat-ate take-took give-gave write-wrote drink-drank sing-sang speak-spoke come-came know-knew
        make-made
    """,
    "comparative": """
        big-bigger small-smaller fast-faster slow-slower old-older young-younger tall-taller short-shorter
        strong-stronger weak-weaker
    """,
    "young": "dog-puppy cat-kitten cow-calf sheep-lamb horse-foal bear-cub duck-duckling pig-piglet",
    "colour": "grass-green snow-white blood-red coal-black sky-blue lemon-yellow",
}

Pair = tuple[str, str]


def _pair(text: str) -> Pair:
    source, target = text.split("-")
    return source, target


RELATIONS: Mapping[str, tuple[Pair, ...]] = {
    name: tuple(map(_pair, text.split())) for name, text in _TEXTS.items()
}
"""By relation: a word and the one that stands in the relation to it. No word has two partners in a relation."""
