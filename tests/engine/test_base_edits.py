"""A base run may carry edits of its own: its variants carry them too."""

import numpy as np
import pytest
import torch

import patchpoint as pp
import reference
from patchpoint.engine import Batch
from words import tiny_model

IDS = (5, 9, 13, 2, 44, 7)
OWN = {
    "stream above": (2, "resid_post", [3], None, "scale", 0.5),
    "mlp of the entry block": (1, "mlp_out", [2], None, "scale", -1.0),
    "z of the entry block": (1, "z", [2], 1, "scale", 3.0),
    "attention above": (2, "attn_out", [1, 2, 4], None, "add", 0.3),
    "stream of the entry block": (1, "resid_post", [2, 4], None, "scale", 2.0),
    "embedding": (0, "embed", [0, 2], None, "scale", 3.0),
    "last block": (2, "mlp_out", [5], None, "scale", 0.0),
    "attention to later tokens": (1, "pattern", [1, 3], 1, "add", 0.3),
    "queries": (1, "q", [1, 4], 2, "scale", -1.0),
    "one head's queries": (2, "q_input", [5], 2, "scale", -1.0),
    "one head's values": (2, "v_input", [1, 4], 2, "scale", -1.0),
    "behind the final norm": (-1, "final", [5], None, "scale", 0.5),
}
VARIANTS = {
    "stream": (1, "resid_post", [2], None, "scale", -2.0),
    "stream before": (0, "resid_pre", [2], None, "scale", -2.0),
    "z": (1, "z", [2], 1, "scale", -2.0),
    "mlp": (1, "mlp_out", [2, 3], None, "scale", -2.0),
    "embedding": (0, "embed", [2], None, "scale", -2.0),
    "last block": (2, "mlp_out", [5], None, "add", 1.0),
    "keys": (1, "k_input", [2], 0, "scale", -2.0),
    "neurons": (2, "mlp_post", [5], 3, "add", 1.0),
}


def as_edit(layer, component, positions, picks, op, value):
    head, neuron = (None, picks) if component == "mlp_post" else (picks, None)
    return pp.Edit(pp.Site(layer, component, tuple(positions), head, neuron), op, value)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj"])
def test_variants_carry_the_base_runs_own_edits(family, own, variant):
    model = tiny_model(family)
    base = model.run(Batch((IDS,), (10,)), edits=[as_edit(*OWN[own])])
    got = pp.sweep(base, [as_edit(*VARIANTS[variant])], "logit").values[0, 0]
    want = reference.logits(model.hf, IDS, [OWN[own], VARIANTS[variant]])[0, 10]
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_what_a_run_was_set_to_is_what_is_read_back_r58():
    model = tiny_model("llama")
    for component in ("z", "attn_out", "resid_mid", "mlp_out", "resid_post"):
        site = pp.Site(1, component, (2,))
        run = model.run(Batch((IDS,)), edits=[pp.Edit(site, "replace", 0.25)])
        assert torch.equal(run.cache[site], torch.full_like(run.cache[site], 0.25))


def test_a_source_run_gives_its_edited_values():
    model = tiny_model("gpt2")
    site = pp.Site(1, "resid_mid", (2,))
    source = model.run(Batch((IDS,)), edits=[pp.Edit(site, "scale", 3.0)])
    base = model.run(Batch((IDS,), (10,)))
    got = pp.sweep(base, [pp.Edit(site, "replace", source)], "logit").values[0, 0]
    want = reference.logits(model.hf, IDS, [(1, "resid_mid", [2], None, "scale", 3.0)])[0, 10]
    np.testing.assert_allclose(got, want, atol=1e-4)
