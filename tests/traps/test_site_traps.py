"""Errors that other tools shipped at sites inside attention and the MLP, made impossible here. Named by the list."""

import numpy as np
import pytest
import torch

import patchpoint as pp
import reference
from families import FAMILY_NAMES, tiny
from patchpoint.engine import COMPONENTS, Batch
from words import tiny_model

IDS = (5, 9, 13, 2, 44, 7)
LAST = len(IDS) - 1
INSIDE = ("q_input", "k_input", "v_input", "q", "k", "v", "pattern", "mlp_in", "mlp_post")
PER_QUERY_HEAD = ("q_input", "k_input", "v_input", "q", "pattern", "z")


def components_of(model):
    block = model.adapter.blocks[0]
    missing = {"resid_mid"} if block.parallel else set()
    missing |= {"mlp_post"} if block.d_mlp is None else set()
    return [name for name in COMPONENTS if name not in missing]


def sites_of(model, component, layers=None, positions=None):
    """One component at all of the layers, each of the heads (and all at once), or some neurons."""
    layers = {"embed": (0,), "final": (-1,)}.get(component, layers or range(model.n_layers))
    block = model.adapter.blocks[0]
    heads = range(block.n_heads if component in PER_QUERY_HEAD else block.n_kv_heads)
    picks = [{}]
    if component in (*PER_QUERY_HEAD, "k", "v"):
        picks += [{"head": head} for head in heads]
    if component == "mlp_post":
        picks += [{"neuron": (0, 7)}]
    return [pp.Site(layer, component, positions, **pick) for layer in layers for pick in picks]


def sd_of(run):
    return run.logits.std().item()


