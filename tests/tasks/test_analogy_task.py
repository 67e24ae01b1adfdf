"""Analogies: families, rows of roles and pairs of words, read from their texts."""

import re
from collections import Counter
from itertools import islice
from random import Random

import pytest

from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tasks.kinds.analogy import PETS, TEMPLATES, analogy
from patchpoint.tasks.kinds.relations import RELATIONS
from task_tokenizers import EveryWordFits
from words import word_tokenizer


def cases(corruption, n=60, seed=0, **settings):
    found = analogy(**settings).cases(EveryWordFits(word_tokenizer()), corruption, Random(seed))
    return list(islice(found, n))


def texts(case):
    return tuple(case.template.fill(values).text for values in (case.clean, case.corrupt))


def members(text):
    """Who is what, of both families."""
    return [re.findall(r"(\w+) is a (\w+)\.", family) for family in text.split("In another family")]


def pet(family):
    (found,) = [name for name, kind in family if kind != "human"]
    return found


def test_the_family_is_the_one_of_the_exploration():
    case = cases("order", 1)[0]
    names = {"person1": "John", "person2": "Mary", "pet1": "Fido", "animal1": "dog", "person3": "Adam"}
    second = {"second": "Rachel", "kind2": "human", "third": "Pebbles", "kind3": "cat"}
    assert case.template.fill(names | second).text == (
        "In a family: John is a human. Mary is a human. Fido is a dog. The pet of this family is Fido. In another "
        "family, Adam is a human. Rachel is a human. Pebbles is a cat. The pet of this family is"
    )


@pytest.mark.parametrize("corruption", ["order", "swapped"])
def test_the_answer_is_the_pet_of_the_second_family(corruption):
    for case in cases(corruption):
        text = texts(case)[0]
        first, second = members(text)
        assert f"The pet of this family is {pet(first)}." in text
        assert case.correct == f" {pet(second)}"
        assert case.incorrect == f" {second[1][0]}"
        assert [kind == "human" for _, kind in second] == [True, True, False]
        names = [name for family in (first, second) for name, _ in family]
        assert len(set(names)) == 6
        assert first[2][1] != second[2][1]


def test_the_order_twin_says_the_same_in_another_order():
    for case in cases("order"):
        clean, twin = (members(text) for text in texts(case))
        assert clean[0] == twin[0]
        assert twin[1] == [clean[1][0], clean[1][2], clean[1][1]]
        assert case.correct == f" {pet(twin[1])}"


def test_the_swapped_family_has_the_other_pet_at_the_same_place():
    for case in cases("swapped"):
        clean, twin = (members(text) for text in texts(case))
        assert clean[0] == twin[0]
        assert [name for name, _ in clean[1]] == [name for name, _ in twin[1]]
        assert case.incorrect == f" {pet(twin[1])}"


def test_nobody_has_the_name_of_a_pet():
    class NamedAsPets(EveryWordFits):
        def fitting(self, what, words, places, *, n_tokens=1):
            return PETS[:6] if what == "names" else tuple(words)

    found = analogy().cases(NamedAsPets(word_tokenizer()), "order", Random(0))
    for case in islice(found, 100):
        assert not {case.clean["pet1"], case.clean["third"]} & set(PETS[:6])


def test_roles_alternate_and_so_does_their_twin_with_the_other_answer():
    for case in cases("swapped", template="roles"):
        for text, answer in zip(texts(case), (case.correct, case.incorrect), strict=True):
            *row, (last, open_role) = re.findall(r"(\w+) is a(?: (\w+)\.)?", text)
            assert len({*(name for name, _ in row), last}) == 4
            first, second, third = (role for _, role in row)
            assert first == third != second
            assert (open_role, answer) == ("", f" {second}")
        assert case.incorrect == f" {case.clean['role1']}"


def partner(relation, word):
    return dict(RELATIONS[relation])[word]


def analogy_of(text):
    return re.fullmatch(r"(\w+) is to (\w+) as (\w+) is to", text).groups()


@pytest.mark.parametrize("corruption", ["swapped", "relation"])
def test_both_pairs_stand_in_the_relation_of_the_group(corruption):
    for case in cases(corruption, template="pairs"):
        source, target, word = analogy_of(texts(case)[0])
        assert source != word
        assert partner(case.group, source) == target
        assert case.correct == f" {partner(case.group, word)}"
        wrong = [other for other, goal in RELATIONS[case.group] if f" {goal}" == case.incorrect]
        assert wrong
        assert wrong != [word]


def test_the_swapped_pair_asks_for_the_incorrect_answer():
    for case in cases("swapped", template="pairs"):
        clean, twin = (analogy_of(text) for text in texts(case))
        assert clean[:2] == twin[:2]
        assert case.incorrect == f" {partner(case.group, twin[2])}"


def test_the_other_relation_is_another_one():
    for case in cases("relation", template="pairs"):
        clean, twin = (analogy_of(text) for text in texts(case))
        assert clean[2] == twin[2]
        assert dict(RELATIONS[case.group]).get(twin[0]) != twin[1]
        assert any((twin[0], twin[1]) in pairs for pairs in RELATIONS.values())


def test_relations_take_turns():
    found = Counter(case.group for case in cases("swapped", len(RELATIONS) * 5, template="pairs"))
    assert found == dict.fromkeys(RELATIONS, 5)
    assert {case.group for case in cases("swapped", template="pairs", relation="capital")} == {"capital"}


def test_relations_are_many_and_unambiguous():
    assert sum(map(len, RELATIONS.values())) >= 60
    for pairs in RELATIONS.values():
        assert len(dict(pairs)) == len(pairs) == len({target for _, target in pairs})


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_seed_gives_its_own_cases(template):
    assert cases("swapped", seed=1, template=template) == cases("swapped", seed=1, template=template)
    assert cases("swapped", seed=1, template=template) != cases("swapped", seed=2, template=template)


def test_every_corruption_is_tested_above():
    found = {name: analogy(template=name).corruptions for name in TEMPLATES}
    assert found == {
        "family": ("order", "swapped"),
        "roles": ("swapped",),
        "pairs": ("swapped", "relation"),
    }


def test_wrong_settings_are_refused_and_names_tell_the_right_ones():
    with pytest.raises(UnknownName, match="did you mean family"):
        analogy(template="famly")
    with pytest.raises(UnknownName, match="did you mean capital"):
        analogy(template="pairs", relation="capitals")
    with pytest.raises(
        InvalidArgument, match="template family has no relations; leave relation='capital' out"
    ):
        analogy(relation="capital")
    assert analogy().name == "analogy"
    assert analogy(template="pairs", relation="woman").name == "analogy template=pairs relation=woman"
