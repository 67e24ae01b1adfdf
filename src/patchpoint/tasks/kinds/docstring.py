"""Docstrings of functions: which argument is described next."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from random import Random
from string import ascii_uppercase

from patchpoint.errors import InvalidArgument
from patchpoint.tasks.case import Case
from patchpoint.tasks.lexicon import Lexicon
from patchpoint.tasks.naming import task_name
from patchpoint.tasks.task import Task
from patchpoint.tasks.template import Template

from .words import NOUNS

MOST_ARGUMENTS = 8
TITLE = ("title1", "title2", "title3")
"""Slots of the words in the docstring's first line."""

_ARGUMENTS = """
    amount area array base block bytes cache cell code color column command config content context copy count data
    date default depth edge error event factor field file files filter first flag form format frame function group
    height host image index input items job kind label last length level limit line link list load local lock map
    mask matrix message method mode model module name next node number object offset option order output page path
    pattern place plan point port prefix price process query range rate reader record region report request result
    root route row rule sample scale scope section server shape size source space speed stack start state status
    step stop store stream string style sum table target task test text time title token total tree type unit user
    value version view volume weight width window words
"""
ARGUMENTS = tuple(_ARGUMENTS.split())
"""Names of functions and of arguments."""

Values = dict[str, str]


def _slots(n_arguments: int, part: str) -> tuple[str, ...]:
    return tuple(f"{letter}_{part}" for letter in ascii_uppercase[:n_arguments])


def _random_def(arguments: int, documented: int, new: Sequence[str]) -> Values:
    return dict(zip(_slots(arguments, "def"), new, strict=False))


def _random_doc(arguments: int, documented: int, new: Sequence[str]) -> Values:
    return dict(zip(_slots(documented, "doc"), new[arguments:], strict=False))


def _random_both(arguments: int, documented: int, new: Sequence[str]) -> Values:
    return _random_def(arguments, documented, new) | _random_doc(arguments, documented, new)


def _random_answer(arguments: int, documented: int, new: Sequence[str]) -> Values:
    return {_slots(arguments, "def")[documented]: new[0]}


CORRUPTIONS: Mapping[str, Callable[[int, int, Sequence[str]], Values]] = {
    "random-def-doc": _random_both,
    "random-doc": _random_doc,
    "random-def": _random_def,
    "random-answer": _random_answer,
}
"""New values of the slots, from as many new words as there are arguments and documented ones."""


def docstring(*, arguments: int = 4, documented: int = 2) -> Task:
    r"""`def port(self, load, size, files, last):` and a docstring that ends `:param` -> ` files`.

    The whole is
    `def port(self, load, size, files, last):\n    \"\"\"oil column piece\n\n    :param load: crime population\n`
    `    :param size: unit dark\n    :param`. Roles: `A_def`, `B_def`, ... the arguments in the definition, `A_doc`,
    ... in the docstring, `method`, `title1`-`3`, and `A_text1`, `A_text2`, ... the descriptions. The answer is the
    first argument without a description; incorrect is the last one, and every other one is wrong as well.
    `arguments`: how many the function has (3 to 8); `documented`: how many of them are described (at least 1, at
    most two fewer). Corruptions put other words in place of arguments: `random-def-doc` of all, in the definition
    and in the docstring, so that neither tells of the other; `random-doc` and `random-def` in one of the two;
    `random-answer` of the answer in the definition. Raises InvalidArgument. Source: Heimersheim and Janiak 2023,
    "A circuit for Python docstrings in a 4-layer attention-only transformer"; the first corruption as in Conmy et
    al. 2023 (arXiv 2304.14997).
    """
    for name, number in (("arguments", arguments), ("documented", documented)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise InvalidArgument(f"{name} must be a whole number, got {number!r}")
    if not 3 <= arguments <= MOST_ARGUMENTS:
        raise InvalidArgument(f"arguments must be 3 to {MOST_ARGUMENTS}, got {arguments}")
    if not 1 <= documented <= arguments - 2:
        raise InvalidArgument(
            f"documented must be 1 to {arguments - 2} of {arguments} arguments, got {documented}; at least two "
            "without a description are needed, the answer and an incorrect one"
        )
    return Task(
        name=task_name("docstring", docstring, arguments=arguments, documented=documented),
        question="which argument of the function does its docstring describe next?",
        source="Heimersheim and Janiak 2023, A circuit for Python docstrings",
        corruptions=tuple(CORRUPTIONS),
        cases=partial(_cases, arguments, documented),
    )


def _template(arguments: int, documented: int) -> Template:
    defined = "".join(f", {{{slot}}}" for slot in _slots(arguments, "def"))
    title = " ".join(f"{{{slot}}}" for slot in TITLE)
    described = "".join(
        f"    :param {{{letter}_doc}}: {{{letter}_text1}} {{{letter}_text2}}\n"
        for letter in ascii_uppercase[:documented]
    )
    return Template("docstring", f'def {{method}}(self{defined}):\n    """{title}\n\n{described}    :param')


def _cases(
    arguments: int, documented: int, lexicon: Lexicon, corruption: str, draw: Random
) -> Iterator[Case]:
    template = _template(arguments, documented)
    defs, docs = _slots(arguments, "def"), _slots(documented, "doc")
    texts = [slot for slot in template.slots if slot not in (*defs, *docs, "method")]
    names = lexicon.fitting("arguments", ARGUMENTS, [(template, slot) for slot in (*defs, *docs, "method")])
    nouns = lexicon.fitting(
        "words of the descriptions", map(str.lower, NOUNS), [(template, slot) for slot in texts]
    )
    n_names = 1 + 2 * arguments + documented
    while len(names) >= n_names and len(nouns) >= len(texts) + n_names:
        method, *others = draw.sample(names, n_names)
        own, new = others[:arguments], others[arguments:]
        words = draw.sample([noun for noun in nouns if noun not in (method, *others)], len(texts))
        clean = {
            "method": method,
            **dict(zip(texts, words, strict=True)),
            **dict(zip(defs, own, strict=True)),
            **dict(zip(docs, own, strict=False)),
        }
        yield Case(
            template=template,
            clean=clean,
            corrupt=clean | CORRUPTIONS[corruption](arguments, documented, new),
            correct=f" {own[documented]}",
            incorrect=f" {own[-1]}",
            also_incorrect=tuple(f" {name}" for number, name in enumerate(own[:-1]) if number != documented),
        )
