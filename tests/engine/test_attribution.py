"""Attributions of nodes and edges against their literal definition on the plain model, and against doing it."""

import numpy as np
import pytest
import torch

import patchpoint as pp
import reference
import reference_gradients
from patchpoint.engine import Batch
from patchpoint.engine.gradients import attribution
from patchpoint.engine.gradients.attribution import attribute_edges, attribute_nodes, changed_rows
from patchpoint.engine.gradients.final import final_gradient
from patchpoint.engine.gradients.run_parts import run_between
from patchpoint.engine.graph.nodes import n_readable, ports, senders
from patchpoint.engine.sweep import base_values
from patchpoint.errors import InvalidArgument, PromptError, UnknownName
from words import tiny_model

CLEAN = ((5, 9, 13, 2, 44, 7, 31, 80), (11, 3, 60, 8, 21), (70, 71, 72, 73, 74, 75, 76, 77), (4, 6, 90))
CORRUPT = ((5, 9, 13, 2, 45, 7, 32, 80), (12, 3, 61, 8, 22), (70, 71, 72, 73, 74, 75, 76, 78), (4, 7, 90))
CORRECT, INCORRECT = (10, 20, 30, 40), (11, 21, 31, 41)
PLAIN = [
    pytest.param("llama", {}, id="llama"),
    pytest.param("gpt2", {}, id="gpt2"),
    pytest.param("gpt_neox", {}, id="gpt_neox-parallel"),
    pytest.param("mistral", {"sliding_window": 4, "num_key_value_heads": 1}, id="mistral-window-mqa"),
]
"""Nothing stands between a head's own part of the output projection and the stream."""


def runs(model, times=1):
    return model.run(Batch(CLEAN * times, CORRECT * times, INCORRECT * times)), model.run(
        Batch(CORRUPT * times)
    )


def difference(prompt):
    return lambda logits: logits[CORRECT[prompt]] - logits[INCORRECT[prompt]]


def head_maps(hf, layer):
    """[head, d_head, d_model] of the output projection, from Hugging Face's weights."""
    projection = reference_gradients.blocks_of(hf)[layer].get_submodule(reference.names_of(hf).projection)
    weight = projection.weight if hf.config.model_type == "gpt2" else projection.weight.T
    return weight.detach().unflatten(0, (hf.config.num_attention_heads, -1))


def activations(hf, ids):
    """{(layer, component): [token, width]} of the plain model."""
    places = [(0, "resid_pre")]
    places += [(k, name) for k in range(hf.config.num_hidden_layers) for name in ("z", "mlp_out")]
    return {key: found[0] for key, found in reference.activations(hf, ids, places).items()}


def differences(hf, clean, corrupt):
    """What each component's corrupted activations are above its clean ones."""
    theirs, ours = activations(hf, corrupt), activations(hf, clean)
    return {key: theirs[key] - ours[key] for key in ours}


def between(hf, clean, corrupt, steps):
    """The streams before block 0 at which gradients are taken."""
    there, here = activations(hf, clean)[0, "resid_pre"], activations(hf, corrupt)[0, "resid_pre"]
    return [here + (i / steps) * (there - here) for i in range(1, steps + 1)]


def mean_of(dicts):
    return {key: torch.stack([found[key] for found in dicts]).mean(0) for key in dicts[0]}


def literal_nodes(hf, clean, corrupt, metric, steps):
    """Attribution patching as it is defined: [node]."""
    delta = differences(hf, clean, corrupt)
    slopes = [
        reference_gradients.node_gradients(hf, clean, metric, x) for x in between(hf, clean, corrupt, steps)
    ]
    product = {
        key: (delta[key] * gradient).sum(0) for key, gradient in mean_of(slopes).items() if key in delta
    }
    scores = [product[0, "resid_pre"].sum()]
    for layer in range(hf.config.num_hidden_layers):
        scores += product[layer, "z"].unflatten(0, (hf.config.num_attention_heads, -1)).sum(-1)
        scores.append(product[layer, "mlp_out"].sum())
    return torch.stack(scores).numpy()


def sender_outputs(hf, clean, corrupt):
    """What each sender adds to the stream beyond its clean output, [sender, token, d_model]."""
    delta, n_heads = differences(hf, clean, corrupt), hf.config.num_attention_heads
    outputs = [delta[0, "resid_pre"]]
    for layer in range(hf.config.num_hidden_layers):
        z, maps = delta[layer, "z"].unflatten(1, (n_heads, -1)), head_maps(hf, layer)
        outputs += [z[:, h] @ maps[h] for h in range(n_heads)]
        outputs.append(delta[layer, "mlp_out"])
    return torch.stack(outputs)


