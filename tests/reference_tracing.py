"""The slow, obvious twin of causal tracing: every site by runs of its own, with hooks on the untouched model.

A disturbance is a list of edits of `reference`, such as [(0, "embed", positions, None, "add", values)], with values of
shape [sample, position, width]; a state is one of `STATES`. Probabilities are those of one answer token, [sample].
"""

import torch

import reference

STATES = {"resid": "resid_post", "mlp": "mlp_out", "attn": "attn_out"}


def probability(hf, ids, answer, edits=(), samples=1):
    return reference.logits(hf, ids, edits, samples).softmax(-1)[:, answer]


def window_of(state, layer, window, n_layers):
    """For a window of 10: layers max(0, l - 5) ... min(L, l + 5) - 1; a residual stream is of one layer."""
    if state == "resid":
        return [layer]
    first = layer - window // 2
    return [k for k in range(n_layers) if first <= k < first + window]


def taken_from(hf, ids, layers, component, token, edits, samples):
    """Replacements of a component at one token, in these layers, by what another run of the prompt has there."""
    found = reference.activations(hf, ids, [(k, component) for k in layers], edits, samples)
    return [(*place, [token], None, "replace", value[:, [token]]) for place, value in found.items()]


def at_site(hf, ids, disturbance, answer, token, layer, *, state, window, direction, sever, samples):
    """The answer's probability when one state is exchanged, all else being as in the corrupted (clean) run.

    `sever`: the outputs of MLP ("mlp") or attention ("attn") at that token in the layers above are recorded in a run
    without the exchange, and held there in the run with it.
    """
    n_layers = hf.config.num_hidden_layers
    here, there = (disturbance, []) if direction == "restore" else ([], disturbance)
    layers = window_of(state, layer, window, n_layers)
    exchange = taken_from(hf, ids, layers, STATES[state], token, there, samples)
    above = range(layer + 1, n_layers)
    held = taken_from(hf, ids, above, STATES[sever], token, here, samples) if sever else []
    return probability(hf, ids, answer, [*here, *exchange, *held], samples)


def trace(
    hf, ids, disturbance, answer, *, state="resid", window=10, direction="restore", sever=None, samples=1
):
    """[token, layer, sample] for one disturbance common to all sites."""
    asked = {"state": state, "window": window, "direction": direction, "sever": sever, "samples": samples}
    return over_sites(hf, ids, lambda *site: at_site(hf, ids, disturbance, answer, *site, **asked))


def fresh(
    hf, ids, disturbance_of, answer, *, state="resid", window=10, direction="restore", sever=None, samples=1
):
    """Two of [token, layer, sample], exchanged and without exchange, when each site has noise of its own.

    `disturbance_of(token, layer)` gives that noise.
    """
    asked = {"state": state, "window": window, "direction": direction, "sever": sever, "samples": samples}
    return (
        over_sites(hf, ids, lambda *site: at_site(hf, ids, disturbance_of(*site), answer, *site, **asked)),
        over_sites(hf, ids, lambda *site: probability(hf, ids, answer, disturbance_of(*site), samples)),
    )


def over_sites(hf, ids, value_at):
    n_layers = hf.config.num_hidden_layers
    return torch.stack(
        [torch.stack([value_at(token, layer) for layer in range(n_layers)]) for token in range(len(ids))]
    )


def exchanged_prompt(hf, ids, other_ids, answer, token, layer):
    """The probability after a prompt in other words, one clean residual state put into it; no embedding is edited."""
    clean = reference.activations(hf, ids, [(layer, "resid_post")])[layer, "resid_post"]
    edit = (layer, "resid_post", [token], None, "replace", clean[:, [token]])
    return probability(hf, other_ids, answer, [edit])


def heatmap(hf, ids, disturbance, answer, *, samples=1, direction="restore", **asked):
    """What a fact's heatmap holds: the effect [token, layer] as a mean over samples, p_clean and p_corrupt."""
    values = trace(hf, ids, disturbance, answer, samples=samples, direction=direction, **asked)
    clean = probability(hf, ids, answer)
    corrupt = probability(hf, ids, answer, disturbance, samples)
    effect = (values - (corrupt if direction == "restore" else clean)).mean(-1)
    return effect.double().numpy(), float(clean), float(corrupt.mean())
