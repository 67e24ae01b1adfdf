"""Facts from public tables: true ones, enough of them, and prompts that ask for them in every kind of tokenizer."""

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from random import Random

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from made_tokenizers import KINDS
from patchpoint.errors import FactError, UnknownName
from patchpoint.models.tokens import encode, tokens_between
from patchpoint.tasks.facts import read_facts
from patchpoint.tasks.kinds.countries import RELATIONS, STATES, Country, CountryFact, country_facts, facts_of
from patchpoint.tasks.kinds.country_facts import (
    FEWEST,
    WORDINGS,
    fact_file_rows,
    facts,
    templates,
    write_fact_file,
)
from patchpoint.tasks.lexicon import Lexicon


def one_word():
    """Words and marks as tokens of their own, all of them unknown."""
    backend = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


MADE = {"one word": one_word, **{kind: KINDS[kind] for kind in ("byte-level", "metaspace")}}


def known(relation):
    return {fact.subject: fact.attribute for fact in country_facts() if fact.relation == relation}


def cases_of(tokenizer, relation="all", seed=0):
    return list(facts(relation=relation).cases(Lexicon(tokenizer), "subject", Random(seed)))


def test_there_are_enough_facts_each_asked_once():
    found = country_facts()
    counts = Counter(fact.relation for fact in found)
    assert len(found) >= 900
    assert list(counts) == list(RELATIONS)
    assert min(counts.values()) >= 100
    assert len({(fact.relation, fact.subject) for fact in found}) == len(found)


TRUE = {
    "capital": {"France": "Paris", "Australia": "Canberra", "United States": "Washington", "Peru": "Lima"},
    "country": {"Nairobi": "Kenya", "Oslo": "Norway", "Hanoi": "Vietnam"},
    "continent": {"Chad": "Africa", "Chile": "South America", "Cuba": "North America", "Fiji": "Oceania"},
    "language": {"Brazil": "Portuguese", "Austria": "German", "Egypt": "Arabic", "Iceland": "Icelandic"},
    "currency": {"Japan": "yen", "Spain": "euro", "United Kingdom": "pound", "India": "rupee"},
    "demonym": {"Netherlands": "Dutch", "Myanmar": "Burmese", "Philippines": "Filipino"},
}
DOUBTFUL = {
    "capital": [
        "Bolivia",
        "South Africa",
        "Israel",
        "Kazakhstan",
        "Burundi",
        "Mexico",
        "Singapore",
        "Tunisia",
    ],
    "country": ["Sucre", "Pretoria", "Mexico City", "London", "Nur-Sultan"],
    "continent": ["Russia", "Turkey", "Egypt", "Australia"],
    "language": ["Switzerland", "Canada", "Belgium", "South Africa", "Ecuador", "Mali"],
    "currency": ["Bulgaria", "Croatia", "Panama", "Zimbabwe", "Bhutan"],
    "demonym": ["New Zealand", "Botswana", "Antigua and Barbuda", "Iceland"],
}


@pytest.mark.parametrize("relation", RELATIONS)
def test_what_is_known_is_told_and_what_is_doubtful_is_not(relation):
    told = known(relation)
    assert TRUE[relation].items() <= told.items()
    assert not set(DOUBTFUL[relation]) & set(told)


def test_no_capital_is_told_by_its_country_and_no_name_needs_cutting():
    assert not [1 for a, b in known("capital").items() if a in b or b in a]
    for fact in country_facts():
        assert not set(fact.subject + fact.attribute) & set(",()&[]/")
    assert {fact.subject for fact in country_facts() if fact.relation == "continent" and fact.definite} >= {
        "United States",
        "Netherlands",
        "Bahamas",
    }


MADE_UP = Country(
    "ZZ",
    "Zedland",
    {
        "capital": "Zed",
        "region": "Europe",
        "intermediateregion": "",
        "demonym": "Zedish",
        "languages": ["Zeddic"],
        "currencies": ["Zed Crown"],
    },
    ("Zed Crown (1990-2001)",),
    ("Zeddic",),
)


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({}, {"capital", "country"}),
        ({"languages": ("Zeddic", "Latin")}, {"capital", "country", "language"}),
        ({"languages": ("Latin",)}, {"capital", "country", "language"}),
        ({"currencies": ("Zed Crown", "Euro")}, {"capital", "country", "currency"}),
        ({"currencies": ("Euro",)}, {"capital", "country", "currency"}),
        ({"name": "Xyland"}, set()),
        ({"name": "Xyland", "row": {**MADE_UP.row, "demonym": "Xy,Zed"}}, {"demonym"}),
        ({"name": "Xyland", "code": "GB"}, {"country"}),
        ({"name": "Xyland", "code": "ZA"}, {"capital", "country"}),
    ],
)
def test_tables_that_disagree_or_have_several_answers_give_no_fact(change, lost):
    found = [fact.relation for fact in facts_of(dataclasses.replace(MADE_UP, **change))]
    assert found == [relation for relation in RELATIONS if relation not in lost]


