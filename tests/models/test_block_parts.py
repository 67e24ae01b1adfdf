"""The pieces of a block against their definitions and, for values and gradients, against Hugging Face."""

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from packed_forward import LENGTHS, NAMES, hf_alone, model_of, packed_from, packed_run, prompts_of, rotary_of
from patchpoint.errors import ModelError
from patchpoint.models.families import Adapter, Block, Rotary, adapter_for

EXPERTS = ("mixtral",)
UNEVEN = ("codegen", "falcon-new")
"""Layouts whose heads do not lie at even distances in the weight: their maps are copies while in use."""
WITH_NEURONS = [name for name in NAMES if not name.startswith(EXPERTS)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blocks_of(name: str) -> tuple[Adapter, tuple[Block, ...], Rotary | None]:
    adapter = adapter_for(model_of(name))
    return adapter, adapter.blocks, rotary_of(adapter, LENGTHS)


def shares(block: Block, z: Tensor) -> tuple[Tensor, Tensor]:
    """By definition, what each head adds and what the bias adds, behind a norm or a factor."""
    linear = block.out_proj
    rows = linear.weight if isinstance(linear, Conv1D) else linear.weight.T
    behind = block.attn_out(z) / linear(z.flatten(-2))
    width = block.d_head
    heads = [z[:, h] @ rows[h * width : (h + 1) * width] * behind for h in range(block.n_heads)]
    bias = torch.zeros_like(behind) if linear.bias is None else linear.bias * behind
    return torch.stack(heads, dim=1), bias


@torch.no_grad()
def well_conditioned(block: Block, z: Tensor) -> Tensor:
    """Rows for which the quotient in `shares` has an accurate gradient: no divisor near 0."""
    rows = z[block.out_proj(z.flatten(-2)).abs().amin(-1) > 0.02]
    assert len(rows) >= 3
    return rows[:5]


def ports(block: Block, x: Tensor, rotary: Rotary | None) -> dict[str, Tensor]:
    """The ports by their definition: one head's whole projection for every copy of the stream."""
    group = block.n_heads // block.n_kv_heads
    runs = [block.qkv(block.attn_in(x[:, head]), rotary) for head in range(block.n_heads)]
    return {
        "q": torch.stack([q[:, head] for head, (q, _, _) in enumerate(runs)], dim=1),
        "k": torch.stack([k[:, head // group] for head, (_, k, _) in enumerate(runs)], dim=1),
        "v": torch.stack([v[:, head // group] for head, (_, _, v) in enumerate(runs)], dim=1),
    }


def own_ports(block: Block, x: Tensor, rotary: Rotary | None) -> dict[str, Tensor]:
    return {"q": block.port_q(x, rotary), "k": block.port_k(x, rotary), "v": block.port_v(x)}


@pytest.mark.parametrize("name", NAMES)
def test_r31_heads_and_bias_sum_to_attn_out(name: str) -> None:
    for block in blocks_of(name)[1]:
        z = random(17, block.n_heads, block.d_head)
        with torch.no_grad():
            heads, (expected, bias) = block.heads_out(z), shares(block, z)
            assert heads.shape == (17, block.n_heads, 32 if "six" not in name else 36)
            torch.testing.assert_close(heads, expected, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(heads.sum(1) + bias, block.attn_out(z), atol=2e-5, rtol=1e-4)
        assert z._version == 0


@pytest.mark.parametrize("name", NAMES)
def test_ports_read_each_heads_own_stream(name: str) -> None:
    adapter, blocks, rotary = blocks_of(name)
    for block in blocks:
        x = random(sum(LENGTHS), block.n_heads, adapter.d_model)
        with torch.no_grad():
            ours, expected = own_ports(block, x, rotary), ports(block, x, rotary)
        for port, value in expected.items():
            assert ours[port].shape == (sum(LENGTHS), block.n_heads, block.d_head)
            torch.testing.assert_close(ours[port], value, atol=1e-5, rtol=1e-4)
        assert x._version == 0


@pytest.mark.parametrize("name", NAMES)
def test_ports_with_equal_streams_are_qkv(name: str) -> None:
    adapter, blocks, rotary = blocks_of(name)
    for block in blocks:
        resid = random(sum(LENGTHS), adapter.d_model)
        with torch.no_grad():
            ours = own_ports(block, resid[:, None].expand(-1, block.n_heads, -1), rotary)
            q, k, v = block.qkv(block.attn_in(resid), rotary)
        group = block.n_heads // block.n_kv_heads
        torch.testing.assert_close(ours["q"], q, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours["k"], k.repeat_interleave(group, 1), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours["v"], v.repeat_interleave(group, 1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_q_alone_and_kv_alone_are_qkv(name: str) -> None:
    adapter, blocks, rotary = blocks_of(name)
    for block in blocks:
        read = random(sum(LENGTHS), adapter.d_model)
        with torch.no_grad():
            q, k, v = block.qkv(read, rotary)
            torch.testing.assert_close(block.q(read, rotary), q)
            torch.testing.assert_close(block.kv(read, rotary), (k, v))


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(UNEVEN)])
def test_head_maps_are_views_of_the_weights(name: str) -> None:
    model = model_of(name)
    stored = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    for block in adapter_for(model).blocks:
        for head_map in block.qkv_maps():
            assert head_map.weight.untyped_storage().data_ptr() in stored


def is_down(module: nn.Module, block: Block, d_model: int) -> bool:
    """Whether a module is the linear map from the block's neurons to the stream."""
    if isinstance(module, Conv1D):
        return module.weight.shape == (block.d_mlp, d_model)
    return isinstance(module, nn.Linear) and module.weight.shape == (d_model, block.d_mlp)


@pytest.mark.parametrize("name", WITH_NEURONS)
def test_neurons_are_what_hugging_face_projects_down(name: str) -> None:
    [ids] = prompts_of(11)
    model = model_of(name)
    adapter = adapter_for(model)
    theirs: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _, args: theirs.append(args[0]))
        for block in adapter.blocks
        for module in block.layer.modules()  # type: ignore[attr-defined]
        if is_down(module, block, adapter.d_model)
    ]
    assert len(handles) == len(adapter.blocks)
    hf_alone(model, ids)
    for handle in handles:
        handle.remove()
    reads = packed_run(adapter, [ids]).mlp_reads
    for block, read, neurons in zip(adapter.blocks, reads, theirs, strict=True):
        with torch.no_grad():
            ours = block.mlp_post(read)
        assert ours.shape == (11, block.d_mlp)
        torch.testing.assert_close(ours, neurons.view(ours.shape), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", WITH_NEURONS)
def test_neurons_projected_down_are_mlp_out(name: str) -> None:
    adapter, blocks, _ = blocks_of(name)
    for block in blocks:
        resid = random(9, adapter.d_model)
        with torch.no_grad():
            neurons = block.mlp_post(resid)
            before = neurons.clone()
            assert torch.equal(block.mlp_down(neurons), block.mlp_out(resid))
        assert torch.equal(neurons, before), "mlp_down wrote into the neurons it was given"
        assert resid._version == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(EXPERTS)])
def test_experts_have_no_neurons(name: str) -> None:
    adapter, blocks, _ = blocks_of(name)
    for block in blocks:
        assert block.d_mlp is None
        for function in (block.mlp_post, block.mlp_down):
            with pytest.raises(ModelError, match="use mlp_out") as caught:
                function(random(3, adapter.d_model))
            assert "\n" not in str(caught.value)


def close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.abs().max() > 1e-3
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_the_whole_model_are_hugging_faces(name: str) -> None:
    prompts = prompts_of(*LENGTHS)
    model = model_of(name)
    adapter = adapter_for(model)
    embed = adapter.embed(torch.cat(prompts)).detach().requires_grad_()
    run = packed_from(adapter, embed, LENGTHS)
    weights = random(*run.logits.shape)
    [ours] = torch.autograd.grad((run.logits * weights).sum(), embed)
    rows = [part.detach().requires_grad_() for part in embed.split(LENGTHS)]
    for part, weight, gradient in zip(rows, weights.split(LENGTHS), ours.split(LENGTHS), strict=True):
        logits = model(inputs_embeds=part[None], use_cache=False).logits[0]
        [theirs] = torch.autograd.grad((logits * weight).sum(), part)
        close(gradient, theirs)
    assert not any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_values_with_gradients_on_are_those_with_gradients_off(name: str) -> None:
    prompts = prompts_of(*LENGTHS)
    adapter = adapter_for(model_of(name))
    run = packed_from(adapter, adapter.embed(torch.cat(prompts)), LENGTHS)
    assert run.logits.requires_grad
    torch.testing.assert_close(run.logits.detach(), packed_run(adapter, prompts).logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_heads_out_are_those_of_its_definition(name: str) -> None:
    for block in blocks_of(name)[1]:
        z = well_conditioned(block, random(99, block.n_heads, block.d_head)).requires_grad_()
        heads, (expected, _) = block.heads_out(z), shares(block, z)
        weight = random(*heads.shape, seed=1)
        [ours] = torch.autograd.grad((heads * weight).sum(), z)
        [theirs] = torch.autograd.grad((expected * weight).sum(), z)
        close(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_ports_are_those_of_their_definition(name: str) -> None:
    adapter, blocks, rotary = blocks_of(name)
    for block in blocks:
        x = random(sum(LENGTHS), block.n_heads, adapter.d_model).requires_grad_()
        ours, expected = own_ports(block, x, rotary), ports(block, x, rotary)
        for port, value in expected.items():
            weight = random(*value.shape, seed=2)
            [got] = torch.autograd.grad((ours[port] * weight).sum(), x, retain_graph=True)
            [want] = torch.autograd.grad((value * weight).sum(), x, retain_graph=True)
            close(got, want)


@pytest.mark.parametrize("name", ["gemma2", "gemma3-softcap", "granite", "cohere", "gptj", "llama"])
def test_unembed_into_a_buffer_gives_the_same_logits(name: str) -> None:
    adapter = adapter_for(model_of(name))
    final = random(4, adapter.d_model)
    with torch.no_grad():
        logits = adapter.unembed(final, slice(5, 25))
        buffer = torch.full((4, 20), torch.nan)
        assert adapter.unembed(final, slice(5, 25), out=buffer) is buffer
    assert torch.equal(buffer, logits)
