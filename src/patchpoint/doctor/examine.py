"""The examination: every check of one model, fifteen short forwards and three small sweeps."""

import time
from collections.abc import Callable

import torch

from patchpoint.engine import Model
from patchpoint.models.reading import in_one_line

from . import edits, outputs, parts
from .about import about
from .exam import Exam, Finding, Skip
from .verdict import Check, Outcome, Verdict

CHECKS: dict[str, tuple[str, Callable[[Exam], Finding | Skip]]] = {
    "parity": ("our logits, prompts packed, with the plain model's, prompts alone", outputs.parity),
    "padding": ("the plain model's left-padded batch with our run without pads", outputs.padding),
    "batch": ("prompts packed together with the same prompts alone", outputs.batch),
    "device": ("our logits on this device with those of a copy on the CPU", outputs.device),
    "self-patch": ("every component replaced by itself with no edit", edits.self_patch),
    "effect": ("components whose zeroing changes no logit with none", edits.effect),
    "sweep": ("a swept edit with the same edit in a whole run", edits.swept),
    "causality": ("earlier tokens before and after a change of the last one", parts.causality),
    "stream": ("resid_pre + attn_out + mlp_out with the plain model's block outputs", parts.stream),
    "heads": ("the sum of what the heads write with attn_out", parts.heads),
    "lens": ("final norm and unembedding of the last stream with the plain logits", parts.lens),
    "pattern": ("attention rows with sum 1, no look ahead, and z = pattern @ v", parts.pattern),
}
"""By name: what is compared with what, and the check."""


def examine(model: Model, *, fingerprint: str | None = None) -> Verdict:
    """All checks on the model as it is, in its number format, on its device; nothing is kept.

    Errors of logits are the largest absolute difference in standard deviations of the plain model's logits.
    Tolerances follow the noise of the number format as measured on this model (see `Verdict.noise`).
    `fingerprint`: the model's, where it has been read already. A check that cannot be carried out has failed.
    """
    started = time.perf_counter()
    exam = Exam(model, about(model, fingerprint))
    checks = tuple(_made(exam, name) for name in CHECKS)
    return Verdict(model.name, exam.about, _noise(exam), checks, round(time.perf_counter() - started, 2))


def _made(exam: Exam, name: str) -> Check:
    compares, check = CHECKS[name]
    try:
        with torch.no_grad():
            found = check(exam)
    except torch.OutOfMemoryError as error:
        return Check(name, compares, "failed", reason=f"not enough memory: {in_one_line(error)}")
    except Exception as error:  # whatever a broken model or adapter raises is what is looked for
        return Check(name, compares, "failed", reason=f"it could not be made: {in_one_line(error)}")
    if isinstance(found, Skip):
        return Check(name, compares, "skipped", reason=found.reason)
    if found.error == float("inf"):
        return Check(
            name, compares, "failed", tolerance=found.tolerance, unit=found.unit, reason="not a number"
        )
    outcome: Outcome = "passed" if found.error <= found.tolerance else "failed"
    return Check(name, compares, outcome, found.error, found.tolerance, found.unit, found.remark)


def _noise(exam: Exam) -> float | None:
    try:
        return exam.noise
    except Exception:  # the checks that need it say why
        return None
