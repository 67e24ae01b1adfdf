"""a or an: the article belongs to a word that has not been said yet."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from random import Random

from patchpoint.errors import UnknownName
from patchpoint.tasks.case import Case
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.naming import task_name
from patchpoint.tasks.task import Task
from patchpoint.tasks.template import Template

_FRUITS = """
    pear lemon peach plum cherry fig lime mango coconut banana nut walnut palm
    apple orange olive almond apricot avocado acorn
"""
_THINGS = """
    hat book key lamp knife pen chair clock box guitar candle carpet toy map shoe phone
    umbrella axe orange egg envelope arrow engine oven apple apron ornament onion
"""
FRUITS, THINGS = tuple(_FRUITS.split()), tuple(_THINGS.split())
"""Nouns whose article follows from their first letter."""
TEXTS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "climbed": ("I climbed up the", "tree and picked", FRUITS),
    "walked": ("We walked to the", "tree and found", FRUITS),
    "shop": ("I went to the", "shop and bought", THINGS),
}
"""Text before the first noun, text before the article, and the nouns; all of one number of words."""
ARTICLES = ("a", "an")
OTHER: Mapping[str, str] = {"a": "an", "an": "a"}
SHOWN: Mapping[str, tuple[tuple[str, ...], ...]] = {"1": (("a",), ("an",)), "2": (("a", "an"), ("an", "a"))}
"""Articles that the sentences before the last one show, by the number of these sentences."""


def a_an(*, template: str = "all", shots: str | int = 2) -> Task:
    """`I climbed up the pear tree and picked a pear. I climbed up the apple tree and picked` -> ` an`, not ` a`.

    `shots`: whole sentences in front of the last one. 1 is the published form; 2 show one article each, so that
    neither can be had by copying. `template`: climbed (the published one), walked, shop, or all in rotation. Roles:
    `noun1`, `article1`, `noun1#2` (and those with 2) of the sentences in front, and `noun`, the one that decides;
    it is in none of them. The group is the article. Corruption `swapped`: another last noun, with the other
    article. Source: Miller & Neo 2023, "We Found An Neuron in GPT-2". Raises UnknownName.
    """
    if template != "all" and template not in TEXTS:
        raise UnknownName("template of a-an", template, ("all", *TEXTS))
    if str(shots) not in SHOWN:
        raise UnknownName("number of shots of a-an", str(shots), SHOWN)
    chosen = tuple(TEXTS) if template == "all" else (template,)
    return Task(
        name=task_name("a-an", a_an, template=template, shots=shots),
        question="which article has the word that must come next?",
        source="Miller & Neo 2023, LessWrong",
        corruptions=("swapped",),
        cases=partial(_cases, chosen, SHOWN[str(shots)]),
    )


def _cases(
    chosen: Sequence[str], shown: Sequence[tuple[str, ...]], lexicon: Lexicon, _: str, draw: Random
) -> Iterator[Case]:
    templates = [_template(name, len(shown[0])) for name in chosen]
    nouns = {
        name: _by_article(lexicon, name, template) for name, template in zip(chosen, templates, strict=True)
    }
    while all(len(words) > 1 for by_article in nouns.values() for words in by_article.values()):
        for (name, template), articles, article in product(
            zip(chosen, templates, strict=True), shown, ARTICLES
        ):
            drawn = {a: draw.sample(words, 2) for a, words in nouns[name].items()}
            values = {"noun": drawn[article][1]}
            for number, a in enumerate(articles, start=1):
                values |= {f"article{number}": a, f"noun{number}": drawn[a][0]}
            yield Case(
                template=template,
                clean=values,
                corrupt=values | {"noun": drawn[OTHER[article]][1]},
                correct=f" {article}",
                incorrect=f" {OTHER[article]}",
                group=article,
                metadata={"shown": " ".join(articles)},
            )


def _template(name: str, shots: int) -> Template:
    opening, rest, _ = TEXTS[name]
    whole = (f"{opening} {{noun{n}}} {rest} {{article{n}}} {{noun{n}}}. " for n in range(1, shots + 1))
    return Template(name, f"{''.join(whole)}{opening} {{noun}} {rest}")


def _by_article(lexicon: Lexicon, name: str, template: Template) -> dict[str, tuple[str, ...]]:
    """The nouns of a template that fit wherever one stands, by their article."""
    places = [(template, slot) for slot in template.slots if slot.startswith("noun")]
    bare = Template("second place", "X {noun}. X")
    fitting = lexicon.fitting(f"nouns of {name!r}", TEXTS[name][2], [*places, (bare, "noun")])
    return {
        article: tuple(noun for noun in fitting if (noun[0] in "aeiou") == (article == "an"))
        for article in ARTICLES
    }