def literal_edges(hf, clean, corrupt, metric, steps):
    """EAP as it is defined, unreadable senders too: [sender, port]."""
    points, n_layers = between(hf, clean, corrupt, steps), hf.config.num_hidden_layers
    nodes = mean_of([reference_gradients.node_gradients(hf, clean, metric, x) for x in points])
    slopes = []
    for layer in range(n_layers):
        at = mean_of([reference_gradients.port_gradients(hf, clean, layer, metric, x) for x in points])
        for head in range(hf.config.num_attention_heads):
            slopes += [at[part][:, head] for part in "qkv"]
        slopes.append(nodes[layer, "mlp_in"])
    # Nothing stands between the last MLP's output and the logits' port.
    slopes.append(nodes[n_layers - 1, "mlp_out"])
    outputs = sender_outputs(hf, clean, corrupt)
    return torch.einsum("std,ptd->sp", outputs, torch.stack(slopes)).numpy()


def readable(model):
    """[sender, port]."""
    count = np.array([n_readable(model, port) for port in ports(model)])
    return np.arange(len(senders(model)))[:, None] < count


def assert_equal(got, want, tolerance=1e-4):
    assert np.abs(want).max() > 1e-2, "these scores are zero, nothing is tested"
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize(("family", "config"), PLAIN)
@pytest.mark.parametrize("steps", [1, 3])
def test_r49_node_scores_equal_their_definition_in_float64(family, config, steps):
    got = attribute_nodes(*runs(tiny_model(family, **config)), steps=steps)
    assert got.dims == ("node", "prompt")
    assert got.dtype == np.float32
    assert list(got.node.values[[0, 1, 5, 6, -1]]) == ["embed", "0.0", "mlp 0", "1.0", "mlp 2"]
    hf = tiny_model(family, **config).hf.double()
    for prompt, (clean, corrupt) in enumerate(zip(CLEAN, CORRUPT, strict=True)):
        want = literal_nodes(hf, clean, corrupt, difference(prompt), steps)
        assert_equal(got.values[:, prompt], want)


@pytest.mark.parametrize(("family", "config"), PLAIN)
@pytest.mark.parametrize("steps", [1, 3])
def test_r49_edge_scores_equal_their_definition_in_float64(family, config, steps):
    model = tiny_model(family, **config)
    got = attribute_edges(*runs(model), steps=steps)
    assert got.dims == ("sender", "port")
    assert got.dtype == np.float32
    assert list(got.port.values[[0, 1, 2, 3, 12, 13, -1]]) == [
        "0.0.q",
        "0.0.k",
        "0.0.v",
        "0.1.q",
        "mlp 0",
        "1.0.q",
        "logits",
    ]
    hf = tiny_model(family, **config).hf.double()
    want = np.mean(
        [
            literal_edges(hf, *pair, difference(i), steps)
            for i, pair in enumerate(zip(CLEAN, CORRUPT, strict=True))
        ],
        axis=0,
    )
    may_read = readable(model)
    assert (np.isnan(got.values) == ~may_read).all()
    assert_equal(got.values[may_read], want[may_read])


def slope_of(hf, ids, metric, edit, step, size=1e-2):
    """d metric / d how much of a step is added, in the plain loop."""
    values = []
    for sign in (1, -1):
        edits = reference.without_ports(hf, ids, [(*edit, "add", sign * size * step)], 1)
        with torch.no_grad(), reference.hooked(hf, 1, edits, {}):
            values.append(float(metric(hf(torch.tensor([ids])).logits[0, -1])))
    return (values[0] - values[1]) / (2 * size)


@pytest.mark.parametrize(("family", "config"), PLAIN[:3])
def test_r13_node_scores_equal_finite_differences_of_the_hook_loop(family, config):
    got = attribute_nodes(*runs(tiny_model(family, **config))).values
    hf = tiny_model(family, **config).hf.double()
    n_heads = hf.config.num_attention_heads
    for prompt in (0, 3):
        delta = differences(hf, CLEAN[prompt], CORRUPT[prompt])
        want = [
            slope_of(
                hf, CLEAN[prompt], difference(prompt), (0, "resid_pre", None, None), delta[0, "resid_pre"]
            )
        ]
        for layer in range(hf.config.num_hidden_layers):
            z = delta[layer, "z"].unflatten(1, (n_heads, -1))
            places = [((layer, "z", None, head), z[:, head]) for head in range(n_heads)]
            places.append(((layer, "mlp_out", None, None), delta[layer, "mlp_out"]))
            want += [slope_of(hf, CLEAN[prompt], difference(prompt), *place) for place in places]
        assert_equal(got[:, prompt], np.array(want), 1e-2)


