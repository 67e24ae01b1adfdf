"""Weights of a small decoder as sums and products have them, and the Hugging Face models that are made of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from patchpoint.engine import Model
from patchpoint.engine.graph.nodes import Node
from patchpoint.errors import InvalidArgument
from patchpoint.models.families import adapter_for

from .stream import Stream

N_LAYERS, N_HEADS, D_MLP = 3, 4, 32
NORM_SCALE = 1e4
"""Weight of every norm, the square root of its epsilon: streams of a mean square of 1 are scaled by 1 to 1e-8."""
START = "start"
"""The word that every prompt begins with."""


@dataclass(frozen=True, eq=False)
class Head:
    """A head's four matrices: scores are q . k, unscaled, and each token's mixture of v goes through o."""

    q: Float[Tensor, "d_model d_head"]
    k: Float[Tensor, "d_model d_head"]
    v: Float[Tensor, "d_model d_head"]
    o: Float[Tensor, "d_head d_model"]


@dataclass(frozen=True, eq=False)
class Mlp:
    """relu(x @ inside) @ out."""

    inside: Float[Tensor, "d_model neuron"]
    out: Float[Tensor, "neuron d_model"]


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A decoder of N_LAYERS layers with N_HEADS heads; nodes that it does not name are idle.

    Its stream has a space `one` of one coordinate, 1 at every token.
    """

    family: str
    words: Sequence[str]
    """One token each, START first."""
    stream: Stream
    d_head: int
    embed: Float[Tensor, "word d_model"]
    unembed: Float[Tensor, "word d_model"]
    positions: Float[Tensor, "position d_model"]
    """Added to the embeddings by gpt2; llama has none and takes their number alone."""
    heads: Mapping[tuple[int, int], Head] = field(default_factory=dict)
    mlps: Mapping[int, Mlp] = field(default_factory=dict)

    @property
    def nodes(self) -> frozenset[str]:
        """Those that it names."""
        heads = (Node("head", layer, head) for layer, head in self.heads)
        return frozenset(map(str, (*heads, *(Node("mlp", layer) for layer in self.mlps))))

    def build(self, name: str, noise: float, seed: int) -> Model:
        """The model, float32. Idle nodes read the stream at random and write `noise` times what they would.

        InvalidArgument for a noise below 0.
        """
        if isinstance(noise, bool) or not isinstance(noise, int | float) or not noise >= 0:
            raise InvalidArgument(f"noise is how much idle nodes write, 0 or more; got {noise!r}")
        generator = torch.Generator().manual_seed(seed)
        heads = {
            (layer, head): self.heads.get((layer, head)) or self._idle_head(noise, generator)
            for layer in range(N_LAYERS)
            for head in range(N_HEADS)
        }
        mlps = [self.mlps.get(layer) or self._idle_mlp(noise, generator) for layer in range(N_LAYERS)]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            hf = BUILDERS[self.family](self, heads, mlps).eval()
        return Model(hf, word_tokenizer(self.words), adapter_for(hf), name)

    def _idle_head(self, noise: float, generator: torch.Generator) -> Head:
        d_model, d_head = self.stream.d_model, self.d_head
        q, k, v = (torch.randn(d_model, d_head, generator=generator) / d_model**0.5 for _ in range(3))
        out = torch.randn(d_head, d_model, generator=generator) / d_head**0.5
        return Head(q, k, v, self.stream.balanced(noise * out))

    def _idle_mlp(self, noise: float, generator: torch.Generator) -> Mlp:
        d_model = self.stream.d_model
        inside = torch.randn(d_model, D_MLP, generator=generator) / d_model**0.5
        out = torch.randn(D_MLP, d_model, generator=generator) / D_MLP**0.5
        return Mlp(inside, self.stream.balanced(noise * out))


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Words between spaces as ids 0, 1, ... in their order; words that it does not know become the first."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


Heads = Mapping[tuple[int, int], Head]


