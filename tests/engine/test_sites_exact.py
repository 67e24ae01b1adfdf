"""Every kind of site, operation and value against the hook loop, over all families, in ragged batches."""

import itertools
import random
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

import patchpoint as pp
import reference
from families import FAMILY_NAMES
from patchpoint.engine import COMPONENTS, Batch
from words import tiny_model

PROMPTS = ((5, 9, 13, 2, 44, 7, 31), (11, 3, 60, 8))
DONORS = ((6, 9, 14, 2, 45, 7, 30), (12, 33, 61, 8))
ANSWERS = (10, 20)
OPS = ("replace", "add", "scale")
POSITIONS = (-1, (1, -1), None, (2,), (0, 3))
PORTS = ("q_input", "k_input", "v_input")
PICKED = {"mlp_post": ("neuron", (None, 3, (0, 7, 30)))}
PICKED |= dict.fromkeys((*PORTS, "q", "pattern", "z"), ("head", (2, None, (3, 0), 1)))
PICKED |= dict.fromkeys(("k", "v"), ("head", (0, None, (1, 0))))
ODD = ("gemma2", "gptj", "llama", "bloom", "gpt2", "falcon", "mixtral", "gpt_neox", "olmo2", "granite")
"""Families whose blocks have little in common."""


def components_of(model):
    block = model.adapter.blocks[0]
    missing = {"resid_mid"} if block.parallel else set()
    missing |= {"mlp_post"} if block.d_mlp is None else set()
    return [name for name in COMPONENTS if name not in missing]


def sites_of(model, component, rng):
    """Endless sites of one component: layers, positions and heads in turn."""
    layers = {"embed": (0,), "final": (-1,)}.get(component, (0, 1, 2))
    name, picked = PICKED.get(component, ("head", (None,)))
    if component in ("k", "v") and model.adapter.blocks[0].n_kv_heads == 1:
        picked = (0, None)
    turns = [itertools.cycle(rng.sample(list(all_), len(all_))) for all_ in (layers, POSITIONS, picked)]
    for layer, positions, pick in zip(*turns, strict=False):
        yield pp.Site(layer, component, positions, **{name: pick})


@lru_cache(maxsize=4)
def everything(model, ids):
    """What the reference finds in one prompt: {(layer, component): [batch, token, width]}."""
    inner = [name for name in components_of(model) if name not in (*PORTS, "embed", "final")]
    places = [(layer, name) for layer in range(model.n_layers) for name in inner]
    return reference.activations(model.hf, ids, [(0, "embed"), *places, (-1, "final")])


def n_units(model, component):
    block = model.adapter.blocks[0]
    units = {"k": block.n_kv_heads, "v": block.n_kv_heads, "mlp_post": block.d_mlp}
    return units.get(component, block.n_heads)


def width_of(model, site):
    """Numbers per token at a site by what the reference finds there, all heads side by side."""
    if site.component in PORTS:
        return model.d_model
    whole = everything(model, PROMPTS[0])[placed(model, site, PROMPTS[0])[:2]].shape[-1]
    return whole if site.picked is None else whole // n_units(model, site.component) * len(site.picked)


def placed(model, site, ids):
    """(layer, component, positions, picks) as the reference names them."""
    layer = -1 if site.component == "final" else site.layer % model.n_layers
    positions = range(len(ids)) if site.positions is None else [p % len(ids) for p in site.positions]
    return layer, site.component, list(positions), site.picked


def in_reference(model, edit, prompt):
    """One edit on one prompt, as the reference takes it."""
    layer, component, positions, picks = placed(model, edit.site, PROMPTS[prompt])
    return (layer, component, positions, picks, edit.op, value_in_reference(model, edit, prompt, positions))


def value_in_reference(model, edit, prompt, positions):
    value, site = edit.value, edit.site
    if isinstance(value, pp.Run):
        return donated(model, site, prompt)
    if isinstance(value, float) or value.ndim == 2:
        return value
    return value[prompt] if value.ndim == 3 else value.expand(len(positions), -1)


def donated(model, site, prompt):
    """What the donor prompt has at a site, [batch, position, width]."""
    layer, component, positions, picks = placed(model, site, DONORS[prompt])
    at_port = component in PORTS
    found = everything(model, DONORS[prompt])[layer, "resid_pre" if at_port else component][:, positions]
    if picks is None or at_port:
        return found
    return found.unflatten(-1, (n_units(model, component), -1))[:, :, list(picks)].flatten(2)


def wanted(model, variants, base_edits=()):
    """[variant, prompt]: the answer's logit by the loop."""
    rows = []
    for edits in variants:
        listed = [*base_edits, *((edits,) if isinstance(edits, pp.Edit) else edits)]
        per_prompt = [[in_reference(model, edit, p) for edit in listed] for p in range(len(PROMPTS))]
        got = [reference.logits(model.hf, PROMPTS[p], edits)[0] for p, edits in enumerate(per_prompt)]
        rows.append([logits[ANSWERS[p]].item() for p, logits in enumerate(got)])
    return np.array(rows)


def assert_exact(model, variants, base_edits=()):
    """The sweep equals the loop to 1e-5 of the logits' standard deviation; returns the loop's values."""
    base = model.run(Batch(PROMPTS, ANSWERS), edits=base_edits)
    want = wanted(model, variants, base_edits)
    got = pp.sweep(base, variants, "logit")
    error = np.abs(got.values - want).max(1) / base.logits.std().item()
    wrong = [f"{got.variant.values[i]}: {error[i]:.1e}" for i in np.flatnonzero(~(error < 1e-5))]
    assert not wrong, "\n".join(wrong)
    return want


