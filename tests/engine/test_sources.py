"""Values looked up when needed: other prompts, means, noise, each against the same values written out."""

import numpy as np
import pytest
import torch

import patchpoint as pp
from patchpoint.engine import COMPONENTS, Batch
from patchpoint.engine.sources import Mean, Noise, Taken, resampled, roles_of
from words import tiny_model

PROMPTS = ((5, 9, 13, 2), (11, 3, 60, 8), (7, 7, 1, 90))
DONORS = ((6, 9, 14, 3), (12, 33, 61, 9), (8, 20, 2, 91))
RAGGED = ((5, 9, 13, 2, 17), (11, 3, 60), (7, 7, 1))
SPANS = (
    {"name": (0, 2), "end": (3, 4)},
    {"name": (1, 2), "end": (3, 4)},
    {"name": (0, 1), "end": (2, 4)},
)
ANSWERS = (1, 2, 3)
ODD = ("gpt2", "llama", "gptj", "mixtral", "opt")


def components_of(model):
    block = model.adapter.blocks[0]
    missing = {"resid_mid"} if block.parallel else set()
    missing |= {"mlp_post"} if block.d_mlp is None else set()
    return [name for name in COMPONENTS if name not in missing]


def site_of(component, positions=None, **more):
    layer = {"embed": 0, "final": -1}.get(component, 1)
    return pp.Site(layer, component, positions, **more)


def replaced(model, source, written, positions, prompts=PROMPTS):
    """Logits with a source's values and with the same values as tensors, over all components and two heads."""
    base = model.run(Batch(prompts, ANSWERS))
    sites = [site_of(c, positions) for c in components_of(model) if c != "pattern"]
    sites += [pp.Site(2, "z", positions, head=3), pp.Site(0, "q", positions, head=(2, 0))]
    sites.append(pp.Site(1, "k", positions, head=0))
    got = pp.sweep(base, [pp.Edit(site, "replace", source) for site in sites], "logit").values
    want = pp.sweep(base, [pp.Edit(site, "replace", written(site)) for site in sites], "logit").values
    assert np.abs(want - pp.sweep(base, [[]], "logit").values).max() > 1e-3
    return got, want


def picked(model, run, site):
    """What a run has at all tokens of a site, [prompt, pos, width], its own heads' copies as the stream."""
    component = "resid_pre" if site.component.endswith("_input") else site.component
    values = run.cache[pp.Site(site.layer, component, site.positions, head=site.head)]
    return values.flatten(2)


@pytest.mark.parametrize("family", ODD)
def test_taken_is_the_other_run_with_its_prompts_in_another_order(family):
    model = tiny_model(family)
    donor = model.run(Batch(DONORS))
    order = (2, 0, 1)
    got, want = replaced(
        model, Taken(donor, order), lambda s: picked(model, donor, s)[list(order)], (0, 1, 2, 3)
    )
    np.testing.assert_allclose(got, want, atol=1e-5)
    got, want = replaced(model, Taken(donor), lambda s: donor, (1, 3))
    np.testing.assert_array_equal(got, want)
    one = model.run(Batch(DONORS[:1]))
    got, want = replaced(model, Taken(one), lambda s: picked(model, one, s)[0], (1, 3))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_one_prompt_may_serve_several_and_patterns_are_taken_too():
    model = tiny_model("llama")
    base, donor = model.run(Batch(RAGGED, ANSWERS)), model.run(Batch(((9, 9, 9, 9, 9), (1, 2, 3), (4, 5, 6))))
    site = pp.Site(1, "pattern", head=(3, 1))
    same = pp.sweep(base, [pp.Edit(site, "replace", Taken(donor))], "logit").values
    np.testing.assert_array_equal(same, pp.sweep(base, [pp.Edit(site, "replace", donor)], "logit").values)
    shared = pp.sweep(base, [pp.Edit(site, "replace", Taken(donor, (0, 2, 2)))], "logit").values
    assert shared[0, 2] == pytest.approx(same[0, 2], abs=1e-6)
    assert abs(shared[0, 1] - same[0, 1]) > 1e-4


def test_resampling_is_a_derangement_within_each_length_drawn_from_the_seed():
    model = tiny_model("gpt2")
    lengths = (3, 5, 3, 3, 5, 3, 3)
    run = model.run([[7] * n for n in lengths])
    drawn = [resampled(run, seed).prompts for seed in range(40)]
    for donors in drawn:
        assert sorted(donors) == list(range(7))
        assert all(donor != i and lengths[donor] == lengths[i] for i, donor in enumerate(donors))
    assert len(set(drawn)) > 10
    assert {donors[0] for donors in drawn} == {2, 3, 5, 6}
    assert drawn[3] == resampled(run, 3).prompts


