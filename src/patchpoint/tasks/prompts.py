"""Prompts with what an experiment needs to know about them: tokens, spans, answers, a corrupted twin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from patchpoint.engine import Batch, Model
from patchpoint.errors import InvalidArgument, PatchpointError, PromptError
from patchpoint.models.tokens import answer_ids, check_length, common_leading, encode, span_of, token_texts

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


@dataclass(frozen=True)
class Prompts:
    """Clean prompts with answers and, prompt by prompt, a corrupted twin of the same number of tokens.

    Answer tokens are the first ones in which the correct and the incorrect answer differ, in context; tokens
    they share before that stand at the end of the prompts. Every sequence has one entry per prompt.
    """

    clean_texts: tuple[str, ...]
    corrupt_texts: tuple[str, ...]
    clean: Batch
    corrupt: Batch
    correct_tokens: tuple[int, ...]
    incorrect_tokens: tuple[int, ...]
    spans: tuple[Mapping[str, Span], ...] = field(default=())

    @classmethod
    def from_pairs(
        cls,
        model: Model,
        clean: Sequence[str],
        corrupt: Sequence[str],
        correct: Sequence[str],
        incorrect: Sequence[str],
        *,
        bos: bool | None = None,
    ) -> "Prompts":
        """Prompts from texts and answer texts, one of each per prompt.

        `spans` hold, as "changed", the tokens from the first to the last in which a pair differs.
        Raises InvalidArgument for lists of unequal length, PromptError naming every pair that cannot be used:
        unequal token counts, equal texts, answers that cannot be told apart.
        """
        sizes = {
            "clean": len(clean),
            "corrupt": len(corrupt),
            "correct": len(correct),
            "incorrect": len(incorrect),
        }
        if len(set(sizes.values())) != 1:
            counts = ", ".join(f"{n} {name}" for name, n in sizes.items())
            raise InvalidArgument(
                f"clean, corrupt, correct and incorrect need one entry per prompt; got {counts}"
            )
        pairs, problems = [], []
        for number, texts in enumerate(zip(clean, corrupt, correct, incorrect, strict=True)):
            try:
                pairs.append(_pair(model, *texts, bos=bos))
            except PatchpointError as error:
                problems.append(f"pair {number}: {error}")
        if problems:
            raise PromptError("; ".join(problems))
        rights, wrongs = tuple(p.correct for p in pairs), tuple(p.incorrect for p in pairs)
        return cls(
            tuple(clean),
            tuple(corrupt),
            Batch(tuple(p.clean for p in pairs), rights, wrongs),
            Batch(tuple(p.corrupt for p in pairs), rights, wrongs),
            rights,
            wrongs,
            tuple({"changed": p.changed} for p in pairs),
        )


@dataclass(frozen=True)
class _Pair:
    clean: tuple[int, ...]
    corrupt: tuple[int, ...]
    correct: int
    incorrect: int
    changed: Span


def _pair(model: Model, clean: str, corrupt: str, correct: str, incorrect: str, *, bos: bool | None) -> _Pair:
    right = answer_ids(model.tokenizer, clean, correct, bos).ids
    wrong = answer_ids(model.tokenizer, clean, incorrect, bos).ids
    shared = common_leading(right, wrong)
    ids = (*encode(model.tokenizer, clean, bos).ids, *shared)
    twin = (*encode(model.tokenizer, corrupt, bos).ids, *shared)
    check_length(len(ids), model.max_tokens)
    if len(ids) != len(twin):
        raise PromptError(
            f"the clean prompt has {len(ids)} tokens and its corrupted twin {len(twin)}; give texts of equal length"
        )
    differ = [p for p, (a, b) in enumerate(zip(ids, twin, strict=True)) if a != b]
    if not differ:
        raise PromptError(f"the clean prompt and its corrupted twin are the same: {clean!r}")
    return _Pair(ids, twin, right[len(shared)], wrong[len(shared)], (differ[0], differ[-1] + 1))
