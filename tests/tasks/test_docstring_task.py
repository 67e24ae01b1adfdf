"""Docstrings: the next argument without a description, and what each twin hides."""

import ast
import re
from itertools import islice
from random import Random

import pytest

from patchpoint.errors import InvalidArgument
from patchpoint.tasks.kinds.docstring import CORRUPTIONS, docstring
from task_tokenizers import EveryWordFits
from words import word_tokenizer

SIZES = [(4, 2), (3, 1), (6, 3), (8, 6), (5, 1)]


def cases(n=30, corruption="random-def-doc", seed=0, **settings):
    found = docstring(**settings).cases(EveryWordFits(word_tokenizer()), corruption, Random(seed))
    return list(islice(found, n))


def texts(case):
    return tuple(case.template.fill(values).text for values in (case.clean, case.corrupt))


def parts(text):
    """Arguments as Python reads them, and described ones as the docstring says them."""
    function = ast.parse(text + '"""\n').body[0]
    own = [argument.arg for argument in function.args.args]
    assert own[0] == "self"
    return own[1:], re.findall(r":param (\w+):", ast.get_docstring(function))


@pytest.mark.parametrize(("arguments", "documented"), SIZES)
def test_the_answer_is_the_first_argument_without_a_description(arguments, documented):
    for case in cases(arguments=arguments, documented=documented):
        defined, described = parts(texts(case)[0])
        assert len(set(defined)) == arguments
        assert described == defined[:documented]
        assert case.correct == f" {defined[documented]}"
        assert case.incorrect == f" {defined[-1]}"
        wrong = {case.incorrect, *case.also_incorrect}
        assert wrong == {f" {name}" for name in defined} - {case.correct}


def test_the_text_is_the_published_one():
    assert cases(1)[0].template.text == (
        "def {method}(self, {A_def}, {B_def}, {C_def}, {D_def}):\n"
        '    """{title1} {title2} {title3}\n\n'
        "    :param {A_doc}: {A_text1} {A_text2}\n"
        "    :param {B_doc}: {B_text1} {B_text2}\n"
        "    :param"
    )


def test_no_word_is_said_twice_but_the_described_arguments():
    for case in cases(300):
        words = [word for word in re.findall(r"\w+", texts(case)[0]) if word not in ("def", "self", "param")]
        assert sorted(word for word in set(words) if words.count(word) > 1) == sorted(
            (case.clean["A_def"], case.clean["B_def"])
        )


@pytest.mark.parametrize(
    ("corruption", "def_kept", "doc_kept"),
    [
        ("random-def-doc", [], []),
        ("random-doc", [0, 1, 2, 3], []),
        ("random-def", [], [0, 1]),
        ("random-answer", [0, 1, 3], [0, 1]),
    ],
)
def test_each_twin_exchanges_its_own_part_only(corruption, def_kept, doc_kept):
    for case in cases(corruption=corruption):
        (defined, described), (new_defined, new_described) = map(parts, texts(case))
        assert [i for i in range(4) if defined[i] == new_defined[i]] == def_kept
        assert [i for i in range(2) if described[i] == new_described[i]] == doc_kept
        new = (set(new_defined) | set(new_described)) - {*defined}
        assert new
        assert not new & set(case.clean.values())
        same = {slot for slot in case.template.slots if not slot.endswith(("_def", "_doc"))}
        assert all(case.clean[slot] == case.corrupt[slot] for slot in same)
        if corruption == "random-def-doc":
            assert not set(new_defined) & set(new_described)


def test_every_corruption_is_tested_above():
    assert set(CORRUPTIONS) == {"random-def-doc", "random-doc", "random-def", "random-answer"}
    assert next(iter(CORRUPTIONS)) == "random-def-doc"


def test_a_seed_gives_its_own_cases():
    assert cases(seed=1) == cases(seed=1)
    assert cases(seed=1) != cases(seed=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arguments": 2}, "arguments must be 3 to 8, got 2"),
        ({"arguments": 9}, "arguments must be 3 to 8, got 9"),
        ({"arguments": "4"}, "arguments must be a whole number, got '4'"),
        ({"documented": 3}, r"documented must be 1 to 2 of 4 arguments, got 3; at least two"),
        ({"documented": 0}, "documented must be 1 to 2"),
        ({"documented": True}, "documented must be a whole number, got True"),
    ],
)
def test_sizes_without_a_right_and_a_wrong_answer_are_refused(settings, message):
    with pytest.raises(InvalidArgument, match=message):
        docstring(**settings)


def test_the_name_tells_what_is_not_the_default():
    assert docstring().name == "docstring"
    assert docstring(arguments=6, documented=3).name == "docstring arguments=6 documented=3"
