"""The model as experiments use it: loaded once, run on prompts."""

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from patchpoint.errors import InvalidArgument, PromptError
from patchpoint.models import load as loading
from patchpoint.models.model import LoadedModel
from patchpoint.models.tokens import check_length, encode

from .batch import Batch
from .forward import KEPT, forward
from .run import Run
from .sites import Edit

log = logging.getLogger(__name__)

PromptLike = Batch | str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor


class Model(LoadedModel):
    """A loaded model that runs prompts and can be swept."""

    def run(
        self,
        prompts: PromptLike,
        *,
        edits: Sequence[Edit] = (),
        keep: Collection[str] = KEPT,
        memory_gib: float | None = None,
    ) -> Run:
        """One pass over prompts of any lengths, packed without padding: equal to each prompt run by itself.

        `prompts` are texts, token ids (a list or tensor per prompt, unpadded) or the batch of a Prompts object.
        `edits` are applied to every prompt; `keep` names the components kept besides residual stream, keys
        and values. Raises PromptError for empty or too long prompts and unknown ids.
        """
        batch = self.batch(prompts)
        for ids in batch.tokens:
            check_length(len(ids), self.max_tokens)
            if not 0 <= min(ids) <= max(ids) < self.n_embeddings:
                raise PromptError(
                    f"token ids must be from 0 to {self.n_embeddings - 1}, got {min(ids)} to {max(ids)}"
                )
        return forward(self, batch, edits, keep, memory_gib)

    def batch(self, prompts: PromptLike) -> Batch:
        """Token ids of texts (with the tokenizer's own habit about BOS), ids or a batch."""
        if isinstance(prompts, Batch):
            return prompts
        if isinstance(prompts, str):
            return Batch((encode(self.tokenizer, prompts).ids,))
        if isinstance(prompts, Tensor):
            if prompts.is_floating_point() or prompts.ndim not in (1, 2):
                raise InvalidArgument(
                    "a tensor of prompts holds token ids, [token] or [prompt, token]; "
                    f"got {prompts.dtype} {tuple(prompts.shape)}"
                )
            prompts = prompts.tolist()
        listed = list(prompts)
        if listed and all(isinstance(item, int) for item in listed):
            return Batch((tuple(listed),))
        return Batch(
            tuple(
                encode(self.tokenizer, item).ids if isinstance(item, str) else tuple(int(i) for i in item)
                for item in listed
            )
        )

    @property
    def n_embeddings(self) -> int:
        """Number of token ids the embedding knows."""
        count: int = self.hf.get_input_embeddings().weight.shape[0]
        return count


def load(
    source: str | os.PathLike[str] | PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | torch.device | None = None,
    device_map: str | Mapping[str, str | int] | None = None,
    dtype: str | torch.dtype | None = None,
    allow_pickle: bool = False,
    notify: Callable[[str], None] = log.info,
) -> Model:
    """A model ready for experiments.

    `source`: a known name (`smollm2-135m`, fetched on first use), a local folder, a `.gguf` file, a Hugging
    Face id, or a loaded PreTrainedModel, which needs `tokenizer` and is left exactly as it is.
    `dtype`: float32 (default), bfloat16 or float16. `device`: default cuda where there is one, else cpu.
    `device_map`: for models larger than one device, where their parts lie (`auto`, or module names to devices,
    `cpu` or `disk`); the embedding's device computes, each block's weights come there in turn.
    `allow_pickle`: read pickled weights where there are no safetensors. `notify` receives a line per slow
    step. Code that ships with a model is never run.
    Raises ModelError, UnsupportedFamily, UnknownName or InvalidArgument.
    """
    return loading.load(
        source,
        tokenizer=tokenizer,
        device=device,
        device_map=device_map,
        dtype=dtype,
        allow_pickle=allow_pickle,
        notify=notify,
        cls=Model,
    )
