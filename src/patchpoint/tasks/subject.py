"""A prompt that speaks about a subject, as causal tracing disturbs it."""

from collections.abc import Sequence
from dataclasses import dataclass

from patchpoint.engine import Model
from patchpoint.models.tokens import check_length, encode, span_of, token_texts

Span = tuple[int, int]


@dataclass(frozen=True)
class SubjectPrompt:
    """One prompt and the span of the subject that it speaks about.

    `tokens` are texts for labels, one per id, the BOS token included where there is one (`bos`).
    """

    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    subject: str
    subject_span: Span
    bos: bool

    @classmethod
    def from_text(cls, model: Model, text: str, *, subject: str, bos: bool | None = None) -> "SubjectPrompt":
        """Tokenise a prompt and find its subject.

        `bos`: put the BOS token first; None: the tokenizer's own habit. Raises PromptError when the text is
        empty or longer than the model's context, or when the subject is not in it.
        """
        encoded = encode(model.tokenizer, text, bos)
        check_length(len(encoded.ids), model.max_tokens)
        tokens = token_texts(model.tokenizer, encoded.ids)
        return cls(text, encoded.ids, tokens, subject, span_of(encoded, text, subject), encoded.bos)

    def continued(self, model: Model, ids: Sequence[int]) -> "SubjectPrompt":
        """The prompt with more tokens at its end."""
        longer = (*self.ids, *ids)
        check_length(len(longer), model.max_tokens)
        tokens = (*self.tokens, *token_texts(model.tokenizer, ids))
        return SubjectPrompt(self.text, longer, tokens, self.subject, self.subject_span, self.bos)
