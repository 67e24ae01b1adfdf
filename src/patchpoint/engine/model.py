"""The model as experiments use it: loaded once, run on prompts."""

from collections.abc import Collection, Sequence

from torch import Tensor

from patchpoint.errors import InvalidArgument, PromptError
from patchpoint.models.model import LoadedModel
from patchpoint.models.tokens import check_length, encode

from .batch import Batch
from .run import KEEPABLE, Run, forward
from .sites import Edit

PromptLike = Batch | str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor


class Model(LoadedModel):
    """A loaded model that runs prompts and can be swept."""

    def run(
        self,
        prompts: PromptLike,
        *,
        edits: Sequence[Edit] = (),
        keep: Collection[str] = KEEPABLE,
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
                raise PromptError(f"token ids must be from 0 to {self.n_embeddings - 1}, got {min(ids)} to {max(ids)}")
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
                    f"a tensor of prompts holds token ids, [token] or [prompt, token]; got {prompts.dtype} {tuple(prompts.shape)}"
                )
            prompts = prompts.tolist()
        listed = list(prompts)
        if listed and all(isinstance(item, int) for item in listed):
            return Batch((tuple(listed),))  # type: ignore[arg-type]
        return Batch(
            tuple(
                encode(self.tokenizer, item).ids if isinstance(item, str) else tuple(int(i) for i in item)  # type: ignore[union-attr]
                for item in listed
            )
        )

    @property
    def n_embeddings(self) -> int:
        """Number of token ids the embedding knows."""
        count: int = self.hf.get_input_embeddings().weight.shape[0]
        return count
