"""Circuits made by hand, for pictures and tables that need no model."""

import numpy as np
import xarray as xr

from patchpoint.circuits.circuit import Circuit, Origin, Step


def part_names(n_layers, n_heads):
    """Senders and ports of a model of that size."""
    senders, ports = ["embed"], []
    for layer in range(n_layers):
        for head in range(n_heads):
            senders.append(f"{layer}.{head}")
            ports += [f"{layer}.{head}.{part}" for part in "qkv"]
        senders.append(f"mlp {layer}")
        ports.append(f"mlp {layer}")
    return senders, [*ports, "logits"]


def origin(task="ioi", **changes):
    fields = {
        "model": "tiny",
        "model_fingerprint": "m",
        "tokenizer_fingerprint": "t",
        "task": task,
        "corruption": "swapped",
        "seed": 3,
        "n_prompts": 12,
    }
    return Origin(**(fields | changes))


def node_circuit(scores, kept, *, n_layers=3, n_heads=2, task="ioi", steps=()):
    """`scores` by name, NaN for the others."""
    names = part_names(n_layers, n_heads)[0][1:]
    return Circuit(
        nodes=tuple(name for name in names if name in kept),
        edges=None,
        scores=xr.DataArray(
            np.array([scores.get(name, np.nan) for name in names], np.float32),
            dims="node",
            coords={"node": names},
        ),
        method="by-hand",
        settings={"threshold": 20.0, "ablation": "mean"},
        origin=origin(task),
        steps=tuple(Step(*step) for step in steps),
    )


def edge_circuit(kept, *, n_layers=3, n_heads=2, task="ioi", others=()):
    """`kept`: score by (sender, port); `others` are scored but not kept."""
    senders, ports = part_names(n_layers, n_heads)
    values = np.full((len(senders), len(ports)), np.nan, np.float32)
    for (sender, port), score in {**kept, **dict(others)}.items():
        values[senders.index(sender), ports.index(port)] = score
    ends = {end.rsplit(".", 1)[0] if end.count(".") == 2 else end for edge in kept for end in edge}
    return Circuit(
        nodes=tuple(name for name in senders[1:] if name in ends),
        edges=tuple(kept),
        scores=xr.DataArray(values, dims=("sender", "port"), coords={"sender": senders, "port": ports}),
        method="by-hand-edges",
        settings={"n_edges": len(kept)},
        origin=origin(task),
    )
