"""Node pruning by its definition: for every candidate the whole untouched model with hooks, prompt by prompt."""

from dataclasses import replace

import torch

import reference
from patchpoint.engine import Batch

OUTPUTS = {"head": "z", "mlp": "mlp_out"}


def answered(model, prompts, place=40):
    """The same prompts with the model's own prediction as the correct answer."""
    ranked = [
        reference.logits(model.hf, ids)[0].argsort(descending=True).tolist() for ids in prompts.clean.tokens
    ]
    right, wrong = (tuple(row[k] for row in ranked) for k in (0, place))
    sides = [Batch(side.tokens, right, wrong) for side in (prompts.clean, prompts.corrupt)]
    return replace(prompts, clean=sides[0], corrupt=sides[1], correct_tokens=right, incorrect_tokens=wrong)


def outputs_of(hf, ids, edits=()):
    """{(layer, component): [token, width]} of one prompt."""
    keys = [(k, name) for k in range(hf.config.num_hidden_layers) for name in OUTPUTS.values()]
    return {key: value[0] for key, value in reference.activations(hf, ids, keys, edits).items()}


def mean_of(hf, prompts, edits=()):
    """{(layer, component): [token, width]}, the mean over prompts of one length at each position."""
    found = [outputs_of(hf, ids, edits) for ids in prompts]
    return {key: torch.stack([each[key] for each in found]).mean(0) for key in found[0]}


def knocked_out(hf, removed, values):
    """Edits that put values in the place of nodes such as "1.2" and "mlp 0"."""
    edits = []
    for name in removed:
        if name.startswith("mlp"):
            layer = int(name.split()[1])
            edits.append((layer, "mlp_out", None, None, "replace", at(values, layer, "mlp_out")))
        else:
            layer, head = map(int, name.split("."))
            value = at(values, layer, "z")
            if not isinstance(value, float):
                value = value.unflatten(-1, (hf.config.num_attention_heads, -1))[..., head, :]
            edits.append((layer, "z", None, head, "replace", value))
    return edits


def at(values, layer, component):
    return values if isinstance(values, float) else values[layer, component]


def mean_difference(hf, prompts, removed, values_of):
    """The mean logit difference without some nodes; values_of(prompt) stand in for their outputs."""
    found = []
    for number, ids in enumerate(prompts.clean.tokens):
        logits = reference.logits(hf, ids, knocked_out(hf, removed, values_of(number)))[0].double()
        found.append(logits[prompts.correct_tokens[number]] - logits[prompts.incorrect_tokens[number]])
    return torch.stack(found).mean().item()


def stand_ins(hf, prompts, ablation, donors=None):
    """values_of for an ablation; `donors` are the prompts that resampling draws."""
    if ablation == "zero":
        return lambda removed: lambda number: 0.0
    if ablation == "resample":
        found = [outputs_of(hf, prompts.corrupt.tokens[donor]) for donor in donors]
        return lambda removed: lambda number: found[number]
    means = mean_of(hf, prompts.corrupt.tokens)
    if ablation == "mean":
        return lambda removed: lambda number: means

    def of_circuit(removed):
        heads = [name for name in removed if not name.startswith("mlp")]
        again = mean_of(hf, prompts.corrupt.tokens, knocked_out(hf, heads, means))
        both = {key: means[key] if key[1] == "z" else again[key] for key in means}
        return lambda number: both

    return of_circuit


def search(hf, prompts, threshold, values_of, one_iter=False):
    """(kept nodes as a set, [(name, performance, kept)] of every candidate of every pass)."""
    n_layers, n_heads = hf.config.num_hidden_layers, hf.config.num_attention_heads
    removed, steps = [], []
    full = mean_difference(hf, prompts, [], values_of([]))

    def try_without(name):
        if name not in removed:
            asked = [*removed, name]
            value = 100 * mean_difference(hf, prompts, asked, values_of(asked)) / full
            kept = not 100 - value < threshold
            steps.append((name, value, kept))
            if not kept:
                removed.append(name)

    while True:
        before = len(removed)
        for layer in reversed(range(n_layers)):
            for name in (f"mlp {layer}", *(f"{layer}.{head}" for head in range(n_heads))):
                try_without(name)
        for layer in range(n_layers):
            for name in (*(f"{layer}.{head}" for head in range(n_heads)), f"mlp {layer}"):
                try_without(name)
        if one_iter or len(removed) == before:
            names = [*(f"{k}.{h}" for k in range(n_layers) for h in range(n_heads))]
            names += [f"mlp {k}" for k in range(n_layers)]
            return {name for name in names if name not in removed}, steps