def test_states_are_countries_of_both_tables():
    assert len(set(STATES)) == len(STATES) == 194


@pytest.mark.parametrize(
    "change", [{"relation": "river"}, {"subject": ""}, {"subject": " Peru"}, {"attribute": ""}]
)
def test_a_country_fact_is_valid_from_birth(change):
    with pytest.raises(FactError):
        CountryFact(**{"relation": "capital", "subject": "Peru", "attribute": "Lima", **change})


def test_the_file_of_facts_is_one_that_trace_reads(tmp_path):
    path = tmp_path / "facts.jsonl"
    assert write_fact_file(path) == len(country_facts())
    found = read_facts(path)
    assert found.problems == ()
    assert [(f.relation_id, f.subject, f.attribute) for f in found.facts] == [
        (f.relation, f.subject, f.attribute) for f in country_facts()
    ]
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == fact_file_rows()
    prompts = {(fact.relation_id, fact.subject): fact.prompt for fact in found.facts}
    assert prompts["capital", "France"] == "The capital of France is the city of"
    assert prompts["capital", "United States"] == "The capital of the United States is the city of"
    with pytest.raises(FactError, match="cannot write"):
        write_fact_file(tmp_path / "absent" / "facts.jsonl")


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("relation", ["all", "country"])
def test_prompts_ask_for_a_fact_and_the_twin_for_another_of_its_relation(kind, relation):
    tokenizer = MADE[kind]()
    found = cases_of(tokenizer, relation)
    texts, tokens = [], {}
    assert len(found) >= FEWEST
    for case in found:
        table, subject, other = known(case.group), case.clean["subject"], case.corrupt["subject"]
        assert case.template.text.replace("the {subject}", "{subject}") in WORDINGS[case.group]
        assert case.correct == f" {table[subject]}"
        assert case.incorrect == f" {table[other]}" != case.correct
        assert case.metadata == {"relation": case.group, "attribute": table[subject]}
        clean, corrupt = (case.template.fill(values) for values in (case.clean, case.corrupt))
        texts.append(clean.text)
        for filled in (clean, corrupt):
            encoded = encode(tokenizer, filled.text)
            start, stop = tokens_between(encoded, filled.text, *filled.places["subject"])
            tokens.setdefault(case.template.text, set()).add((len(encoded.ids), start, stop))
    assert len(set(texts)) == len(texts)
    assert all(len(spans) == 1 for spans in tokens.values())
    assert len({length for spans in tokens.values() for length, _, _ in spans}) == 1


def test_relations_come_in_turn():
    found = cases_of(one_word())
    groups = [case.group for case in found[: 20 * len(RELATIONS)]]
    assert Counter(groups) == dict.fromkeys(RELATIONS, 20)
    assert {case.group for case in cases_of(one_word(), "currency")} == {"currency"}
    first = [case for case in found[: 20 * len(RELATIONS)] if case.group == "currency"]
    assert len({case.template.text for case in first}) > 1
    subjects = [case.clean["subject"] for case in first]
    assert subjects != sorted(subjects)


def test_the_seed_makes_the_prompts():
    tokenizer = one_word()
    one, two, other = (cases_of(tokenizer, seed=seed) for seed in (0, 0, 1))
    assert one == two
    assert one != other
    assert {case.template.fill(case.clean).text for case in one} == {
        case.template.fill(case.clean).text for case in other
    }


def test_subjects_with_an_article_have_it_in_every_wording():
    for fact in country_facts():
        for template in templates(fact):
            assert ("the {subject}" in template.text) == fact.definite


def test_names_and_unknown_relations():
    assert facts().name == "facts"
    assert facts(relation="capital").name == "facts relation=capital"
    assert facts().corruptions == ("subject",)
    with pytest.raises(UnknownName, match=r"unknown relation 'capitol'; did you mean capital"):
        facts(relation="capitol")


def test_the_tables_are_not_read_before_facts_are_asked_for():
    code = (
        "import sys; from patchpoint.tasks.kinds import country_facts; country_facts.facts(); "
        "assert not {'babel', 'countryinfo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
