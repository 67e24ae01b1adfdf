"""Adapters against the untouched Hugging Face models, by a forward over the adapter interface only."""

import copy
import hashlib
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, BertLMHeadModel, PreTrainedModel

from families import FAMILY_NAMES, MAX_TOKENS, ROPES, VARIANTS, VOCAB, tiny, variant
from packed_forward import LENGTHS, NAMES, hf_alone, model_of, packed_run, prompts_of, worst
from patchpoint.errors import ModelError, UnsupportedFamily
from patchpoint.models.families import FAMILIES, adapter_for

BY_LENGTH = tuple(name for name in NAMES if name.endswith(("-dynamic", "-longrope")))
"""Hugging Face rotates these by the longest prompt of a batch; a batch is not each prompt's own run."""


@torch.no_grad()
def hf_batch(model: PreTrainedModel, prompts: list[Tensor], *, side: str) -> list[Tensor]:
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    starts = [longest - len(prompt) if side == "left" else 0 for prompt in prompts]
    for row, (start, prompt) in enumerate(zip(starts, prompts, strict=True)):
        ids[row, start : start + len(prompt)] = prompt
        mask[row, start : start + len(prompt)] = 1
    position_ids = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(ids, attention_mask=mask, position_ids=position_ids, use_cache=False).logits
    return [
        logits[row, start : start + len(prompt)]
        for row, (start, prompt) in enumerate(zip(starts, prompts, strict=True))
    ]


@pytest.mark.parametrize("name", NAMES)
def test_packed_logits_equal_each_prompt_alone(name: str) -> None:
    prompts = prompts_of(*LENGTHS)
    logits = packed_run(adapter_for(model_of(name)), prompts).logits
    assert logits.std() > 0.3
    for ours, ids in zip(logits.split(LENGTHS), prompts, strict=True):
        assert worst(ours, hf_alone(variant(name), ids)) < 1e-4


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in BY_LENGTH])
def test_r01_packed_logits_equal_padded_batches(name: str, side: str) -> None:
    prompts = prompts_of(*LENGTHS)
    ours = packed_run(adapter_for(model_of(name)), prompts).logits
    assert worst(ours, torch.cat(hf_batch(variant(name), prompts, side=side))) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_r57_stream_equals_hidden_state_after_each_block(name: str) -> None:
    [ids] = prompts_of(max(LENGTHS))
    model = variant(name)
    adapter = adapter_for(model)
    states: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        states.append((output if isinstance(output, Tensor) else output[0])[0])

    handles = [block.layer.register_forward_hook(keep) for block in adapter.blocks]  # type: ignore[attr-defined]
    hf_alone(model, ids)
    for handle in handles:
        handle.remove()
    streams = packed_run(adapter, [ids]).streams[1:]
    assert len(states) == len(streams) == 3
    for ours, theirs in zip(streams, states, strict=True):
        assert worst(ours, theirs) < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_bfloat16_is_as_close_to_float32_as_hugging_face_is(name: str) -> None:
    [ids] = prompts_of(40)
    exact = hf_alone(model_of(name), ids)
    half = copy.deepcopy(model_of(name)).to(torch.bfloat16)
    theirs = hf_alone(half, ids)
    ours = packed_run(adapter_for(half), [ids]).logits
    assert ours.dtype == torch.bfloat16
    assert (ours - exact).std() < 1.5 * (theirs - exact).std()


@pytest.mark.parametrize("name", NAMES)
def test_unembed_by_slice_and_by_index_agree(name: str) -> None:
    adapter = adapter_for(model_of(name))
    [ids] = prompts_of(5)
    with torch.no_grad():
        final = adapter.final(adapter.resid_pre(adapter.embed(ids), torch.arange(5)))
        every = adapter.unembed(final, slice(None))
        chosen = torch.tensor([96, 3, 3, 50])
        by_slice, by_index = adapter.unembed(final, slice(10, 30)), adapter.unembed(final, chosen)
    assert every.shape == (5, adapter.d_vocab) == (5, VOCAB)
    torch.testing.assert_close(by_slice, every[:, 10:30])
    torch.testing.assert_close(by_index, every[:, chosen])


def fingerprint(model: PreTrainedModel) -> dict[str, object]:
    """All that a caller could see change: tensors, module attributes, hooks, config."""
    prints: dict[str, object] = {"config": model.config.to_json_string()}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        prints[name] = hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()
    for name, module in model.named_modules():
        prints[f"{name}:attributes"] = {
            key: value if isinstance(value, int | float | str) else type(value)
            for key, value in vars(module).items()
        }
        hooks = {
            key: list(value) for key, value in vars(module).items() if "hooks" in key and value is not None
        }
        prints[f"{name}:hooks"] = hooks
    return prints


