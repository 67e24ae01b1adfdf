"""Knock-outs of every head and MLP, against one hooked forward pass per node and prompt."""

from functools import partial

import numpy as np
import pytest
import torch

import patchpoint as pp
import reference
from patchpoint.circuits import ABLATIONS, ablate_nodes, ablate_nodes_by_prompt
from patchpoint.engine.sources import resampled, roles_of
from twins import RAGGED, SAME_LENGTH, made_prompts
from words import tiny_model

FAMILIES = ("gpt2", "llama", "gptj", "gemma2", "mixtral")
NODES = [f"{layer}.{head}" for layer in range(3) for head in range(4)]
OUTPUTS = ("z", "mlp_out")


def places(model):
    """(layer, component, head) in the order of the nodes."""
    for layer in range(model.n_layers):
        yield from ((layer, "z", head) for head in range(model.n_heads))
        yield layer, "mlp_out", None


def looped(model, prompts, value_of):
    """[node, prompt]: the logit difference with a node's output replaced; value_of(prompt, layer, component)."""
    rows = []
    for layer, component, head in places(model):
        row = []
        for number, ids in enumerate(prompts.clean.tokens):
            value = value_of(number, layer, component)
            if head is not None and not isinstance(value, float):
                value = value.unflatten(-1, (model.n_heads, -1))[..., head, :]
            edit = (layer, component, None, head, "replace", value)
            logits = reference.logits(model.hf, ids, [edit])[0]
            row.append(
                (logits[prompts.correct_tokens[number]] - logits[prompts.incorrect_tokens[number]]).item()
            )
        rows.append(row)
    return np.array(rows)


def outputs_of(model, ids):
    """{(layer, component): [token, width]} of one prompt."""
    keys = [(layer, component) for layer in range(model.n_layers) for component in OUTPUTS]
    return {key: value[0] for key, value in reference.activations(model.hf, ids, keys).items()}


