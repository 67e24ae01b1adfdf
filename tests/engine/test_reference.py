"""The reference loop itself: what it takes is what the plain formulas give, and it leaves the model as it was."""

import pytest
import torch
import torch.nn.functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import reference
from families import FAMILY_NAMES, tiny

IDS = (5, 9, 13, 2, 44, 7)
LAYER = 1
IN_STREAM = ("resid_pre", "attn_out", "mlp_out", "resid_post")
IN_BLOCK = (*IN_STREAM, "resid_mid", "mlp_in", "mlp_post", "z", "q", "k", "v", "pattern")


def components_of(hf):
    names = reference.names_of(hf)
    block = hf.get_submodule(names.blocks)[LAYER]
    parallel = getattr(block, names.mlp_norm, None) is None or getattr(
        hf.config, "use_parallel_residual", False
    )
    parallel = parallel or getattr(hf.config, "parallel_attn", False)
    left_out = {"resid_mid"} if parallel else set()
    return [
        name for name in IN_BLOCK if name not in left_out | ({"mlp_post"} if names.down is None else set())
    ]


def places_of(hf):
    return [(LAYER, name) for name in components_of(hf)] + [(0, "embed"), (-1, "final")]


def scale_of(logits):
    return logits.std().item()


def assert_close(found, wanted, sd):
    assert (found - wanted).abs().max().item() < 1e-5 * sd


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_opened_attention_gives_the_plain_models_logits(family):
    hf = tiny(family)
    plain = reference.logits(hf, IDS)
    with torch.no_grad():
        assert torch.equal(plain, hf(torch.tensor([IDS])).logits[:, -1])
    opened = reference.logits(hf, IDS, [(LAYER, "pattern", None, None, "scale", 1.0)])
    assert_close(opened, plain, scale_of(plain))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_place_set_to_itself_changes_nothing_and_set_to_zero_something(family):
    hf = tiny(family)
    plain = reference.logits(hf, IDS)
    taken = reference.activations(hf, IDS, places_of(hf))
    for place, values in taken.items():
        itself = reference.logits(hf, IDS, [(*place, None, None, "replace", values)])
        assert_close(itself, plain, scale_of(plain))
        zeros = reference.logits(hf, IDS, [(*place, None, None, "replace", 0.0)])
        assert (zeros - plain).abs().max() > 1e-3 * scale_of(plain), place
    for port in reference.PORTS:
        own = [(LAYER, port, None, None, "replace", taken[LAYER, "resid_pre"])]
        assert_close(reference.logits(hf, IDS, own), plain, scale_of(plain))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_probabilities_times_values_are_the_heads_mixtures(family):
    hf = tiny(family)
    taken = reference.activations(hf, IDS, [(LAYER, name) for name in ("v", "pattern", "z")])
    n_heads = hf.config.num_attention_heads
    pattern = taken[LAYER, "pattern"].unflatten(-1, (n_heads, len(IDS)))
    z = taken[LAYER, "z"].unflatten(-1, (n_heads, -1))
    v = taken[LAYER, "v"].unflatten(-1, (-1, z.shape[-1]))
    v = v.repeat_interleave(n_heads // v.shape[2], dim=2)
    torch.testing.assert_close(torch.einsum("bqhk,bkhd->bqhd", pattern, v), z, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(1, len(IDS), n_heads))
    assert (pattern.transpose(1, 2).triu(1) == 0).all()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_is_added_makes_up_the_stream(family):
    hf = tiny(family)
    taken = reference.activations(hf, IDS, [(LAYER, name) for name in IN_STREAM])
    pre, attn, mlp, post = (taken[LAYER, name] for name in IN_STREAM)
    torch.testing.assert_close(pre + attn + mlp, post, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_all_ports_of_a_block_together_are_its_input(family):
    """One value at every head's three ports: attention adds what it adds when the whole stream is edited."""
    hf = tiny(family)
    value = torch.randn(1, 2, hf.config.hidden_size, generator=torch.Generator().manual_seed(1))
    change = ([1, 4], None, "add", value)
    want = reference.activations(hf, IDS, [(LAYER, "attn_out")], [(LAYER, "resid_pre", *change)])
    by_ports = [(LAYER, port, *change) for port in reference.PORTS]
    got = reference.activations(hf, IDS, [(LAYER, "attn_out"), (LAYER, "resid_pre")], by_ports)
    torch.testing.assert_close(got[LAYER, "attn_out"], want[LAYER, "attn_out"], atol=1e-5, rtol=1e-5)
    plain = reference.activations(hf, IDS, [(LAYER, "resid_pre")])
    torch.testing.assert_close(got[LAYER, "resid_pre"], plain[LAYER, "resid_pre"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_heads_port_reaches_that_head_alone(family):
    hf = tiny(family)
    n_heads = hf.config.num_attention_heads
    places = [(LAYER, "z"), (LAYER, "pattern")]
    plain = reference.activations(hf, IDS, places)[LAYER, "z"].unflatten(-1, (n_heads, -1))
    for port in reference.PORTS:
        edit = (LAYER, port, [2], 1, "scale", -3.0)
        z = reference.activations(hf, IDS, [(LAYER, "z")], [edit])[LAYER, "z"].unflatten(-1, (n_heads, -1))
        changed = (z - plain).abs().amax((0, 3)) > 1e-6
        assert changed[2, 1]
        assert not changed[:, [0, 2, 3]].any()
        assert not changed[:2].any()
        assert changed[3:, 1].any() == (port != "q_input")


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_the_mlp_reads_leaves_the_stream_alone(family):
    hf = tiny(family)
    edit = (LAYER, "mlp_in", [2], None, "scale", -3.0)
    places = [(LAYER, name) for name in IN_STREAM]
    plain = reference.activations(hf, IDS, places)
    edited = reference.activations(hf, IDS, places, [edit])
    for name in ("resid_pre", "attn_out"):
        assert torch.equal(edited[LAYER, name], plain[LAYER, name])
    added = edited[LAYER, "mlp_out"] - plain[LAYER, "mlp_out"]
    assert added[0, 2].abs().max() > 1e-3
    torch.testing.assert_close(
        edited[LAYER, "resid_post"] - plain[LAYER, "resid_post"], added, atol=1e-5, rtol=0
    )


def test_queries_keys_and_neurons_are_those_of_the_plain_formulas():
    hf = tiny("gpt2")
    block = hf.transformer.h[LAYER]
    names = ("resid_pre", "resid_mid", "q", "k", "v", "mlp_in", "mlp_post", "pattern")
    taken = reference.activations(hf, IDS, [(LAYER, name) for name in names])
    with torch.no_grad():
        q, k, v = block.attn.c_attn(block.ln_1(taken[LAYER, "resid_pre"])).chunk(3, -1)
        neurons = block.mlp.act(block.mlp.c_fc(block.ln_2(taken[LAYER, "resid_mid"])))
    for name, wanted in (("q", q), ("k", k), ("v", v), ("mlp_post", neurons)):
        torch.testing.assert_close(taken[LAYER, name], wanted)
    assert torch.equal(taken[LAYER, "mlp_in"], taken[LAYER, "resid_mid"])
    scores = torch.einsum("bqhd,bkhd->bqhk", q.unflatten(-1, (4, 8)), k.unflatten(-1, (4, 8))) * 8**-0.5
    scores += torch.full((6, 6), -torch.inf).triu(1)[None, :, None]
    torch.testing.assert_close(taken[LAYER, "pattern"], scores.softmax(-1).flatten(2))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_model_is_left_as_it_was(family):
    hf = tiny(family)
    functions = (F.softmax, F.scaled_dot_product_attention, dict(ALL_ATTENTION_FUNCTIONS))
    before = [(dict(m._forward_hooks), dict(m._forward_pre_hooks), set(vars(m))) for m in hf.modules()]
    implementation = hf.config._attn_implementation
    wrong = torch.zeros(1, 3, 5)
    for component in ("pattern", "mlp_in"):
        with pytest.raises(RuntimeError):
            reference.logits(hf, IDS, [(LAYER, component, [0, 1, 2], None, "add", wrong)])
    assert before == [
        (dict(m._forward_hooks), dict(m._forward_pre_hooks), set(vars(m))) for m in hf.modules()
    ]
    assert functions == (F.softmax, F.scaled_dot_product_attention, dict(ALL_ATTENTION_FUNCTIONS))
    assert hf.config._attn_implementation == implementation