@pytest.mark.parametrize(("family", "config"), PLAIN[:3])
def test_r13_edge_scores_equal_finite_differences_of_the_hook_loop(family, config):
    """Some senders of every port: what they add goes into that port's own copy of the stream alone."""
    model = tiny_model(family, **config)
    clean = model.run(Batch(CLEAN[:1], CORRECT[:1], INCORRECT[:1]))
    got = attribute_edges(clean, model.run(Batch(CORRUPT[:1]))).values
    hf = tiny_model(family, **config).hf.double()
    outputs, last = sender_outputs(hf, CLEAN[0], CORRUPT[0]), len(CLEAN[0]) - 1
    found, want = [], []
    for column, port in enumerate(ports(model)):
        node = port.node
        edit = {
            "head": (node.layer, f"{port.part}_input", None, node.head),
            "mlp": (node.layer, "mlp_in", None, None),
            "logits": (model.n_layers - 1, "resid_post", [last], None),
        }[node.kind]
        for sender in {0, column % n_readable(model, port), n_readable(model, port) - 1}:
            step = outputs[sender] if edit[2] is None else outputs[sender, edit[2]]
            want.append(slope_of(hf, CLEAN[0], difference(0), edit, step))
            found.append(got[sender, column])
    assert_equal(np.array(found), np.array(want), 1e-2)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_r49_embedding_scores_add_up_to_the_metric_difference_as_steps_grow(family):
    clean, corrupt = runs(tiny_model(family))
    true = (
        base_values(corrupt.scored(CORRECT, INCORRECT), "logit_diff") - base_values(clean, "logit_diff")
    ).numpy()
    errors = [
        np.abs(attribute_nodes(clean, corrupt, steps=steps).sel(node="embed").values - true).max()
        for steps in (4, 32, 256)
    ]
    assert errors[2] < 2e-2 * np.abs(true).max()
    assert errors[2] < errors[1] / 3 < errors[0] / 6


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("steps", [1, 2])
def test_scores_do_not_depend_on_memory(family, steps, monkeypatch):
    asked, whole = [], attribution.part_of
    monkeypatch.setattr(attribution, "part_of", lambda *args: asked.append(args[1:]) or whole(*args))
    clean, corrupt = runs(tiny_model(family), times=10)
    for attribute in (attribute_nodes, attribute_edges):
        at_once = attribute(clean, corrupt, steps=steps)
        assert set(asked) == {(0, 40)}
        in_parts = attribute(clean, corrupt, steps=steps, memory_gib=8e-4)
        assert len(set(asked)) > 2, "the prompts were not cut"
        asked.clear()
        np.testing.assert_allclose(in_parts.values, at_once.values, atol=1e-5 * np.nanmax(np.abs(at_once)))


def test_a_run_between_two_starts_a_share_of_the_way_from_the_first():
    clean, corrupt = runs(tiny_model("llama"))
    quarter = run_between(corrupt, clean, 0.25)
    torch.testing.assert_close(quarter.resid[0], 0.75 * corrupt.resid[0] + 0.25 * clean.resid[0])
    torch.testing.assert_close(run_between(corrupt, clean, 1.0).logits, clean.logits)
    torch.testing.assert_close(run_between(corrupt, clean, 0.0).logits, corrupt.logits)
    with pytest.raises(PromptError, match="the stream is of prompts"):
        clean.model.run(Batch(CLEAN[:2]), edits=quarter.edits)


def test_what_was_not_kept_is_computed_again():
    model = tiny_model("gemma2")
    clean, corrupt = runs(model)
    bare = [model.run(run.batch, keep=()) for run in (clean, corrupt)]
    for attribute in (attribute_nodes, attribute_edges):
        np.testing.assert_allclose(attribute(*bare), attribute(clean, corrupt), atol=1e-5)


def test_only_rows_that_differ_are_looked_at():
    clean, corrupt = runs(tiny_model("llama"))
    differs = changed_rows(clean, corrupt)
    first = [min(p for p in range(len(a)) if a[p] != b[p]) for a, b in zip(CLEAN, CORRUPT, strict=True)]
    for prompt, start in enumerate(first):
        want = torch.arange(len(CLEAN[prompt])) >= start
        assert torch.equal(differs[clean.packing.rows(prompt)], want)
    same = attribute_edges(clean, clean)
    assert np.nanmax(np.abs(same.values)) == 0


def test_edges_into_the_logits_add_up_to_their_port():
    """All senders together are the stream: the logits' scores sum to the final stream's, biases aside."""
    clean, corrupt = runs(tiny_model("llama"))
    together = attribute_edges(clean, corrupt).sel(port="logits").sum().item()
    moved = corrupt.final_resid - clean.final_resid
    want = (moved * final_gradient(clean)).sum().item() / len(CLEAN)
    np.testing.assert_allclose(together, want, rtol=1e-4)


