"""Experiments with groups, levels, sentences in front, or repetitions, against the hook loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import reference_tracing
from laboratory import ids_of, laboratory
from patchpoint import experiments
from patchpoint.errors import PatchpointError
from patchpoint.experiments.catalogue import EXPERIMENTS, experiment_named
from patchpoint.tracing import ROLES
from patchpoint.tracing.roles import role_of

SENTENCES = (("w60 w61 w62", "w60 w70 w62"), ("w63 w64", "w71 w64"))
TRUE, FALSE = ("w60 w61 w62", "w63 w64"), ("w60 w70 w62", "w71 w64")


def numbers(grids):
    return tuple(grid.number for grid in grids)


def test_the_catalogue_names_every_experiment():
    assert set(EXPERIMENTS) == {
        *("gaussian", "reverse", "wrong-direction", "vary-noise", "random-embedding", "shuffle", "prefix"),
        *("fact-position", "repeat", "fresh-noise", "rome", "severed", "calibrate", "token-swap"),
        *("compare-models", "short-long"),
    }
    for name, experiment in EXPERIMENTS.items():
        assert getattr(experiments, name.replace("-", "_")) is experiment.run
        assert experiment.question.endswith(("?", "."))
    with pytest.raises(PatchpointError, match="did you mean gaussian"):
        experiment_named("gausian")


def test_vary_noise(lab):
    levels = (2.0, 0.5)
    found = experiments.vary_noise(lab.model, lab.facts, levels=levels, limit=3, settings=lab.settings)
    assert list(found.conditions) == ["std 0.5", "std 2"]
    curves = {"p_corrupt": [], "mean effect": [], "largest effect": []}
    for level, name in ((0.5, "std 0.5"), (2.0, "std 2")):
        grids = found.grids(name)
        assert numbers(grids) == (1, 2, 3)
        effects = [lab.same(grid, lab.noise(grid.number, level), samples=3) for grid in grids]
        curves["p_corrupt"].append(np.mean([grid.p_corrupt for grid in grids]))
        inside = [e[lab.span(grid.number)[0] :].mean() for e, grid in zip(effects, grids, strict=True)]
        curves["mean effect"].append(np.mean(inside))
        curves["largest effect"].append(np.mean([effect.max() for effect in effects]))
    for name, want in curves.items():
        curve = found.findings[name]
        assert curve["std"].values.tolist() == [0.5, 2.0]
        np.testing.assert_allclose(curve["mean"], want, atol=1e-6)
        assert (curve["low"] <= curve["mean"]).all()
        assert (curve["mean"] <= curve["high"]).all()


@pytest.mark.parametrize("levels", [(), (0.0,), (1.0, 1.0), (-1.0,), (float("inf"),), (float("nan"),)])
def test_levels_that_are_no_noise_are_refused(lab, levels):
    with pytest.raises(PatchpointError, match="levels must be different positive"):
        experiments.vary_noise(lab.model, lab.facts, levels=levels, settings=lab.settings)


def test_prefix(lab):
    found = experiments.prefix(lab.model, lab.facts, sentences=SENTENCES, limit=3, settings=lab.settings)
    prefix, false = " ".join(TRUE), " ".join(FALSE)
    for condition, direction in (("true into false", "restore"), ("false into true", "corrupt")):
        grids = found.grids(condition)
        assert numbers(grids) == (1, 2, 3)
        effects = {}
        for grid in grids:
            assert dict(grid.spans) == {"fact 1": (0, 3), "fact 2": (3, 5)}
            disturbance = lab.words(f"{false} {lab.fact(grid.number).prompt}")
            effects[grid.number] = lab.same(grid, disturbance, prefix, direction=direction)
        same_places(lab, found.findings[condition], effects, prefix)


def same_places(lab, found, effects, prefix):
    """The finding by place against plain loops: five tokens in front, those up to the subject, then the roles."""
    text = found["text"].values.tolist()
    assert [word.strip() for word in text[:5]] == prefix.split()
    assert text[5:] == ["tokens before the subject", *ROLES]
    for place in range(5):
        np.testing.assert_allclose(
            found["mean"][place], np.mean([e[place] for e in effects.values()], axis=0), atol=1e-6
        )
    for place, role in enumerate(text[5:], start=5):
        means = []
        for number, effect in effects.items():
            start, stop = lab.span(number, prefix)
            subject = [start <= i < stop for i in range(len(effect))]
            wanted = None if place == 5 else role
            rows = [effect[i] for i in range(5, len(effect)) if role_of(i, subject) == wanted]
            means += [np.mean(rows, axis=0)] if rows else []
        assert (found["count"][place] == len(means)).all()
        if means:
            np.testing.assert_allclose(found["mean"][place], np.mean(means, axis=0), atol=1e-6)


def test_fact_position(lab):
    found = experiments.fact_position(
        lab.model, lab.facts, sentences=SENTENCES, limit=3, settings=lab.settings
    )
    stacks = {"alone 1": [1], "alone 2": [2], "order 1-2": [1, 2], "order 2-1": [2, 1]}
    assert list(found.conditions) == list(stacks)
    sums = {}
    for condition, order in stacks.items():
        true, false = (" ".join(SENTENCES[i - 1][side] for i in order) for side in (0, 1))
        lengths = [len(SENTENCES[i - 1][0].split()) for i in order]
        edges = np.cumsum([0, *lengths])
        for grid in found.grids(condition):
            effect = lab.same(grid, lab.words(f"{false} {lab.fact(grid.number).prompt}"), true)
            for position, sentence in enumerate(order):
                part = effect[edges[position] : edges[position + 1]].sum(0)
                sums.setdefault((len(order), sentence, position + 1), []).append(part)
    alone, stacked, each = (found.findings[name]["mean"] for name in ("alone", "stacked", "each stacked"))
    for sentence in (1, 2):
        np.testing.assert_allclose(alone.sel(sentence=sentence), np.mean(sums[1, sentence, 1], 0), atol=1e-5)
        for position in (1, 2):
            want = np.mean(sums[2, sentence, position], 0)
            np.testing.assert_allclose(each.sel(sentence=sentence, position=position), want, atol=1e-5)
    for position in (1, 2):
        want = np.mean(sums[2, 1, position] + sums[2, 2, position], 0)
        np.testing.assert_allclose(stacked.sel(position=position), want, atol=1e-5)


def test_a_sentence_that_is_part_of_another_keeps_its_own_place(lab):
    sentences = (("w60 w61 w62", "w60 w70 w62"), ("w61 w62", "w71 w62"))
    found = experiments.prefix(lab.model, lab.facts, sentences=sentences, limit=1, settings=lab.settings)
    for condition in found.conditions:
        assert dict(found.grids(condition)[0].spans) == {"fact 1": (0, 3), "fact 2": (3, 5)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"orders": [[1]]}, r"\[1\] must name each of the sentences 1 to 2 once"),
        ({"orders": [[1, 1]]}, "once"),
        ({"sentences": ()}, "at least one pair"),
        ({"sentences": (("w60", " "),)}, "neither of them empty"),
        ({"sentences": (("w60", "w60"),)}, "must all be different"),
        ({"sentences": (("w60", "w61 w62"),)}, "no fact could be traced.*tokens"),
    ],
)
def test_sentences_and_orders_that_do_not_fit_are_refused(lab, arguments, message):
    arguments = {"sentences": SENTENCES, "settings": lab.settings, **arguments}
    with pytest.raises(PatchpointError, match=message):
        experiments.fact_position(lab.model, lab.facts, **arguments)


def test_a_single_sentence_is_at_the_first_position_only(lab):
    one = SENTENCES[:1]
    found = experiments.fact_position(lab.model, lab.facts, sentences=one, limit=2, settings=lab.settings)
    sums = [grid.effect[:3].sum(0) for grid in found.grids("alone 1")]
    np.testing.assert_allclose(found.findings["alone"]["mean"].sel(sentence=1), np.mean(sums, 0), atol=1e-6)


def test_facts_whose_subject_a_sentence_names_are_skipped(lab):
    sentences = (("w9 w13 w60", "w9 w13 w61"),)
    found = experiments.prefix(lab.model, lab.facts, sentences=sentences, settings=lab.settings)
    for condition in found.conditions:
        assert numbers(found.grids(condition)) == (2, 3, 4, 5)


def test_repeat(lab):
    found = experiments.repeat(lab.model, lab.facts, fact=2, seeds=4, settings=lab.settings)
    ids, answer = ids_of(lab.fact(2).prompt), ids_of(lab.fact(2).attribute)[0]
    grids = found.grids("repeated")
    assert len(grids) == 4
    effects = []
    for k, grid in enumerate(grids):
        noise = lab.noise(2, samples=1, seed=4 + k)
        effect, _, corrupt = reference_tracing.heatmap(lab.model.hf, ids, noise, answer)
        np.testing.assert_allclose(grid.effect, effect, atol=1e-6)
        assert grid.p_corrupt == pytest.approx(corrupt, abs=1e-6)
        effects.append(effect)
    spread = found.findings["spread"]
    np.testing.assert_allclose(spread["mean"], np.mean(effects, 0), atol=1e-6)
    np.testing.assert_allclose(spread["std"], np.std(effects, 0, ddof=1), atol=1e-6)
    np.testing.assert_allclose(spread["low"], np.quantile(effects, 0.025, axis=0), atol=1e-6)
    np.testing.assert_allclose(spread["high"], np.quantile(effects, 0.975, axis=0), atol=1e-6)
    assert float(spread["std"].max()) > 1e-4


def test_repeat_takes_the_first_fact_that_can_be_traced(lab):
    found = experiments.repeat(lab.model, lab.facts, seeds=2, settings=lab.settings)
    assert found.grids("repeated")[0].prompt == lab.fact(1).prompt
    for arguments, message in (({"seeds": 1}, "at least 2"), ({"fact": 77}, "no usable fact 77")):
        with pytest.raises(PatchpointError, match=message):
            experiments.repeat(lab.model, lab.facts, settings=lab.settings, **arguments)


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_calibrate(lab, kind):
    answered = lab.answered()
    found = experiments.calibrate(
        lab.model, answered.facts, ratio=0.5, kind=kind, limit=4, settings=replace(lab.settings, samples=3)
    )
    assert found.answer["reached"] == pytest.approx(0.5, rel=0.02)
    level = found.answer["level"]
    clean, corrupt = zip(*(_probabilities(answered, n, kind, level) for n in (1, 2, 3, 4)), strict=True)
    assert found.answer["reached"] == pytest.approx(np.mean(corrupt) / np.mean(clean), abs=1e-5)
    assert found.answer["low"] <= found.answer["reached"] <= found.answer["high"]
    assert found.answer["facts"] == 4
    std = level if kind == "gaussian" else level / 3**0.5
    key = "in standard deviations of the subjects' embeddings"
    assert found.answer[key] == pytest.approx(std / answered.unit(), rel=1e-4)
    curve = found.findings["ratio"]
    for level in curve["level"].values[:2]:
        clean, corrupt = zip(*(_probabilities(answered, n, kind, level) for n in (1, 2, 3, 4)), strict=True)
        assert float(curve["mean"].sel(level=level)) == pytest.approx(
            np.mean(corrupt) / np.mean(clean), abs=1e-5
        )


def _probabilities(lab, number, kind, level):
    fact = lab.fact(number)
    ids, answer = ids_of(fact.prompt), ids_of(fact.attribute)[0]
    noise = lab.noise(number, level)
    if kind == "uniform":
        start, stop = lab.span(number)
        drawn = torch.rand(3, stop - start, lab.model.d_embed, generator=torch.Generator().manual_seed(4))
        noise = [(0, "embed", range(start, stop), None, "add", (2 * drawn - 1) * level)]
    corrupt = reference_tracing.probability(lab.model.hf, ids, answer, noise, 3)
    return float(reference_tracing.probability(lab.model.hf, ids, answer)), float(corrupt.mean())


def test_calibration_that_cannot_be_is_refused(lab):
    for arguments, message in (
        ({"kind": "gausian"}, "did you mean gaussian"),
        ({"ratio": 0.0}, "between 0 and 1"),
        ({"settings": replace(lab.settings, answer="predicted")}, "answers no fact"),
    ):
        with pytest.raises(PatchpointError, match=message):
            experiments.calibrate(lab.model, lab.facts, **{"settings": lab.settings, **arguments})


def test_short_long(lab):
    found = experiments.short_long(lab.model, lab.facts, limit=2, settings=lab.settings)
    assert numbers(found.grids("shortest")) == (2, 5)
    assert numbers(found.grids("longest")) == (4, 3)
    for condition in ("shortest", "longest"):
        for grid in found.grids(condition):
            lab.same(grid, lab.noise(grid.number), samples=3)


def test_compare_models(lab):
    other = laboratory("gpt2")
    found = experiments.compare_models(
        lab.model, lab.facts, against=other.model, limit=2, settings=lab.settings
    )
    assert list(found.conditions) == ["tiny-llama float32", "tiny-gpt2 float32"]
    for name, which in zip(found.conditions, (lab, other), strict=True):
        grids = found.grids(name)
        assert numbers(grids) == (1, 2)
        effects = [which.same(grid, which.noise(grid.number), samples=3) for grid in grids]
        firsts = np.array([e[lab.span(g.number)[0]] for e, g in zip(effects, grids, strict=True)])
        magnitude = found.findings[f"magnitude, {name}"]["mean"].sel(role="first subject token")
        np.testing.assert_allclose(magnitude, np.abs(firsts).mean(0), atol=1e-6)
        wrong = found.findings[f"wrong sign, {name}"]["share"].sel(role="first subject token")
        np.testing.assert_allclose(wrong, (firsts < 0).mean(0))


def test_models_that_cannot_be_compared_are_refused(lab):
    with pytest.raises(PatchpointError, match="both models are tiny-llama"):
        experiments.compare_models(lab.model, lab.facts, against=lab.model, settings=lab.settings)
    with pytest.raises(PatchpointError, match="answer no fact in common"):
        experiments.compare_models(
            lab.model,
            lab.answered().facts,
            against=laboratory("gpt2").model,
            settings=replace(lab.settings, answer="predicted"),
        )


def test_fact_position_traces_the_same_prompts_under_every_condition(lab):
    """Each sentence names the subject of another fact, which is left out behind it."""
    sentences = (("w9 w13 w60", "w9 w13 w61"), ("w21 w22 w60", "w21 w22 w61"))
    named = {
        f.number for f in lab.facts.facts if any(f.subject in text for pair in sentences for text in pair)
    }
    common = tuple(f.number for f in lab.facts.facts if f.number not in named)[:2]
    assert len(named) == 2, "a condition on its own would have other facts"
    found = experiments.fact_position(
        lab.model, lab.facts, sentences=sentences, limit=2, settings=lab.settings
    )
    for condition in found.conditions:
        assert numbers(found.grids(condition)) == common


def test_fact_position_without_a_common_fact_is_refused(lab):
    settings = replace(lab.settings, answer="predicted")
    with pytest.raises(PatchpointError, match="behind every sentence and order"):
        experiments.fact_position(lab.model, lab.facts, sentences=SENTENCES, settings=settings)