def same(model, one, other):
    """Bit-equal; but experts multiply the tokens sent to them together, so rounding depends on the others."""
    experts = model.adapter.blocks[0].d_mlp is None
    return torch.allclose(one, other, atol=1e-5) if experts else torch.equal(one, other)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r12_zeros_at_any_site_change_the_logits_and_itself_does_not(family):
    """Of a run made with the edit: what it computes, and what it says is there."""
    model = tiny_model(family)
    plain = model.run(Batch((IDS,)))
    for component in components_of(model):
        site = pp.Site({"embed": 0, "final": -1}.get(component, 1), component)
        zeroed = model.run(Batch((IDS,)), edits=[pp.Edit(site, "replace", 0.0)])
        assert (zeroed.logits - plain.logits).abs().max() > 1e-3 * sd_of(plain), component
        assert not zeroed.cache[site].any(), component
        itself = model.run(Batch((IDS,)), edits=[pp.Edit(site, "replace", plain)])
        assert (itself.logits - plain.logits).abs().max() < 1e-5 * sd_of(plain), component


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r12_a_sweep_says_how_much_each_edit_changed(family):
    model = tiny_model(family)
    base = model.run(Batch((IDS,), (10,)))
    sites = [site for name in components_of(model) for site in sites_of(model, name, (1,), LAST)]
    swept = pp.sweep(base, [pp.Edit(site, "replace", 0.0) for site in sites], "logit")
    for site, change in zip(sites, swept.largest_change.values, strict=True):
        assert change == pytest.approx(base.cache[site].abs().max().item(), rel=1e-4), site


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r16_self_patch_is_identity_at_every_layer_token_and_head(family):
    model = tiny_model(family)
    base = model.run(Batch((IDS,), (10,)))
    sites = [
        site
        for position in (None, 0, 3, LAST)
        for name in components_of(model)
        for site in sites_of(model, name, positions=position)
    ]
    values = pp.sweep(base, [pp.Edit(site, "replace", base) for site in sites], "logit").values
    np.testing.assert_allclose(values, base.logits[0, 10].item(), rtol=0, atol=1e-5 * sd_of(base))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r18_an_edit_inside_a_block_leaves_earlier_tokens_bit_equal(family):
    """Against the same place edited without effect: both take the same way through attention."""
    model = tiny_model(family)
    for component in set(INSIDE) & set(components_of(model)):
        site = pp.Site(0, component, 3)
        still = model.run(Batch((IDS,)), edits=[pp.Edit(site, "scale", 1.0)])
        edited = model.run(Batch((IDS,)), edits=[pp.Edit(site, "scale", -3.0)])
        for layer in range(model.n_layers):
            before, after = (pp.Site(layer, "resid_post", at) for at in ((0, 1, 2), (3, 4, 5)))
            assert same(model, still.cache[before], edited.cache[before]), component
            assert not torch.equal(still.cache[after], edited.cache[after]), component


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r18_what_comes_later_is_not_seen_when_sites_are_read(family):
    """Another last token: everything inside the blocks at the tokens before it stays bit-equal."""
    model = tiny_model(family)
    one, other = (model.run(Batch(((*IDS[:-1], last),))) for last in (7, 8))
    for component in components_of(model):
        site = pp.Site(-1 if component == "final" else 0, component, tuple(range(LAST)))
        assert same(model, one.cache[site], other.cache[site]), component


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r20_probabilities_are_those_of_the_plain_model_whatever_its_attention(family, implementation):
    """As Hugging Face returns them from eager attention; an SDPA model returns none, here it has them as well."""
    model = tiny_model(family)
    model.hf.config._attn_implementation = "eager"
    with torch.no_grad():
        eager = model.hf(torch.tensor([IDS]), output_attentions=True).attentions
    model.hf.config._attn_implementation = implementation
    run = model.run(Batch((IDS,)))
    for layer in range(model.n_layers):
        pattern = run.cache[pp.Site(layer, "pattern")].transpose(1, 2)
        torch.testing.assert_close(pattern, eager[layer], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(pattern.sum(-1), torch.ones(1, model.n_heads, len(IDS)))
        assert (pattern.triu(1) == 0).all()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r21_probabilities_times_values_are_the_heads_mixtures(family):
    """The probabilities read are the ones used: as they are, and once they were edited."""
    model = tiny_model(family)
    edits = [pp.Edit(pp.Site(1, "pattern", (2, LAST), (0, 3)), "scale", 0.5)]
    for run in (model.run(Batch((IDS,))), model.run(Batch((IDS,)), edits=edits)):
        for layer in range(model.n_layers):
            pattern, v, z = (run.cache[pp.Site(layer, name)] for name in ("pattern", "v", "z"))
            v = v.repeat_interleave(model.n_heads // v.shape[2], dim=2)
            mixed = torch.einsum("pqhk,pkhd->pqhd", pattern, v)
            torch.testing.assert_close(mixed, z, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r28_sites_before_a_norm_are_the_stream_and_final_is_behind_it(family):
    model = tiny_model(family)
    run, seen = model.run(Batch((IDS,))), {}
    names, block = reference.names_of(model.hf), model.adapter.blocks[1].layer
    hooks = [
        block.register_forward_pre_hook(lambda _, args: seen.update(stream=args[0])),
        model.hf.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.update(read=args[0])),
    ]
    for name, norm in (("attn_out", names.attn_added), ("mlp_out", names.mlp_added)):
        if norm is not None:
            module = block.get_submodule(norm)
            hooks.append(
                module.register_forward_hook(lambda _, args, out, name=name: seen.update({name: out}))
            )
    with torch.no_grad():
        model.hf(torch.tensor([IDS]))
    for hook in hooks:
        hook.remove()
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(run.cache[pp.Site(1, "resid_pre")], seen["stream"], **close)
    for port in ("q_input", "k_input", "v_input"):
        copies = run.cache[pp.Site(1, port)]
        assert torch.equal(copies, run.cache[pp.Site(1, "resid_pre")][:, :, None].expand_as(copies))
    read_by_mlp = "resid_pre" if model.adapter.blocks[1].parallel else "resid_mid"
    assert torch.equal(run.cache[pp.Site(1, "mlp_in")], run.cache[pp.Site(1, read_by_mlp)])
    torch.testing.assert_close(run.cache[pp.Site(-1, "final")], seen["read"], **close)
    for name in set(seen) - {"stream", "read"}:
        torch.testing.assert_close(run.cache[pp.Site(1, name)], seen[name], **close)


GROUPS = [("llama", 1), ("llama", 2), ("llama", 4), ("qwen3", 1), ("qwen3", 2), ("olmo2", 1), ("gemma2", 1)]


@pytest.mark.parametrize(("family", "n_kv"), GROUPS)
def test_r31_heads_of_a_group_are_patched_as_the_plain_model_would(family, n_kv):
    """Queries and mixtures per query head, keys and values per group, and a head's own input for it alone."""
    model = tiny_model(family, num_key_value_heads=n_kv)
    base, donor = model.run(Batch((IDS,), (10,))), model.run(Batch((IDS[::-1],)))
    for component in ("q", "k", "v", "z", "k_input", "v_input"):
        sites = sites_of(model, component, (0, 2))
        got = pp.sweep(base, [pp.Edit(site, "replace", donor) for site in sites], "logit").values[:, 0]
        for site, value in zip(sites, got, strict=True):
            there = donor.cache[site].reshape(1, len(IDS), -1)
            if component in ("k_input", "v_input"):
                there = there[..., : model.d_model]
            edit = (site.layer, component, None, site.head, "replace", there)
            want = reference.logits(model.hf, IDS, [edit])[0, 10].item()
            assert value == pytest.approx(want, abs=1e-5 * sd_of(base)), site
    assert len(sites_of(model, "k", (0,))) == 1 + n_kv
    with pytest.raises(pp.PatchpointError, match="head"):
        pp.sweep(base, [pp.Edit(pp.Site(0, "k", head=n_kv), "scale", 0.0)], "logit")


@pytest.mark.parametrize(("family", "n_kv"), GROUPS)
def test_r31_splitting_the_stream_by_heads_changes_nothing(family, n_kv):
    """Copies that are the stream; copies of the clean stream beside an edited one; and heads' shares of a sum."""
    model = tiny_model(family, num_key_value_heads=n_kv)
    base = model.run(Batch((IDS,), (10,)))
    away = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    noop, kept = [], []
    for layer in range(model.n_layers):
        stream, added = (pp.Site(layer, name) for name in ("resid_pre", "attn_out"))
        ports = [pp.Site(layer, port) for port in ("q_input", "k_input", "v_input")]
        split = [pp.Edit(port, "replace", base.cache[stream]) for port in ports]
        noop += split
        moved = pp.Edit(stream, "add", away)
        kept += [[moved, *split], [moved, pp.Edit(added, "replace", base)], [moved]]
    values = pp.sweep(base, [noop, *kept], "logit").values[:, 0]
    near = {"rtol": 0, "atol": 1e-5 * sd_of(base)}
    np.testing.assert_allclose(values[0], base.logits[0, 10].item(), **near)
    by_ports, by_sum, moved = values[1::3], values[2::3], values[3::3]
    np.testing.assert_allclose(by_ports, by_sum, **near)
    assert (np.abs(by_sum - moved) > 1e-3).all()
    block, z = model.adapter.blocks[1], base.cache[pp.Site(1, "z")][0]
    with torch.no_grad():
        shares = block.heads_out(z).sum(1)
        bias = block.attn_out(z) - shares
    torch.testing.assert_close(base.cache[pp.Site(1, "attn_out")][0] - shares, bias, atol=1e-5, rtol=1e-5)
    if family != "olmo2":
        assert bias.abs().max() < 1e-5


@pytest.mark.parametrize("component", ["q", "pattern", "q_input", "k_input", "v_input", "k", "v"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "falcon", "bloom", "gemma2"])
def test_r32_an_edit_of_one_head_changes_that_heads_mixture_alone(family, component):
    """A key/value head's edit: the mixtures of all query heads that share it, and no other's."""
    model = tiny_model(family)
    plain = model.run(Batch((IDS,))).cache[pp.Site(1, "z")]
    block = model.adapter.blocks[1]
    by_group = component in ("k", "v")
    for head in range(block.n_kv_heads if by_group else block.n_heads):
        site = pp.Site(1, component, 2, head)
        z = model.run(Batch((IDS,)), edits=[pp.Edit(site, "scale", -3.0)]).cache[pp.Site(1, "z")]
        changed = ((z - plain).abs().amax((0, 1, 3)) > 1e-5).nonzero().flatten().tolist()
        share = block.n_heads // block.n_kv_heads
        assert changed == (list(range(head * share, (head + 1) * share)) if by_group else [head])


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_r32_a_head_that_attends_nowhere_is_a_head_cut_from_the_output_projection(family):
    model, cut = tiny_model(family), tiny(family)
    base = model.run(Batch((IDS,), (10,)))
    block = cut.get_submodule(reference.names_of(cut).blocks)[1]
    projection = block.get_submodule(reference.names_of(cut).projection)
    d_head = model.adapter.blocks[1].d_head
    heads = (1, 3)
    columns = [head * d_head + i for head in heads for i in range(d_head)]
    with torch.no_grad():
        transposed = type(projection).__name__ == "Conv1D"
        (projection.weight.T if transposed else projection.weight)[:, columns] = 0
        want = cut(torch.tensor([IDS])).logits[0, -1, 10].item()
    sites = [pp.Site(1, name, head=heads) for name in ("pattern", "z")]
    got = pp.sweep(base, [pp.Edit(site, "replace", 0.0) for site in sites], "logit").values[:, 0]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * sd_of(base))
