"""Calibration of the noise against a scan of levels by hooks."""

import numpy as np
import pytest
import torch

import patchpoint as pp
import reference
from patchpoint.errors import InvalidArgument, UnknownName
from patchpoint.tasks.subject import SubjectPrompt
from patchpoint.tracing.calibration import calibrate
from words import tiny_model

TEXTS = [
    ("w5 w9 w13 w21 w2 w44 w7", "w2 w44 w7"),
    ("w3 w1 w4 w8", "w1 w4"),
    ("w60 w61 w3", "w61 w3"),
    ("w70 w71 w72 w73 w74", "w73 w74"),
    ("w15 w16 w17 w18", "w18"),
]
SAMPLES, SEED = 3, 11
MODELS = {name: tiny_model(name) for name in ("gpt2", "llama", "gpt_neox")}


def facts(model):
    prompts = [SubjectPrompt.from_text(model, text, subject=subject) for text, subject in TEXTS]
    return prompts, [int(reference.logits(model.hf, prompt.ids).argmax()) for prompt in prompts]


def calibrated(model, **settings):
    return calibrate(model, *facts(model), **{"samples": SAMPLES, "seed": SEED, "ratio": 0.7, **settings})


def subject_embeddings(model, prompts):
    ids = [i for prompt in prompts for i in prompt.ids[slice(*prompt.subject_span)]]
    return model.hf.get_input_embeddings().weight.detach()[ids].double()


def directions(kind, model, prompts, span):
    """Noise of level 1 on one subject."""
    random = torch.Generator().manual_seed(SEED)
    shape = (SAMPLES, span[1] - span[0], model.d_embed)
    if kind == "u":
        return 2 * torch.rand(shape, generator=random) - 1
    std = float(subject_embeddings(model, prompts).std()) if kind == "s" else 1.0
    return torch.randn(shape, generator=random) * std


def scanned(model, kind, level):
    """p_corrupt and p_clean per fact, by hooks, one fact at a time."""
    prompts, answers = facts(model)
    corrupt, clean = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        noise = directions(kind, model, prompts, prompt.subject_span) * level
        edit = (0, "embed", range(*prompt.subject_span), None, "add", noise)
        noised = reference.logits(model.hf, prompt.ids, [edit], SAMPLES)
        corrupt.append(float(reference.read(noised, "prob", answer).mean()))
        clean.append(float(reference.read(reference.logits(model.hf, prompt.ids), "prob", answer)[0]))
    return np.array(corrupt), np.array(clean)


@pytest.mark.parametrize("kind", ["s", "", "u"])
@pytest.mark.parametrize("family", MODELS)
def test_the_level_found_is_where_a_scan_by_hooks_passes_the_ratio(family, kind):
    model = MODELS[family]
    found = calibrated(model, kind=kind, tolerance=1e-3)
    for level in found.levels.level.values[::4]:
        want, clean = scanned(model, kind, level)
        np.testing.assert_allclose(found.levels.p_corrupt.sel(level=level), want, atol=1e-6)
        np.testing.assert_allclose(found.levels.p_clean, clean, atol=1e-6)
        ratio = want.mean() / clean.mean()
        assert float(found.levels.ratio.sel(level=level)) == pytest.approx(ratio, abs=1e-5)
    ratios = {}
    for factor in (0.97, 1, 1.03):
        corrupt, clean = scanned(model, kind, found.level * factor)
        ratios[factor] = corrupt.mean() / clean.mean()
    assert ratios[0.97] > 0.7 > ratios[1.03]
    assert found.reached == pytest.approx(ratios[1], abs=1e-5)
    assert found.reached == pytest.approx(0.7, abs=0.7e-3)
    assert (found.asked, found.noise) == (0.7, f"{kind}{found.level!r}".removesuffix(".0"))


@pytest.mark.parametrize("kind", ["s", ""])
def test_the_level_is_what_trace_takes_as_its_noise(kind):
    model = MODELS["llama"]
    found = calibrated(model, kind=kind)
    prompts, answers = facts(model)
    ratios = []
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        t = pp.trace(
            model,
            prompt.text,
            subject=prompt.subject,
            answer=f"w{answer}",
            noise=found.std,
            samples=SAMPLES,
            seed=SEED,
        )
        assert t.p_corrupt == pytest.approx(float(found.levels.p_corrupt.sel(level=found.level)[i]), abs=1e-6)
        ratios.append((t.p_corrupt, t.p_clean))
    corrupt, clean = np.mean(ratios, axis=0)
    assert corrupt / clean == pytest.approx(found.reached, abs=1e-5)