def test_a_prompt_without_a_peer_cannot_be_resampled():
    run = tiny_model("gpt2").run([[1, 2], [3, 4], [5, 6, 7]])
    with pytest.raises(pp.PatchpointError, match="prompt 2 is the only one of 3 tokens"):
        resampled(run)


@pytest.mark.parametrize("family", ODD)
def test_the_mean_at_each_position(family):
    model = tiny_model(family)
    donor = model.run(Batch((*DONORS, (4, 4, 4, 4))))
    got, want = replaced(model, Mean(donor), lambda s: picked(model, donor, s).mean(0), (0, 2, 3))
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("family", ODD)
def test_the_mean_over_all_tokens_of_ragged_prompts(family):
    model = tiny_model(family)
    donor = model.run(Batch(RAGGED))

    def written(site):
        return torch.cat([v.flatten(1) for v in donor_values(donor, site)]).mean(0)

    got, want = replaced(model, Mean(donor, over="all"), written, (0, -1))
    np.testing.assert_allclose(got, want, atol=1e-5)


def donor_values(donor, site):
    component = "resid_pre" if site.component.endswith("_input") else site.component
    return donor.cache[pp.Site(site.layer, component, head=site.head)]


@pytest.mark.parametrize("family", ODD)
def test_the_mean_over_tokens_of_one_role(family):
    """Roles of run and base lie at different tokens; those of none are one role together."""
    model = tiny_model(family)
    donor = model.run(Batch(DONORS))
    base_spans = ({"end": (0, 1)}, {"name": (0, 4)}, {})
    roles = [["end", "", "", ""], ["name"] * 4, [""] * 4]
    members = {
        "name": [(0, 0), (0, 1), (1, 1), (2, 0)],
        "end": [(0, 3), (1, 3), (2, 2), (2, 3)],
        "": [(0, 2), (1, 0), (1, 2), (2, 1)],
    }

    def written(site):
        rows = picked(model, donor, pp.Site(site.layer, site.component, None, head=site.head))
        means = {role: torch.stack([rows[at] for at in places]).mean(0) for role, places in members.items()}
        return torch.stack([torch.stack([means[mine[p]] for p in (0, 1, 3)]) for mine in roles])

    source = Mean(donor, over="role", spans=SPANS, base_spans=base_spans)
    got, want = replaced(model, source, written, (0, 1, 3))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_narrowest_role_of_a_token_counts():
    assert roles_of({"clause": (0, 4), "name": (1, 2)}) == {0: "clause", 1: "name", 2: "clause", 3: "clause"}
    assert roles_of({"name": (1, 2), "clause": (0, 3)}) == {0: "clause", 1: "name", 2: "clause"}


def test_the_mean_of_patterns_is_taken_at_each_position_only():
    model = tiny_model("gpt2")
    base, donor = model.run(Batch(PROMPTS, ANSWERS)), model.run(Batch(DONORS))
    site = pp.Site(1, "pattern", (2, 3), head=2)
    got = pp.sweep(base, [pp.Edit(site, "replace", Mean(donor))], "logit").values
    written = donor.cache[pp.Site(1, "pattern", (2, 3), head=2)].mean(0)
    want = pp.sweep(base, [pp.Edit(site, "replace", written)], "logit").values
    np.testing.assert_allclose(got, want, atol=1e-6)
    with pytest.raises(pp.PatchpointError, match="only their mean at each"):
        pp.sweep(base, [pp.Edit(site, "replace", Mean(donor, over="all"))], "logit")


def test_means_are_float32_in_bfloat16_models():
    model = tiny_model("llama")
    model.hf.to(torch.bfloat16)
    run = model.run(Batch(DONORS))
    rows = Mean(run).rows("z", 1, [0, 0], [1, 3])
    assert rows.dtype == torch.float32
    want = run.cache[pp.Site(1, "z")].float().mean(0)[[1, 3]]
    torch.testing.assert_close(rows, want, atol=1e-6, rtol=0)


def test_noise_depends_on_nothing_but_seed_and_place(monkeypatch):
    model = tiny_model("llama")
    noise = Noise(model, 0.5, seed=3)
    places = ([0, 0, 1, 2], [1, 3, 0, 2])
    for component in COMPONENTS:
        if component == "pattern":
            continue
        layer = {"embed": 0, "final": 2}.get(component, 1)
        rows = noise.rows(component, layer, *places)
        assert rows.shape[1:] == model.run(Batch(PROMPTS)).rows(component, layer).shape[1:]
        for i, place in enumerate(zip(*places, strict=True)):
            alone = Noise(model, 0.5, seed=3).rows(component, layer, [place[0]], [place[1]])
            assert torch.equal(alone[0], rows[i])
        others = [
            noise.rows(component, layer, [1], [1]),
            Noise(model, 0.5, seed=4).rows(component, layer, [0], [1]),
            rows[1:2],
        ]
        others += [noise.rows("z", 1 - layer, [0], [1])] if component == "z" else []
        assert all(not torch.equal(rows[:1], other) for other in others)
    assert not torch.equal(noise.rows("attn_out", 1, [0], [1]), noise.rows("mlp_out", 1, [0], [1]))


