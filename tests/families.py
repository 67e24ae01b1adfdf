"""Tiny random models of every family, with weights in which ignoring any of them shows."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB = 97
MAX_TOKENS = 64

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GPT2_STYLE: dict[str, object] = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": MAX_TOKENS}
LLAMA_STYLE: dict[str, object] = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MAX_TOKENS,
}

WINDOWED: dict[str, object] = {
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
FALCON_STYLE: dict[str, object] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_TOKENS,
}

CONFIGS: dict[str, dict[str, object]] = {
    "gpt2": GPT2_STYLE,
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 3,
        "num_heads": 4,
        "attention_types": [[["global", "local", "local"], 1]],
        "window_size": 4,
        "max_position_embeddings": MAX_TOKENS,
    },
    "gptj": {**GPT2_STYLE, "rotary_dim": 4},
    "gpt_neox": {
        **{key: value for key, value in LLAMA_STYLE.items() if key != "num_key_value_heads"},
        "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5},
    },
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 56,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
    },
    "llama": LLAMA_STYLE,
    "mistral": LLAMA_STYLE,
    "qwen2": LLAMA_STYLE,
    "qwen3": {**LLAMA_STYLE, "head_dim": 16},
    "gemma": {**LLAMA_STYLE, "head_dim": 16},
    "gemma2": {
        **LLAMA_STYLE,
        "head_dim": 16,
        "query_pre_attn_scalar": 10,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
    },
    "gemma3_text": {
        **LLAMA_STYLE,
        "head_dim": 16,
        "query_pre_attn_scalar": 10,
        **WINDOWED,
    },
    "phi": LLAMA_STYLE,
    "phi3": LLAMA_STYLE,
    "olmo": LLAMA_STYLE,
    "olmo2": LLAMA_STYLE,
    "olmo3": {**LLAMA_STYLE, **WINDOWED},
    "mixtral": {**LLAMA_STYLE, "num_local_experts": 4},
    "granite": {
        **LLAMA_STYLE,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.6,
        "logits_scaling": 0.7,
    },
    "cohere": {**LLAMA_STYLE, "logit_scale": 0.8},
    "cohere2": {
        **LLAMA_STYLE,
        "logit_scale": 0.8,
        **WINDOWED,
    },
    "stablelm": LLAMA_STYLE,
    "starcoder2": {**LLAMA_STYLE, "sliding_window": 4},
    "nemotron": LLAMA_STYLE,
    "smollm3": {**LLAMA_STYLE, "no_rope_layers": [1, 0, 1]},
    "glm": {**LLAMA_STYLE, "head_dim": 8},
    "glm4": {**LLAMA_STYLE, "head_dim": 8},
    "exaone4": {**LLAMA_STYLE, **WINDOWED},
    "codegen": {**GPT2_STYLE, "rotary_dim": 4},
    "gpt_bigcode": GPT2_STYLE,
    "falcon": FALCON_STYLE,
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": MAX_TOKENS},
}
FAMILY_NAMES = tuple(CONFIGS)

ROPES: dict[str, dict[str, object]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
    },
    "longrope": {
        "rope_type": "longrope",
        "factor": 4.0,
        "short_factor": [1.0, 1.2, 1.5, 2.0],
        "long_factor": [2.0, 3.0, 5.0, 8.0],
        "original_max_position_embeddings": 8,
    },
}
"""Rope settings over a trained length of 8 tokens, for heads of 8 dimensions."""

SCALED_LENGTHS = {"linear": 32, "dynamic": 8, "yarn": 32, "llama3": 32, "longrope": 32}
"""`max_position_embeddings` to go with each of `ROPES`: dynamic scaling starts beyond it."""


def _roped(name: str, **more: object) -> dict[str, object]:
    rope = {"rope_theta": 100.0, **ROPES[name], **more}
    return {"max_position_embeddings": SCALED_LENGTHS[name], "rope_parameters": rope}


ROPES_BY_KIND: dict[str, object] = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
}

VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "gpt2-inverse-layer-scale": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2-unscaled": ("gpt2", {"scale_attn_weights": False}),
    "gpt2-relu": ("gpt2", {"activation_function": "relu"}),
    "gpt2-untied": ("gpt2", {"tie_word_embeddings": False, "n_inner": 40}),
    "gptj-full-rotary": ("gptj", {"rotary_dim": 8}),
    "gptj-tied": ("gptj", {"tie_word_embeddings": True}),
    "gpt_neox-sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "gpt_neox-no-bias": ("gpt_neox", {"attention_bias": False}),
    "gpt_neox-dynamic": ("gpt_neox", _roped("dynamic", partial_rotary_factor=0.5)),
    "opt-projected": ("opt", {"word_embed_proj_dim": 20}),
    "opt-no-final-norm": ("opt", {"_remove_final_layer_norm": True}),
    "opt-plain": ("opt", {"enable_bias": False, "layer_norm_elementwise_affine": False}),
    "opt-gelu": ("opt", {"activation_function": "gelu"}),
    "llama-mqa": ("llama", {"num_key_value_heads": 1}),
    "llama-mha": ("llama", {"num_key_value_heads": 4}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-wide-heads": ("llama", {"head_dim": 12}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-relu": ("llama", {"hidden_act": "relu"}),
    "llama-gelu": ("llama", {"hidden_act": "gelu_new"}),
    **{f"llama-{rope}": ("llama", _roped(rope)) for rope in ROPES},
    "mistral-window": ("mistral", {"sliding_window": 4}),
    "mistral-unwindowed": ("mistral", {"sliding_window": None}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3-window": (
        "qwen3",
        {
            "use_sliding_window": True,
            "sliding_window": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "qwen3-biases": ("qwen3", {"attention_bias": True}),
    "gemma-biases": ("gemma", {"attention_bias": True, "num_key_value_heads": 1}),
    "gemma2-window": ("gemma2", {"sliding_window": 4}),
    "gemma2-uncapped": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "phi-qk-norm": ("phi", {"qk_layernorm": True}),
    "phi-mha": ("phi", {"num_key_value_heads": 4}),
    "phi3-window": ("phi3", {"sliding_window": 4}),
    "phi3-partial": ("phi3", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
    "phi3-longrope": ("phi3", {"original_max_position_embeddings": 8, **_roped("longrope")}),
    "gemma3-softcap": ("gemma3_text", {"final_logit_softcapping": 4.0, "attn_logit_softcapping": 3.0}),
    "gemma3-roped": ("gemma3_text", {"rope_parameters": ROPES_BY_KIND}),
    "gemma3-one-kind": ("gemma3_text", {"layer_types": ["sliding_attention"] * 3}),
    "olmo3-roped": ("olmo3", {"rope_parameters": ROPES_BY_KIND}),
    "exaone4-unwindowed": ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 3}),
    "glm4-biases": ("glm4", {"attention_bias": True}),
    "gemma3-biases": ("gemma3_text", {"attention_bias": True}),
    "olmo-clipped": ("olmo", {"clip_qkv": 0.5, "attention_bias": True}),
    "mixtral-window": ("mixtral", {"sliding_window": 4, "num_experts_per_tok": 1}),
    "granite-biases": ("granite", {"attention_bias": True, "mlp_bias": True}),
    "cohere-qk-norm": ("cohere", {"use_qk_norm": True, "attention_bias": True}),
    "cohere2-biases": ("cohere2", {"attention_bias": True}),
    "stablelm-parallel": ("stablelm", {"use_parallel_residual": True, "use_qkv_bias": True}),
    "stablelm-qk-norm": ("stablelm", {"qk_layernorm": True}),
    "starcoder2-plain": ("starcoder2", {"use_bias": False, "sliding_window": None}),
    "nemotron-biases": ("nemotron", {"attention_bias": True, "mlp_bias": True}),
    "smollm3-window": ("smollm3", {"use_sliding_window": True, "sliding_window": 4}),
    "glm-plain": ("glm", {"attention_bias": False, "num_key_value_heads": 4}),
    "codegen-tied": ("codegen", {"tie_word_embeddings": True, "n_inner": 40}),
    "gpt_bigcode-mha": ("gpt_bigcode", {"multi_query": False}),
    "gpt_bigcode-unscaled": ("gpt_bigcode", {"scale_attn_weights": False, "n_inner": 40}),
    "falcon-new": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}),
    "falcon-new-one-norm": (
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    ),
    "falcon-sequential": ("falcon", {"parallel_attn": False, "bias": True}),
    "falcon-mha": ("falcon", {"multi_query": False, "ffn_hidden_size": 56}),
    "falcon-alibi": ("falcon", {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}),
    "bloom-six-heads": ("bloom", {"hidden_size": 36, "n_head": 6}),
    "mpt-six-heads": ("mpt", {"d_model": 36, "n_heads": 6}),
    "mpt-clipped": ("mpt", {"attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.2}}),
    "olmo2-biases": ("olmo2", {"attention_bias": True, "num_key_value_heads": 4}),
}
"""Further configurations: name -> (family, what to change in its entry of `CONFIGS`)."""


def tiny(family: str, *, seed: int = 0, **config: object) -> PreTrainedModel:
    """A random model of a family in eval mode, float32: 3 layers, d_model 32, 4 heads unless `config`
    says otherwise, logits of order 1.

    The same arguments give the same weights. Every parameter, norm weights and biases too, is away from the
    value that a transformers model starts with.
    """
    settings = AutoConfig.for_model(
        family, **{"vocab_size": VOCAB, **SPECIAL, **CONFIGS.get(family, {}), **config}
    )
    with torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    _perturb(model, torch.Generator().manual_seed(seed))
    return model.eval()


def variant(name: str, *, seed: int = 0) -> PreTrainedModel:
    """The model of one of `VARIANTS`, or of one of `FAMILY_NAMES` as it is."""
    family, config = VARIANTS.get(name, (name, {}))
    return tiny(family, seed=seed, **config)


@torch.no_grad()
def _perturb(model: PreTrainedModel, generator: torch.Generator) -> None:
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2:
            parameter.add_(noise, alpha=0.3)
        else:
            parameter.copy_(noise / parameter.shape[-1] ** 0.5)
