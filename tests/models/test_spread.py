"""Models whose weights lie on disk or elsewhere (`device_map`): the same numbers on the same code path."""

import numpy as np
import pytest
import torch

import patchpoint as pp
from families import tiny
from patchpoint.engine import Batch
from patchpoint.engine.gradients import attribute_edges
from patchpoint.engine.graph import graph_run, sweep_edges
from patchpoint.models.placement import is_spread
from words import word_tokenizer

PROMPTS = ((5, 9, 13, 2, 44, 7, 31, 80), (11, 3, 60, 8, 21))
BLOCKS = {"llama": "model.layers", "gpt2": "transformer.h", "bloom": "transformer.h"}


@pytest.fixture(params=BLOCKS)
def folder(request, tmp_path):
    tiny(request.param).save_pretrained(tmp_path / request.param)
    word_tokenizer().save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


def spread_over(folder, **places):
    """A device map that names the folder's modules: everything on the CPU but what is told."""
    hf = pp.load(str(folder), device="cpu").hf
    layers = BLOCKS[folder.name]
    ends = [
        name
        for name, child in hf.named_modules()
        if not list(child.children()) and not name.startswith(layers)
    ]
    blocks = [f"{layers}.{k}" for k in range(3)]
    return dict.fromkeys((*ends, *blocks), "cpu") | {
        f"{layers}.{k[1:]}": place for k, place in places.items()
    }


def measured(model):
    base = model.run(Batch(PROMPTS, (1, 2), (3, 4)))
    donor = model.run(Batch(((6, 9, 13, 2, 44, 7, 31, 80), (12, 3, 60, 8, 21))), keep=())
    edits = [
        pp.Edit(pp.Site(k, c), "replace", donor)
        for k in range(3)
        for c in ("z", "mlp_post", "q_input", "pattern")
    ]
    edits += [pp.Edit(pp.Site(0, "embed", 1), "scale", 2.0), pp.Edit(pp.Site(-1, "final"), "scale", 0.5)]
    edges = attribute_edges(base, donor, steps=2)
    graph = graph_run(
        base, donor, [("embed", "0.1.q"), ("0.1", "mlp 1"), ("mlp 1", "logits"), ("1.2", "2.0.v")]
    )
    changed = sweep_edges(graph, [("embed", "mlp 1"), ("1.2", "2.3.k"), ("2.0", "logits")])
    return base.logits, pp.sweep(base, edits, "logit_diff").values, edges.values, graph.logits, changed.values


def test_blocks_on_disk_give_the_same_numbers(folder):
    whole = pp.load(str(folder), device="cpu")
    spread = pp.load(str(folder), device_map=spread_over(folder, _1="disk", _2="disk"))
    assert is_spread(spread.hf)
    assert any(p.device.type == "meta" for p in spread.hf.parameters()), "nothing was offloaded"
    for got, want in zip(measured(spread), measured(whole), strict=True):
        np.testing.assert_array_equal(got, want)


def test_r42_weights_go_back_after_use(folder):
    spread = pp.load(str(folder), device_map=spread_over(folder, _1="disk"))
    kept = [(name, p.device.type) for name, p in spread.hf.named_parameters()]
    forward = [vars(module).get("forward") for module in spread.hf.modules()]
    measured(spread)
    assert [(name, p.device.type) for name, p in spread.hf.named_parameters()] == kept
    assert [vars(module).get("forward") for module in spread.hf.modules()] == forward
    with pytest.raises(RuntimeError, match="stop"):
        stop_inside(spread)
    assert [(name, p.device.type) for name, p in spread.hf.named_parameters()] == kept
    with torch.no_grad():
        spread.hf(torch.tensor([PROMPTS[0]]))


def stop_inside(model):
    with model.block(1) as block:
        assert block.layer is model.adapter.blocks[1].layer
        assert all(p.device.type == "cpu" for p in block.layer.parameters())
        raise RuntimeError("stop")


def test_fingerprint_is_that_of_the_whole_model(folder):
    spread = pp.load(str(folder), device_map=spread_over(folder, _0="disk", _2="disk"))
    assert spread.fingerprint == pp.load(str(folder), device="cpu").fingerprint


def test_device_and_device_map_exclude_each_other(folder):
    with pytest.raises(pp.PatchpointError, match="device or device_map, not both"):
        pp.load(str(folder), device="cpu", device_map="auto")
    model = pp.load(str(folder), device="cpu")
    with pytest.raises(pp.PatchpointError, match="stays where it is"):
        pp.load(model.hf, tokenizer=model.tokenizer, device_map="auto")


def test_a_wrong_device_map_is_one_clear_line(folder):
    block = f"{BLOCKS[folder.name]}.1"
    with pytest.raises(pp.PatchpointError, match=f"unknown module in device_map .*did you mean .*{block}"):
        pp.load(str(folder), device_map={"": "cpu", f"{block}x": "cpu"})