def test_noise_is_standard_gaussian():
    many = Noise(tiny_model("gpt2"), 2.0).rows("resid_pre", 0, list(range(200)), [3] * 200).double()
    assert many.mean().abs() < 0.1
    assert many.std() == pytest.approx(2.0, abs=0.05)
    assert (many.abs() < 2.0).double().mean() == pytest.approx(0.683, abs=0.02)


def test_noise_and_means_do_not_depend_on_chunks_or_on_other_variants():
    model = tiny_model("llama")
    base, donor = model.run(Batch(PROMPTS, ANSWERS)), model.run(Batch(DONORS))
    edits = [
        pp.Edit(pp.Site(k, "z", head=h), op, source)
        for k in range(3)
        for h in range(4)
        for op, source in (
            ("add", Noise(model, 0.3)),
            ("replace", Mean(donor)),
            ("replace", resampled(donor)),
        )
    ]
    whole = pp.sweep(base, edits, "logit").values
    np.testing.assert_allclose(pp.sweep(base, edits, "logit", memory_gib=1e-6).values, whole, atol=1e-5)
    alone = pp.sweep(base, [edits[9]], "logit").values[0]
    np.testing.assert_allclose(alone, whole[9], atol=1e-5)


def test_a_run_takes_edits_with_sources_too():
    model = tiny_model("gpt2")
    donor = model.run(Batch(DONORS))
    edit = pp.Edit(pp.Site(1, "mlp_out"), "replace", Mean(donor))
    run = model.run(Batch(PROMPTS), edits=[edit])
    want = donor.cache[pp.Site(1, "mlp_out")].mean(0).expand(3, -1, -1)
    torch.testing.assert_close(run.cache[pp.Site(1, "mlp_out")], want, atol=1e-6, rtol=0)


def test_r51_a_mean_at_each_position_refuses_prompts_that_do_not_line_up():
    model = tiny_model("gpt2")
    with pytest.raises(pp.PatchpointError, match="needs prompts of one length, got 3 to 5 tokens"):
        Mean(model.run(Batch(RAGGED)))
    source = Mean(model.run(Batch(DONORS)))
    with pytest.raises(pp.PatchpointError, match=r"prompt 0 has 5 tokens, the mean .* is of prompts of 4"):
        pp.sweep(model.run(Batch(RAGGED, ANSWERS)), [pp.Edit(pp.Site(1, "z"), "replace", source)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda run: Mean(run, over="rol"), "unknown mean 'rol'; did you mean role"),
        (lambda run: Mean(run, over="role"), "needs the spans of each of the run's 3 prompts, got none"),
        (lambda run: Mean(run, over="role", spans=SPANS[:2]), "3 prompts, got 2"),
        (
            lambda run: Mean(run, over="role", spans=SPANS, base_spans=SPANS[:2]),
            "spans of 2 prompts, the base",
        ),
        (
            lambda run: Mean(run, over="role", spans=SPANS, base_spans=({"nam": (1, 2)}, {}, {})),
            "token 1 of prompt 0 has the role 'nam', of which the mean's run has no token",
        ),
        (lambda run: Taken(run, (0, 1)), "the source names 2 prompts for 1 mlp_out, the base has 3"),
        (lambda run: Taken(run, (0, 1, 3)), "prompt 3 is not in the source run, which has 0 to 2"),
        (lambda run: Taken(run.model.run(Batch(DONORS[:2]))), "the source run has 2 prompts"),
        (
            lambda run: Taken(run.model.run(Batch(RAGGED))),
            "takes from another run has 5; the two must be of equal",
        ),
        (lambda run: Noise(run.model, 0.0), "must be a positive number, got 0.0"),
        (lambda run: Noise(run.model, 1.0, seed=-1), "a seed must be 0 or more, got -1"),
        (lambda run: resampled(run, -1), "a seed must be 0 or more, got -1"),
    ],
)
def test_sources_that_cannot_serve_are_refused(make, message):
    model = tiny_model("gpt2")
    base = model.run(Batch(PROMPTS, ANSWERS))
    with pytest.raises(pp.PatchpointError, match=message):
        pp.sweep(base, [pp.Edit(pp.Site(1, "mlp_out"), "replace", make(model.run(Batch(DONORS))))])


def test_noise_makes_no_probabilities():
    model = tiny_model("gpt2")
    edit = pp.Edit(pp.Site(1, "pattern"), "add", Noise(model, 1.0))
    with pytest.raises(pp.PatchpointError, match="noise makes no probabilities"):
        pp.sweep(model.run(Batch(PROMPTS, ANSWERS)), [edit])