def any_value(model, site, kind, generator):
    """A number, [width], [pos, width] or [prompt, pos, width]."""
    if kind == "number":
        return 1.5
    if site.positions is None and kind != "width":
        kind = "width"
    shape = {"width": (), "pos": (len(site.positions or ()),)}.get(kind, (2, len(site.positions or ())))
    return torch.randn(*shape, width_of(model, site), generator=generator)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_site_equals_the_hook_loop(family, op):
    model, rng = tiny_model(family), random.Random(f"{family} {op}")
    donor = model.run(Batch(DONORS))
    generator = torch.Generator().manual_seed(1)
    kinds = itertools.cycle(("width", "pos", "prompt"))
    variants = []
    for component in components_of(model):
        sites = sites_of(model, component, rng)
        variants.append(pp.Edit(replace(next(sites), positions=None), op, donor))
        variants.append(pp.Edit(next(sites), op, 1.5))
        if component != "pattern":
            site = next(sites)
            variants.append(pp.Edit(site, op, any_value(model, site, next(kinds), generator)))
    want = assert_exact(model, variants)
    clean = wanted(model, [[]])
    for component in components_of(model):
        mine = [i for i, edit in enumerate(variants) if edit.site.component == component]
        assert np.abs(want[mine] - clean).max() > 1e-3, f"no edit of {component} shows"


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_edits_at_several_layers_equal_the_hook_loop(family):
    """Two to five edits of any components at once, in any order."""
    model, rng = tiny_model(family), random.Random(family)
    donor = model.run(Batch(DONORS))
    generator = torch.Generator().manual_seed(2)
    sites = {component: sites_of(model, component, rng) for component in components_of(model)}
    variants = []
    for number in range(8):
        chosen = rng.sample(list(sites), rng.randint(2, 5))
        chosen = [name for name in chosen if name not in ("k", "v") or f"{name}_input" not in chosen]
        edits = []
        for component in chosen:
            site, kind = next(sites[component]), rng.choice(("number", "width", "pos", "run"))
            kind = "run" if component == "pattern" and kind != "number" else kind
            value = donor if kind == "run" else any_value(model, site, kind, generator)
            edits.append(pp.Edit(site, OPS[number % 3], value))
        variants.append(edits)
    assert_exact(model, variants)


@pytest.mark.parametrize("family", ODD)
def test_ports_in_several_layers_and_behind_other_edits(family):
    """A head's own input edited in two layers, its query behind it, and one head twice at other tokens."""
    model = tiny_model(family)
    value = torch.randn(model.d_model, generator=torch.Generator().manual_seed(3))
    both = [pp.Edit(pp.Site(k, "k_input", (1,), (0, 2)), "add", value) for k in (0, 2)]
    behind = [
        pp.Edit(pp.Site(1, "q", -1, 1), "scale", -2.0),
        pp.Edit(pp.Site(1, "q_input", -1, 1), "add", value),
    ]
    twice = [
        pp.Edit(pp.Site(1, "v_input", (1, 2), 3), "replace", value),
        pp.Edit(pp.Site(1, "v_input", (2, 3)), "scale", -1.5),
    ]
    stream = pp.Edit(pp.Site(1, "resid_pre", (2,)), "scale", 2.0)
    neurons = pp.Edit(pp.Site(1, "mlp_in", (2, -1)), "add", value)
    assert_exact(model, [both, behind, twice, [*twice, stream], [*both, *behind, *twice, neurons]])


@pytest.mark.parametrize("family", ODD[:4])
def test_variants_of_a_run_that_carries_edits_of_every_kind(family):
    model, rng = tiny_model(family), random.Random(7)
    names = [name for name in components_of(model) if name not in ("k", "v")]
    sites = {name: sites_of(model, name, rng) for name in names}
    variants = [pp.Edit(next(sites[name]), "scale", -1.5) for name in names]
    for name in names:
        own = [pp.Edit(replace(next(sites[name]), positions=(1, -1)), "scale", 2.0)]
        assert_exact(model, variants[len(name) % 2 :: 2], own)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("family", ODD)
def test_probabilities_from_tensors(family, op, monkeypatch):
    """As wide as the prompt has tokens; tokens to come may be attended to as well."""
    monkeypatch.setitem(globals(), "PROMPTS", (PROMPTS[0], DONORS[0]))
    model = tiny_model(family)
    generator = torch.Generator().manual_seed(4)
    sites = [pp.Site(1, "pattern", (2, -1), head) for head in (None, 1, (3, 0))]
    sites += [pp.Site(0, "pattern", 3, 2), pp.Site(2, "pattern", -1, 2)]
    kinds = ("width", "pos", "prompt", "pos", "prompt")
    variants = [
        pp.Edit(site, op, any_value(model, site, kind, generator).abs())
        for site, kind in zip(sites, kinds, strict=True)
    ]
    assert_exact(model, variants)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_run_reads_every_site_as_the_hook_loop_does(family):
    model = tiny_model(family)
    run = model.run(Batch(PROMPTS))
    for component in components_of(model):
        layer = {"embed": 0, "final": -1}.get(component, 1)
        key = (layer, "resid_pre" if component in PORTS else component)
        for prompt, ids in enumerate(PROMPTS):
            want = everything(model, ids)[key][0]
            got = run.cache[pp.Site(layer, component)][prompt]
            if component in PORTS:
                want = want[:, None].expand(-1, model.n_heads, -1)
                assert got.shape == want.shape
            torch.testing.assert_close(got, want.reshape(got.shape), atol=2e-5, rtol=1e-5)
    pattern = run.cache[pp.Site(1, "pattern", head=(2, 0))]
    assert [p.shape for p in pattern] == [(7, 2, 7), (4, 2, 4)]
    assert torch.equal(pattern[1], run.cache[pp.Site(1, "pattern")][1][:, [2, 0]])