def assert_equal(model, prompts, got, want):
    assert got.dims == ("node", "prompt")
    error = np.abs(got.values - want).max() / model.run(prompts.clean).logits.std().item()
    assert error < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_r51_mean_ablation_equals_the_hook_loop(family):
    model, prompts = tiny_model(family), made_prompts(SAME_LENGTH)
    found = [outputs_of(model, ids) for ids in prompts.corrupt.tokens]
    want = looped(model, prompts, lambda _, *key: torch.stack([each[key] for each in found]).mean(0))
    got = ablate_nodes_by_prompt(model, prompts, "mean")
    assert_equal(model, prompts, got, want)
    assert np.abs(got - got["clean"]).max() > 1e-3
    np.testing.assert_allclose(ablate_nodes(model, prompts, "mean"), want.mean(1), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_r51_zero_ablation_equals_the_hook_loop(family):
    model, prompts = tiny_model(family), made_prompts(RAGGED)
    want = looped(model, prompts, lambda *_: 0.0)
    assert_equal(model, prompts, ablate_nodes_by_prompt(model, prompts, "zero"), want)


@pytest.mark.parametrize("family", FAMILIES[:3])
def test_r51_resample_ablation_equals_the_hook_loop(family):
    model, prompts = tiny_model(family), made_prompts(SAME_LENGTH)
    drawn = [resampled(model.run(prompts.corrupt), seed).prompts for seed in range(20)]
    seed = next(seed for seed, donors in enumerate(drawn) if donors != drawn[0])
    donors = drawn[seed]
    found = [outputs_of(model, prompts.corrupt.tokens[donor]) for donor in donors]
    want = looped(model, prompts, lambda number, *key: found[number][key])
    assert_equal(model, prompts, ablate_nodes_by_prompt(model, prompts, "resample", seed=seed), want)


@pytest.mark.parametrize("over", ["role", "all"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_means_over_roles_and_over_all_tokens_of_ragged_prompts(family, over):
    model, prompts = tiny_model(family), made_prompts(RAGGED)
    found = [outputs_of(model, ids) for ids in prompts.corrupt.tokens]
    roles = [
        [roles_of(spans).get(p, "") if over == "role" else "" for p in range(len(ids))]
        for spans, ids in zip(prompts.spans, prompts.clean.tokens, strict=True)
    ]

    def value_of(number, *key):
        rows, owners = torch.cat([each[key] for each in found]), [role for mine in roles for role in mine]
        means = {role: rows[[owner == role for owner in owners]].mean(0) for role in set(owners)}
        return torch.stack([means[role] for role in roles[number]])

    want = looped(model, prompts, value_of)
    assert_equal(model, prompts, ablate_nodes_by_prompt(model, prompts, "mean", over=over), want)


def test_nodes_are_named_and_labelled():
    got = ablate_nodes(tiny_model("gpt2"), made_prompts(SAME_LENGTH))
    assert got.dims == ("node",)
    assert list(got["node"].values) == [*NODES[:4], "mlp 0", *NODES[4:8], "mlp 1", *NODES[8:], "mlp 2"]
    assert list(got["head"].values) == [0, 1, 2, 3, -1] * 3
    assert list(got["layer"].values) == [0] * 5 + [1] * 5 + [2] * 5
    assert list(got["kind"].values) == (["head"] * 4 + ["mlp"]) * 3
    assert got.attrs["ablation"] == "mean"
    assert got.attrs["over"] == "position"
    assert (got["largest_change"] > 0).all()


def test_the_clean_value_is_that_of_the_whole_model():
    model, prompts = tiny_model("gpt2"), made_prompts(RAGGED)
    logits = model.run(prompts.clean).logits
    each = [
        (logits[i, a] - logits[i, b]).item()
        for i, (a, b) in enumerate(zip(prompts.correct_tokens, prompts.incorrect_tokens, strict=True))
    ]
    assert ablate_nodes(model, prompts, "zero").attrs["clean"] == pytest.approx(np.mean(each), abs=1e-5)
    np.testing.assert_allclose(ablate_nodes_by_prompt(model, prompts, "zero")["clean"], each, atol=1e-5)


def test_r14_a_knock_out_in_a_batch_is_that_of_each_prompt_alone():
    model = tiny_model("llama")
    together = ablate_nodes_by_prompt(model, made_prompts(RAGGED), "zero")
    for number, pair in enumerate(RAGGED):
        alone = ablate_nodes_by_prompt(model, made_prompts((pair,), first=number), "zero")
        np.testing.assert_allclose(together[:, number], alone[:, 0], atol=1e-5)


@pytest.mark.parametrize("head", [0, 3])
def test_r32_zero_ablation_is_the_head_cut_from_the_output_projection(head):
    model, prompts = tiny_model("llama"), made_prompts(RAGGED)
    ablated = ablate_nodes(model, prompts, "zero").sel(node=f"1.{head}")
    with torch.no_grad():
        model.hf.model.layers[1].self_attn.o_proj.weight[:, 8 * head : 8 * head + 8] = 0
    cut = ablate_nodes(model, prompts, "zero")
    assert float(ablated) == pytest.approx(cut.attrs["clean"], abs=1e-5)


def test_r51_a_mean_at_each_position_refuses_prompts_that_do_not_line_up():
    with pytest.raises(pp.PatchpointError, match="needs prompts of one length, got 4 to 6 tokens"):
        ablate_nodes(tiny_model("gpt2"), made_prompts(RAGGED), "mean")


def test_results_do_not_depend_on_the_memory_budget():
    model, prompts = tiny_model("llama"), made_prompts(SAME_LENGTH)
    for ablation in ABLATIONS:
        whole = ablate_nodes(model, prompts, ablation)
        # Just above what the two runs hold.
        tight = ablate_nodes(model, prompts, ablation, memory_gib=3e-4)
        np.testing.assert_allclose(whole, tight, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (partial(ablate_nodes, ablation="maen"), "unknown ablation 'maen'; did you mean mean"),
        (partial(ablate_nodes, ablation="zero", over="rol"), "unknown mean 'rol'; did you mean role"),
        (partial(ablate_nodes, metric="logits"), "unknown metric 'logits'"),
        (partial(ablate_nodes, ablation="resample"), "prompt 1 is the only one of 4 tokens"),
        (partial(ablate_nodes, memory_gib=1e-6), "the budget is"),
    ],
)
def test_wrong_requests_are_refused(call, message):
    with pytest.raises(pp.PatchpointError, match=message):
        call(tiny_model("gpt2"), made_prompts(RAGGED))
