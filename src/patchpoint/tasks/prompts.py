"""Prompts with what an experiment needs to know about them: tokens, spans, answers, a corrupted twin."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchpoint.engine import Batch, Model
from patchpoint.errors import InvalidArgument, PatchpointError, PromptError, ResultsError
from patchpoint.models.tokens import bos_habit, continuation, token_texts

from .alignment import Pair, Span, align
from .case import Value
from .prompt_files import Header, Row, read_prompts, write_prompts
from .screening import Report
from .template import Filled


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
    """Half-open token spans by role; `changed`: from the first to the last token in which the twins differ."""
    corrupted_roles: tuple[tuple[str, ...], ...] = ()
    """The roles whose texts the twin exchanges; no token outside of their spans differs."""
    correct_texts: tuple[str, ...] = ()
    incorrect_texts: tuple[str, ...] = ()
    """The answers as they follow the clean texts, space included."""
    correct_sets: tuple[tuple[int, ...], ...] = ()
    incorrect_sets: tuple[tuple[int, ...], ...] = ()
    """All next tokens that only correct (incorrect) answers begin with, that of `correct_tokens` first."""
    tokens: tuple[tuple[str, ...], ...] = ()
    corrupt_tokens: tuple[tuple[str, ...], ...] = ()
    """Texts of the tokens, as labels."""
    groups: tuple[str, ...] = ()
    """What the prompts are balanced over, such as the starting member."""
    metadata: tuple[Mapping[str, Value], ...] = ()
    header: Header | None = None
    """Where they come from: task, corruption, seed, model, tokenizer."""
    report: Report | None = field(default=None, compare=False)
    """What became of every candidate, for prompts that were generated just now."""

    def __len__(self) -> int:
        return len(self.clean_texts)

    def at(self, numbers: Iterable[int]) -> "Prompts":
        """Those of these prompts that stand at some places, counted from 0, in the order given and as often.

        The header is kept; the report, which counts candidates, is not. Raises InvalidArgument for a place that
        there is not, PromptError for none at all.
        """
        places = list(numbers)
        for place in places:
            if not 0 <= place < len(self):
                raise InvalidArgument(f"there is no prompt {place}; give numbers from 0 to {len(self) - 1}")
        changed: dict[str, Any] = {"report": None}
        for name in (one.name for one in fields(self)):
            values = getattr(self, name)
            if isinstance(values, tuple) and values:
                changed[name] = tuple(values[place] for place in places)
        for name in ("clean", "corrupt"):
            tokens = tuple(getattr(self, name).tokens[place] for place in places)
            changed[name] = Batch(tokens, changed["correct_tokens"], changed["incorrect_tokens"])
        return replace(self, **changed)

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
        for number, (text, twin, *answers) in enumerate(zip(clean, corrupt, correct, incorrect, strict=True)):
            try:
                right, wrong = (continuation(text, answer) for answer in answers)
                pairs.append(align(model, Filled(text, {}), Filled(twin, {}), right, wrong, bos=bos))
            except PatchpointError as error:
                problems.append(f"pair {number}: {error}")
        if problems:
            raise PromptError("; ".join(problems))
        return cls.of(model, pairs, header=header_of(model, "pairs", bos=bos))

    @classmethod
    def of(
        cls,
        model: Model,
        pairs: Sequence[Pair],
        *,
        header: Header,
        groups: Sequence[str] = (),
        metadata: Sequence[Mapping[str, Value]] = (),
        report: Report | None = None,
    ) -> "Prompts":
        """Prompts of aligned pairs, at least one (PromptError)."""
        rights, wrongs = tuple(p.correct for p in pairs), tuple(p.incorrect for p in pairs)
        return cls(
            tuple(p.texts[0] for p in pairs),
            tuple(p.texts[1] for p in pairs),
            Batch(tuple(p.clean for p in pairs), rights, wrongs),
            Batch(tuple(p.corrupt for p in pairs), rights, wrongs),
            rights,
            wrongs,
            tuple(p.spans for p in pairs),
            tuple(p.corrupted_roles for p in pairs),
            tuple(p.answers[0] for p in pairs),
            tuple(p.answers[1] for p in pairs),
            tuple(p.correct_set for p in pairs),
            tuple(p.incorrect_set for p in pairs),
            tuple(token_texts(model.tokenizer, p.clean) for p in pairs),
            tuple(token_texts(model.tokenizer, p.corrupt) for p in pairs),
            tuple(groups) or ("",) * len(pairs),
            tuple(metadata) or tuple({} for _ in pairs),
            header,
            report,
        )

    def prob_diff(
        self, logits: Float[Tensor, "row vocab"], rows: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """p(any correct next token) - p(any incorrect one), for `metric=` of sweeps over these prompts.

        Hanna et al. 2023, "How does GPT-2 compute greater-than?", section 2. `rows`: number of each row's prompt.
        """
        probs = logits.softmax(-1)
        return torch.stack(
            [
                mine[list(self.correct_sets[n])].sum() - mine[list(self.incorrect_sets[n])].sum()
                for mine, n in zip(probs, rows.tolist(), strict=True)
            ]
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write them as JSON lines: a header, then one object per prompt.

        Raises ResultsError when the file cannot be written, InvalidArgument for prompts made by hand, which do
        not know their texts.
        """
        if self.header is None:
            raise InvalidArgument(
                "these prompts were made from token ids alone; save those of texts or tasks"
            )
        write_prompts(path, self.header, [self._row(number) for number in range(len(self))])

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Model) -> "Prompts":
        """Prompts of a file that `save` wrote, for a model with the same tokenizer.

        Raises ResultsError when the file is none, is damaged, or was written for another tokenizer.
        """
        header, rows = read_prompts(path)
        if header.tokenizer_fingerprint != model.tokenizer_fingerprint:
            raise ResultsError(
                f"{str(path)!r} holds tokens of {header.model}, whose tokenizer is another than that of {model.name}; "
                f"generate prompts of {header.task!r} for this model"
            )
        return cls.of(
            model,
            [row.pair() for row in rows],
            header=header,
            groups=[row.group for row in rows],
            metadata=[row.metadata for row in rows],
        )

    def _row(self, n: int) -> Row:
        return Row(
            clean=self.clean_texts[n],
            corrupt=self.corrupt_texts[n],
            correct=self.correct_texts[n],
            incorrect=self.incorrect_texts[n],
            group=self.groups[n],
            clean_ids=self.clean.tokens[n],
            corrupt_ids=self.corrupt.tokens[n],
            clean_tokens=self.tokens[n],
            corrupt_tokens=self.corrupt_tokens[n],
            correct_set=self.correct_sets[n],
            incorrect_set=self.incorrect_sets[n],
            spans=dict(self.spans[n]),
            corrupted_roles=self.corrupted_roles[n],
            metadata=dict(self.metadata[n]),
        )


def header_of(
    model: Model,
    task: str,
    *,
    bos: bool | None,
    corruption: str | None = None,
    seed: int | None = None,
    report: Report | None = None,
) -> Header:
    """What prompts say of themselves."""
    return Header(
        task=task,
        corruption=corruption,
        seed=seed,
        model=model.name,
        tokenizer_fingerprint=model.tokenizer_fingerprint,
        bos=bos_habit(model.tokenizer) if bos is None else bos,
        ratio=None if report is None else report.ratio,
        candidates=None if report is None else report.n_candidates,
        accepted=None if report is None else int(report.accepted.sum()),
        dropped={} if report is None else dict(report.dropped),
    )
