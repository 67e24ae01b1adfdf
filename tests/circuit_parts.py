"""Circuits and prompts made up for tests."""

import numpy as np
import xarray as xr

import patchpoint as pp
from patchpoint.circuits.circuit import Circuit, Origin
from patchpoint.engine.graph.edges import Graph
from patchpoint.engine.graph.nodes import senders


def node_names(model):
    return [str(node) for node in senders(model)[1:]]


def edge_names(model):
    graph = Graph.of(model)
    return [
        (str(graph.senders[sender]), str(graph.ports[port]))
        for sender, port in graph.readable.nonzero().tolist()
    ]


def made_circuit(model, data, nodes=None, edges=None, scores=None, **settings):
    """A circuit of these nodes or edges; scores by name, 0 for the others."""
    scores = scores or {}
    if edges is None:
        names = node_names(model)
        values = xr.DataArray(
            np.array([scores.get(name, 0) for name in names], dtype=np.float32),
            coords={"node": names},
            dims="node",
        )
    else:
        graph = Graph.of(model)
        table = np.full(graph.readable.shape, np.nan, dtype=np.float32)
        for edge in edge_names(model):
            table[graph.number(edge)] = scores.get(edge, 0)
        coords = {"sender": list(map(str, graph.senders)), "port": list(map(str, graph.ports))}
        values = xr.DataArray(table, dims=("sender", "port"), coords=coords)
        touched = {
            name for edge in edges for name in (edge[0], edge[1].removesuffix(".q").removesuffix(".k"))
        }
        touched |= {name.removesuffix(".v") for name in touched}
        nodes = [name for name in node_names(model) if name in touched]
    return Circuit(
        nodes=tuple(nodes),
        edges=None if edges is None else tuple(edges),
        scores=values,
        method="made",
        settings={"ablation": "mean", "over": "position", "metric": "logit_diff", "seed": 0, **settings},
        origin=Origin.of(model, data),
    )


def drawn_prompts(model, n, seed, n_tokens=5, answers=None):
    """Prompts of random words, the twin with another word in its middle, random answers of one token."""
    draw = np.random.default_rng(seed)
    clean = draw.integers(1, 90, size=(n, n_tokens))
    corrupt = clean.copy()
    corrupt[:, 1] = (clean[:, 1] + draw.integers(1, 80, size=n)) % 90
    pairs = [draw.choice(90, 2, replace=False) for _ in range(n)] if answers is None else answers
    texts = [[" ".join(f"w{i}" for i in ids) for ids in side] for side in (clean, corrupt)]
    words = [[f" w{pair[i]}" for pair in pairs] for i in (0, 1)]
    return pp.Prompts.from_pairs(model, *texts, *words)


def telling_prompts(model, n, seed, n_tokens=5):
    """Prompts whose answers are what the model itself tells the twins apart by."""
    plain = drawn_prompts(model, n, seed, n_tokens)
    apart = model.run(plain.clean).logits - model.run(plain.corrupt).logits
    return drawn_prompts(
        model,
        n,
        seed,
        n_tokens,
        list(zip(*apart.topk(1).indices.T.tolist(), *(-apart).topk(1).indices.T.tolist(), strict=True)),
    )