def test_the_standard_deviation_is_that_of_the_noise():
    model = MODELS["gpt2"]
    std = float(subject_embeddings(model, facts(model)[0]).std())
    by_kind = {kind: calibrated(model, kind=kind) for kind in ("s", "", "u")}
    assert by_kind["s"].std == pytest.approx(by_kind["s"].level * std, rel=1e-9)
    assert by_kind[""].std == by_kind[""].level
    assert by_kind["u"].std == pytest.approx(by_kind["u"].level / 3**0.5)
    assert by_kind["s"].std == pytest.approx(by_kind[""].std, rel=0.1), (
        "the same noise, reached in other steps"
    )


def test_the_table_is_sorted_and_its_intervals_come_from_facts_drawn_with_replacement():
    found = calibrated(MODELS["llama"])
    table = found.levels
    assert table.p_corrupt.dims == ("level", "fact")
    assert (np.diff(table.level) > 0).all()
    assert {float(table.low.sel(level=found.level)), float(table.high.sel(level=found.level))} == {
        found.low,
        found.high,
    }
    random = np.random.default_rng(0)
    corrupt, clean = table.p_corrupt.sel(level=found.level).values, table.p_clean.values
    picks = random.integers(0, 5, (20_000, 5))
    ratios = corrupt[picks].mean(1) / clean[picks].mean(1)
    np.testing.assert_allclose([found.low, found.high], np.quantile(ratios, [0.025, 0.975]), atol=0.02)
    assert found.low < found.reached < found.high


def test_one_fact_has_no_interval():
    model = MODELS["gpt2"]
    prompts, answers = facts(model)
    found = calibrate(model, prompts[:1], answers[:1], ratio=0.7)
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("memory_gib", [1e-4, 3e-5, 1])
def test_neither_memory_nor_company_changes_a_fact(memory_gib):
    model = MODELS["gpt_neox"]
    got, want = (calibrated(model, memory_gib=gib) for gib in (memory_gib, None))
    assert got.level == want.level
    np.testing.assert_allclose(got.levels.p_corrupt, want.levels.p_corrupt, atol=1e-6)


def test_every_level_is_told_of_once():
    told = []
    found = calibrated(MODELS["gpt2"], on_level=lambda level, ratio: told.append((level, ratio)))
    assert sorted(told) == list(zip(found.levels.level.values, found.levels.ratio.values, strict=True))
    assert all(level == float(f"{level:.4g}") for level, _ in told)
    assert len(told) < 20


def test_the_same_seed_finds_the_same_level_another_seed_another():
    first, again, other = (calibrated(MODELS["gpt2"], seed=seed, tolerance=1e-4) for seed in (1, 1, 2))
    assert first.level == again.level
    assert (first.low, first.high) == (again.low, again.high)
    assert first.level != other.level


@pytest.mark.parametrize(("lowest", "highest"), [(1e-3, 0.1), (1e-6, 0.02)])
def test_levels_too_low_for_the_ratio_say_what_they_reach(lowest, highest):
    with pytest.raises(
        InvalidArgument, match=rf"no level from .* to {highest:.4g} gives .* = 0.7: it went from 0.9.* to "
    ):
        calibrated(MODELS["gpt2"], lowest=lowest, highest=highest)


def test_levels_too_high_for_the_ratio_say_what_they_reach():
    with pytest.raises(
        InvalidArgument, match=r"no level from 50 to .* gives p_corrupt / p_clean = 0.999: it went"
    ):
        calibrated(MODELS["gpt2"], ratio=0.999, lowest=50, highest=200)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kind": "m"}, UnknownName, "kind of noise to calibrate 'm'"),
        ({"ratio": 0}, InvalidArgument, "between 0 and 1, got 0"),
        ({"ratio": 1.0}, InvalidArgument, "between 0 and 1"),
        ({"ratio": float("nan")}, InvalidArgument, "between 0 and 1"),
        ({"tolerance": 0}, InvalidArgument, "tolerance"),
        ({"samples": 0}, InvalidArgument, "samples"),
        ({"lowest": 0}, InvalidArgument, "0 < lowest < highest"),
        ({"lowest": 3, "highest": 3}, InvalidArgument, "0 < lowest < highest"),
        ({"highest": float("inf")}, InvalidArgument, "0 < lowest < highest"),
    ],
)
def test_settings_that_allow_no_search(settings, error, message):
    with pytest.raises(error, match=message):
        calibrated(MODELS["gpt2"], **settings)


@pytest.mark.parametrize(
    ("count", "answers", "message"),
    [(2, [1], "2 prompts and 1 answers"), (0, [], "at least one of each"), (1, [97], "ids from 0 to 96")],
)
def test_every_prompt_needs_an_answer(count, answers, message):
    prompts, _ = facts(MODELS["gpt2"])
    with pytest.raises(InvalidArgument, match=message):
        calibrate(MODELS["gpt2"], prompts[:count], answers)
