"""A loaded model: the Hugging Face module, its tokenizer, and the adapter that reads its weights."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .families import Adapter, Block
from .placement import at_hand, is_spread, main_device, stored_weight
from .tokens import bos_habit

Part = TypeVar("Part")

RECORD_KEYS = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Config entries that record where a model came from; the dtype is hashed with each tensor."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A causal language model ready for experiments; `name` is what it was loaded as."""

    hf: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    adapter: Adapter
    name: str

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.adapter.blocks)

    @property
    def n_heads(self) -> int:
        """Query heads per layer."""
        return self.adapter.blocks[0].n_heads

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.adapter.d_model

    @property
    def d_embed(self) -> int:
        """Width of the embedding's output; d_model but for models that project it."""
        width: int = self.hf.get_input_embeddings().weight.shape[1]
        return width

    @property
    def d_vocab(self) -> int:
        """Number of logits, which may exceed the tokenizer's vocabulary (padded rows)."""
        return self.adapter.d_vocab

    @property
    def device(self) -> torch.device:
        """Where everything is computed; the weights of a spread model come there when they are needed."""
        return main_device(self.hf)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        dtype: torch.dtype = self.hf.dtype
        return dtype

    def block(self, layer: int) -> AbstractContextManager[Block]:
        """One block with its weights at hand, wherever the model keeps them."""
        return self._with_weights(self.adapter.blocks[layer], self.adapter.blocks[layer].layer)

    def ends(self) -> AbstractContextManager[Adapter]:
        """What stands before and behind the blocks, with its weights at hand: embedding, final norm, unembedding."""
        return self._with_weights(self.adapter, self.hf, frozenset(b.layer for b in self.adapter.blocks))

    @contextmanager
    def _with_weights(
        self, part: Part, root: nn.Module, without: frozenset[nn.Module] = frozenset()
    ) -> Iterator[Part]:
        if not is_spread(self.hf):
            yield part
            return
        with at_hand(root, self.device, without):
            yield part

    @property
    def max_tokens(self) -> int | None:
        """Longest prompt in tokens, BOS included, that the positions allow; None: no limit."""
        return self.adapter.max_tokens

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of config, parameters and persistent buffers as they are now.

        Computed at every reading (about 1 GB/s), so that a weight edited in place is never overlooked.
        """
        digest = hashlib.sha256(canonical(config_facts(self.hf)))
        for name, tensor in stored_tensors(self.hf):
            digest.update(canonical([name, str(tensor.dtype), list(tensor.shape)]))
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(raw.numpy().data)
        return digest.hexdigest()

    @property
    def tokenizer_fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides which ids a text becomes."""
        return hashlib.sha256(canonical(tokenizer_facts(self.tokenizer))).hexdigest()


def canonical(value: Any) -> bytes:
    """One byte string per value, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True, default=str).encode()


def config_facts(hf: PreTrainedModel) -> dict[str, Any]:
    """The config without the entries that only record where it came from."""
    config: dict[str, Any] = json.loads(hf.config.to_json_string(use_diff=False))
    return {key: value for key, value in config.items() if key not in RECORD_KEYS}


def stored_tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers by name, tied ones once, offloaded ones from where they are kept."""
    # Offloading makes two tensors of a tied one.
    tied = getattr(model, "all_tied_weights_keys", {}) if is_spread(model) else {}
    kept = model.state_dict().keys()
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if name in kept)
    for name, tensor in (*model.named_parameters(), *buffers):
        if name not in tied:
            owner, _, own_name = name.rpartition(".")
            yield name, stored_weight(model.get_submodule(owner), own_name, tensor)


def tokenizer_facts(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What decides the ids of a text; padding and truncation are left out, since prompts use neither."""
    specials = {
        name: str(token) for name, token in tokenizer.special_tokens_map.items() if name != "pad_token"
    }
    facts: dict[str, Any] = {"specials": specials, "bos": bos_habit(tokenizer)}
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        facts["state"] = {key: value for key, value in state.items() if key not in ("padding", "truncation")}
    else:
        facts["class"] = type(tokenizer).__name__
        facts["vocabulary"] = tokenizer.get_vocab()
    return facts