@pytest.mark.parametrize("name", NAMES)
def test_r37_adapter_leaves_the_model_as_it_was(name: str) -> None:
    model = variant(name)
    model.lm_head.register_forward_hook(lambda *_: None)
    before = fingerprint(model)
    packed_run(adapter_for(model), prompts_of(40, 5))
    assert fingerprint(model) == before


def test_r31_covers_one_some_and_all_key_heads() -> None:
    grouped = [
        adapter_for(model_of(name)).blocks[0].n_kv_heads for name in ("llama-mqa", "llama", "llama-mha")
    ]
    assert grouped == [1, 2, 4]


@pytest.mark.parametrize("name", [*(f"llama-{rope}" for rope in ROPES), "phi3-longrope", "gpt_neox-dynamic"])
def test_r33_rope_beyond_its_trained_length_in_any_order(name: str) -> None:
    model = variant(name)
    hf_alone(model, prompts_of(30)[0])
    adapter = adapter_for(model)
    assert adapter.max_tokens is not None
    assert adapter.max_tokens >= 32
    for length in (5, 32, 9, 8, 20, 7):
        [ids] = prompts_of(length)
        assert worst(packed_run(adapter, [ids]).logits, hf_alone(variant(name), ids)) < 1e-4
        assert worst(packed_run(adapter, [ids]).logits, hf_alone(tiny_default(name), ids)) > 1e-2


@cache
def tiny_default(name: str) -> PreTrainedModel:
    """The same weights with plain rope: what a run that ignores the rope settings would give."""
    family, config = VARIANTS[name]
    return tiny(family, max_position_embeddings=config["max_position_embeddings"])


@pytest.mark.parametrize(
    "name",
    [
        "gpt_neo",
        "mistral-window",
        "qwen2-window",
        "qwen3-window",
        "gemma2-window",
        "gemma3_text",
        "phi3-window",
        "mixtral-window",
        "cohere2",
        "olmo3",
        "exaone4",
        "starcoder2",
        "smollm3-window",
    ],
)
def test_r34_prompts_longer_than_the_window(name: str) -> None:
    adapter = adapter_for(model_of(name))
    windows = [block.window for block in adapter.blocks if block.window is not None]
    assert windows
    [ids] = prompts_of(40)
    assert worst(packed_run(adapter, [ids]).logits, hf_alone(model_of(name), ids)) < 1e-4
    for block in adapter.blocks:
        block.window = None
    assert worst(packed_run(adapter, [ids]).logits, hf_alone(model_of(name), ids)) > 1e-2


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_sizes_are_the_models(name: str) -> None:
    adapter = adapter_for(model_of(name))
    max_tokens = None if name == "bloom" else MAX_TOKENS
    assert (adapter.d_model, adapter.d_vocab, adapter.max_tokens) == (32, VOCAB, max_tokens)
    assert len(adapter.blocks) == 3


def test_there_are_at_least_twenty_families() -> None:
    assert len(FAMILIES) >= 20


def test_every_family_has_a_tiny_model() -> None:
    assert set(FAMILY_NAMES) == set(FAMILIES)


def test_unsupported_family_names_the_known_ones() -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, is_decoder=True)
    model = BertLMHeadModel(config)
    with pytest.raises(UnsupportedFamily, match=r"'bert'; supported: bloom, codegen, cohere.*starcoder2$"):
        adapter_for(model)


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before=False"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "config.sliding_window is None"),
        (
            "qwen3",
            {"layer_types": ["full_attention", "chunked_attention", "full_attention"]},
            "'chunked_attention'",
        ),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "post_layernorm=True"),
        ("bloom", {"pretraining_tp": 2, "slow_but_exact": True}, "slow_but_exact=True"),
        ("falcon", {"alibi": True, "hidden_size": 48, "num_attention_heads": 12}, "12 heads"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": {"rope_type": "dynamic", "factor": 2.0}}},
            "rope_type 'dynamic'",
        ),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("llama", {"is_causal": False}, "is_causal=False"),
    ],
)
def test_unsupported_options_are_refused_in_one_line(
    family: str, config: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        adapter_for(tiny(family, **config))
    assert "\n" not in str(caught.value)


def test_embedding_without_scale_is_refused() -> None:
    model = tiny("gemma")
    model.model.embed_tokens = nn.Embedding(VOCAB, 32)
    with pytest.raises(ModelError, match="no embed_scale"):
        adapter_for(model)


def test_model_without_head_is_refused() -> None:
    body = AutoModel.from_config(AutoConfig.for_model("llama", hidden_size=32, num_hidden_layers=1))
    with pytest.raises(ModelError, match="LlamaModel has no lm_head"):
        adapter_for(body)
