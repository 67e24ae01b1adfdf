"""The benchmark's parts: the hook loop it compares with, and the least arithmetic it counts."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import patchpoint as pp
from patchpoint.bench.hook_loop import hook_loop_trace
from patchpoint.bench.limit import heatmap_flops
from patchpoint.bench.trace import bench_trace
from patchpoint.engine.cost import block_cost, measured_rate
from words import tiny_model


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_sweep_and_hook_loop_agree_and_are_timed(family):
    model = tiny_model(family)
    result = bench_trace(model, "w1 w2 w3 w4", "w1 w2", samples=2, rounds=1)
    assert result.max_difference < 1e-6
    assert result.max_mean_difference <= result.max_difference
    assert result.ratio == result.loop_seconds / result.sweep_seconds
    assert result.share_of_limit == pytest.approx(result.flops / result.rate / result.sweep_seconds)
    assert result.to_dict()["ratio"] == result.ratio


def test_the_hook_loop_is_the_definition():
    model = tiny_model("gpt2")
    noise = torch.randn(2, 1, 32, generator=torch.Generator().manual_seed(0))
    looped = hook_loop_trace(model, (1, 2, 3), (1, 2), noise, 7).numpy()
    got = pp.trace(model, "w1 w2 w3", subject="w2", answer="w7", noise=noise).samples.values
    np.testing.assert_allclose(looped, got, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_block_cost_counts_the_products_of_a_block(family):
    model = tiny_model(family)
    cost, block = block_cost(model, 0), model.adapter.blocks[0]
    resid = torch.zeros(10, model.d_model)
    rotary = model.adapter.rotary(10)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        q, _, _ = block.qkv(block.attn_in(resid), rotary)
        block.attn_out(q)
        block.mlp_out(resid)
    assert counter.get_total_flops() == 10 * (cost.q + cost.kv + cost.rest)


def test_the_least_arithmetic_by_hand():
    """Two tokens, the first corrupted, three layers, one sample: every product written out."""
    model = tiny_model("gpt2")
    c, softmax = block_cost(model, 0), 2 * 32 * 97
    both = 2 * (c.q + c.kv + c.rest) + 3 * c.pair
    one = c.q + c.kv + c.rest + 2 * c.pair
    first_new = c.q + c.kv + 2 * c.rest + 3 * c.pair
    last_after = c.q + 2 * c.kv + c.rest + 2 * c.pair
    last_first_new = c.kv + c.rest + 2 * c.pair
    sites = [first_new + last_after, last_first_new, 2 * one, one]
    runs = 2 * (3 * both + softmax)
    assert heatmap_flops(model, 2, 0, 1) == sum(sites) + 4 * softmax + runs


def test_the_matrix_rate_is_positive():
    assert measured_rate(torch.device("cpu"), torch.float32, 0.05) > 1e8