def test_head_scores_add_up_to_their_shares_of_edges():
    """A head's node score is the sum of its edges' scores: every reader downstream is one of its receivers."""
    clean, corrupt = runs(tiny_model("gemma2"))
    nodes, edges = attribute_nodes(clean, corrupt).mean("prompt"), attribute_edges(clean, corrupt)
    for name in ("embed", "mlp 0", "mlp 1", "mlp 2"):
        np.testing.assert_allclose(
            edges.sel(sender=name).sum().item(), nodes.sel(node=name).item(), atol=1e-5
        )
    plain = runs(tiny_model("llama"))
    nodes, edges = attribute_nodes(*plain).mean("prompt"), attribute_edges(*plain)
    np.testing.assert_allclose(np.nansum(edges.values, axis=1), nodes.values, atol=1e-5)


def test_corruption_by_noise_on_the_embedding():
    model = tiny_model("gpt2")
    noise = torch.randn(2, model.d_embed, generator=torch.Generator().manual_seed(2))
    clean = model.run(Batch(CLEAN, CORRECT, INCORRECT))
    noisy = model.run(
        Batch(CLEAN, CORRECT, INCORRECT), edits=[pp.Edit(pp.Site(0, "embed", (0, 1)), "add", noise)]
    )
    true = (base_values(noisy, "logit_diff") - base_values(clean, "logit_diff")).numpy()
    got = attribute_nodes(clean, noisy, steps=300).sel(node="embed").values
    np.testing.assert_allclose(got, true, atol=2e-2 * np.abs(true).max())


def test_a_metric_of_ones_own_is_told_the_prompts_numbers():
    clean, corrupt = runs(tiny_model("llama"), times=10)
    correct, incorrect = torch.tensor(CORRECT * 10), torch.tensor(INCORRECT * 10)

    def margin(logits, prompts):
        rows = torch.arange(len(prompts))
        return logits[rows, correct[prompts]] - logits[rows, incorrect[prompts]]

    for attribute in (attribute_nodes, attribute_edges):
        for memory_gib in (None, 8e-4):
            got = attribute(clean, corrupt, margin, steps=2, memory_gib=memory_gib)
            np.testing.assert_allclose(got, attribute(clean, corrupt, steps=2), atol=1e-5)


def test_divergence_from_the_clean_run_needs_steps():
    clean, corrupt = runs(tiny_model("gpt2"))
    with pytest.raises(InvalidArgument, match="steps of 2 or more"):
        attribute_nodes(clean, corrupt, "kl")
    base, theirs = (run.logits.log_softmax(-1) for run in (clean, corrupt))
    true = (base.exp() * (base - theirs)).sum(-1).numpy()
    got = attribute_nodes(clean, corrupt, "kl", steps=300).sel(node="embed").values
    np.testing.assert_allclose(got, true, atol=2e-2 * true.max())


def test_wrong_asks_are_refused_in_one_line():
    model = tiny_model("gpt2")
    clean, corrupt = runs(model)
    for attribute in (attribute_nodes, attribute_edges):
        with pytest.raises(PromptError, match="prompt 1 has 5 clean tokens and 4 corrupted"):
            attribute(clean, model.run(Batch((CORRUPT[0], CORRUPT[1][:4], *CORRUPT[2:]))))
        with pytest.raises(PromptError, match="4 prompts, the corrupted 1"):
            attribute(clean, model.run(Batch(CORRUPT[:1])))
        with pytest.raises(InvalidArgument, match="one model"):
            attribute(clean, tiny_model("gpt2").run(Batch(CORRUPT)))
        for steps in (0, 1.5, True):
            with pytest.raises(InvalidArgument, match="at least 1"):
                attribute(clean, corrupt, steps=steps)
        with pytest.raises(UnknownName, match="did you mean"):
            attribute(clean, corrupt, "logit_dif")
        with pytest.raises(InvalidArgument, match="no gradient"):
            attribute(clean, corrupt, "top1")
        with pytest.raises(InvalidArgument, match="edits z of layer 1"):
            attribute(model.run(clean.batch, edits=[pp.Edit(pp.Site(1, "z"), "scale", 0.0)]), corrupt)
        with pytest.raises(InvalidArgument, match="memory budget"):
            attribute(clean, corrupt, memory_gib=1e-5)
        with pytest.raises(InvalidArgument, match="incorrect"):
            attribute(model.run(Batch(CLEAN, CORRECT)), corrupt)


def test_r41_nothing_is_left_behind():
    model = tiny_model("llama")
    model.hf.requires_grad_(True)
    clean, corrupt = runs(model)
    attribute_edges(clean, corrupt, steps=2)
    assert all(parameter.grad is None for parameter in model.hf.parameters())
    assert all(x.grad_fn is None and not x.requires_grad for x in (*clean.resid, *corrupt.resid))