def _gpt2(blueprint: Blueprint, heads: Heads, mlps: Sequence[Mlp]) -> PreTrainedModel:
    d_model, d_head = blueprint.stream.d_model, blueprint.d_head
    config = GPT2Config(
        vocab_size=len(blueprint.words),
        n_embd=d_model,
        n_layer=N_LAYERS,
        n_head=N_HEADS,
        n_inner=D_MLP,
        n_positions=len(blueprint.positions),
        activation_function="relu",
        layer_norm_epsilon=NORM_SCALE**2,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    hf = GPT2LMHeadModel(config)
    for parameter in hf.parameters():
        parameter.zero_()
    hf.transformer.wte.weight.copy_(blueprint.embed)
    hf.transformer.wpe.weight.copy_(blueprint.positions)
    hf.lm_head.weight.copy_(blueprint.unembed)
    hf.transformer.ln_f.weight.fill_(NORM_SCALE)
    for layer, block in enumerate(hf.transformer.h):
        mine = [heads[layer, head] for head in range(N_HEADS)]
        queries = [head.q * d_head**0.5 for head in mine]
        parts = [*queries, *(head.k for head in mine), *(head.v for head in mine)]
        block.attn.c_attn.weight.copy_(torch.cat(parts, 1))
        block.attn.c_proj.weight.copy_(torch.cat([head.o for head in mine]))
        block.mlp.c_fc.weight.copy_(mlps[layer].inside)
        block.mlp.c_proj.weight.copy_(mlps[layer].out)
        for norm in (block.ln_1, block.ln_2):
            norm.weight.fill_(NORM_SCALE)
    return hf


N_KV_HEADS = 2
ROPE_THETA = 1e12
"""Base of the rotary angles: the slower half of the pairs turns by less than 1e-6 per token."""


def _llama(blueprint: Blueprint, heads: Heads, mlps: Sequence[Mlp]) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=len(blueprint.words),
        hidden_size=blueprint.stream.d_model,
        intermediate_size=D_MLP,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_KV_HEADS,
        head_dim=blueprint.d_head,
        max_position_embeddings=len(blueprint.positions),
        hidden_act="relu",
        rms_norm_eps=NORM_SCALE**2,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    hf = LlamaForCausalLM(config)
    hf.model.embed_tokens.weight.copy_(blueprint.embed)
    hf.lm_head.weight.copy_(blueprint.unembed)
    hf.model.norm.weight.fill_(NORM_SCALE)
    shared = N_HEADS // N_KV_HEADS
    for layer, block in enumerate(hf.model.layers):
        mine = [heads[layer, head] for head in range(N_HEADS)]
        group = [_keys_of(blueprint, heads, layer, first) for first in range(0, N_HEADS, shared)]
        attn = block.self_attn
        attn.q_proj.weight.copy_(torch.cat([head.q * blueprint.d_head**0.5 for head in mine], 1).T)
        attn.k_proj.weight.copy_(torch.cat([head.k for head in group], 1).T)
        attn.v_proj.weight.copy_(torch.cat([head.v for head in group], 1).T)
        attn.o_proj.weight.copy_(torch.cat([head.o for head in mine]).T)
        block.mlp.gate_proj.weight.copy_(mlps[layer].inside.T)
        # Times 1 at every token: the gate alone decides.
        block.mlp.up_proj.weight.zero_()
        block.mlp.up_proj.weight[:, blueprint.stream.space("one")] = 1.0
        block.mlp.down_proj.weight.copy_(mlps[layer].out.T)
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.weight.fill_(NORM_SCALE)
    return hf


def _keys_of(blueprint: Blueprint, heads: Heads, layer: int, first: int) -> Head:
    """The head whose keys and values a group of query heads shares: the one that is named, if any is."""
    group = [(layer, first + i) for i in range(N_HEADS // N_KV_HEADS)]
    named = [place for place in group if place in blueprint.heads]
    return heads[(named or group)[0]]


Builder = Callable[[Blueprint, Heads, Sequence[Mlp]], PreTrainedModel]
BUILDERS: dict[str, Builder] = {"gpt2": _gpt2, "llama": _llama}
"""By family, how a blueprint becomes a Hugging Face model."""
