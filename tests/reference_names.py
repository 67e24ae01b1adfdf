"""Where the modules of each family lie: all that the reference loop needs to know about one."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Names:
    """Where a family's modules are: `blocks` in the model, all else in a block."""

    blocks: str = "model.layers"
    projection: str = "self_attn.o_proj"
    attn_added: str | None = None
    """Behind the projection, where a norm follows it."""
    attn_norm: str = "input_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    """What reads the stream for the MLP; where a block lacks it, the MLP shares the attention's norm."""
    mlp: str = "mlp"
    down: str | None = "mlp.down_proj"
    mlp_added: str | None = None
    """Behind the down projection, where a norm follows it; or the MLP itself where it has experts."""


GPT2 = Names("transformer.h", "attn.c_proj", None, "ln_1", "ln_2", "mlp", "mlp.c_proj")
GPTJ = replace(GPT2, projection="attn.out_proj", down="mlp.fc_out")
GEMMA2 = Names(
    attn_added="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_added="post_feedforward_layernorm",
)
OLMO2 = replace(GEMMA2, mlp_norm="mlp")
BLOOM = Names("transformer.h", "self_attention.dense", down="mlp.dense_4h_to_h")
NAMES = {
    "gpt2": GPT2,
    "gpt_bigcode": GPT2,
    "gpt_neo": replace(GPT2, projection="attn.attention.out_proj"),
    "gptj": GPTJ,
    "codegen": GPTJ,
    "gpt_neox": Names("gpt_neox.layers", "attention.dense", down="mlp.dense_4h_to_h"),
    "opt": Names("model.decoder.layers", "self_attn.out_proj", mlp_norm="final_layer_norm", down="fc2"),
    "phi": Names(projection="self_attn.dense", down="mlp.fc2"),
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA2,
    "olmo2": OLMO2,
    "olmo3": OLMO2,
    "exaone4": OLMO2,
    "glm4": Names(attn_added="post_self_attn_layernorm", mlp_added="post_mlp_layernorm"),
    "bloom": BLOOM,
    "falcon": BLOOM,
    "mpt": Names("transformer.blocks", "attn.out_proj", None, "norm_1", "norm_2", "ffn", "ffn.down_proj"),
    "mixtral": Names(down=None, mlp_added="mlp"),
    "starcoder2": Names(down="mlp.c_proj"),
}


def names_of(hf):
    family = hf.config.model_type
    if family == "falcon" and hf.config.num_ln_in_parallel_attn == 2:
        return replace(BLOOM, mlp_norm="ln_mlp")
    return NAMES.get(family, Names())
