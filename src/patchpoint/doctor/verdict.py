"""What an examination found, as plain data: in memory, in JSON, in run records."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from patchpoint.errors import InvalidArgument

FORMAT = 1
"""Number of the layout below; files of another one are made again."""

Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One comparison. It passes when its error is at most its tolerance.

    `unit` says what the two numbers count. A check that failed without an error could not be carried out;
    `reason` says why, and why a skipped one was skipped.
    """

    name: str
    compares: str
    outcome: Outcome
    error: float | None = None
    tolerance: float | None = None
    unit: str = ""
    reason: str | None = None

    def __post_init__(self) -> None:
        measured = self.error is not None and self.tolerance is not None
        if self.outcome == "passed" and not measured:
            raise InvalidArgument(f"check {self.name!r} passed without an error and a tolerance; give both")
        if self.outcome == "skipped" and not self.reason:
            raise InvalidArgument(f"check {self.name!r} was skipped without a reason; give one")

    @property
    def carried_out(self) -> bool:
        """Whether it ran to its end, or was skipped on purpose."""
        return self.outcome == "skipped" or self.error is not None


@dataclass(frozen=True)
class About:
    """What a verdict holds for: another model, number format, device or version needs its own."""

    model_fingerprint: str
    dtype: str
    device: str
    """Kind of device: cpu, cuda, mps."""
    products: str
    """How matrix products of float32 numbers are made: ieee, tf32 or bf16."""
    versions: dict[str, str]


@dataclass(frozen=True)
class Verdict:
    """All checks of one model.

    `noise` is how far the plain model's own logits move, at most, when the output of every block is rounded
    once more at random, in standard deviations of the logits: two ways to compute these logits in this number
    format cannot be expected to agree more closely.
    """

    model: str
    about: About
    noise: float | None
    checks: tuple[Check, ...]
    seconds: float
    format: int = FORMAT

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome == "failed")

    @property
    def conclusive(self) -> bool:
        """Whether every check could be carried out, or was skipped on purpose."""
        return bool(self.checks) and all(check.carried_out for check in self.checks)

    def summary(self) -> str:
        """One line: what was found."""
        where = f"doctor: {self.model} on {self.about.device}, {self.about.dtype}"
        n_passed, n_skipped = (
            sum(check.outcome == outcome for check in self.checks) for outcome in ("passed", "skipped")
        )
        if self.passed:
            return f"{where}: {n_passed} checks passed" + (f", {n_skipped} skipped" if n_skipped else "")
        names = ", ".join(f"{check.name}{_against(check)}" for check in self.failed)
        return f"{where}: {len(self.failed)} of {len(self.checks)} checks failed: {names}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain: dict[str, Any] = _VERDICT.dump_python(self, mode="json")
        return plain

    @classmethod
    def from_dict(cls, data: object) -> "Verdict":
        """A verdict from `to_dict`; InvalidArgument for anything else, other formats included."""
        if isinstance(data, dict) and data.get("format") != FORMAT:
            raise InvalidArgument(
                f"a verdict of format {data.get('format')!r}, this patchpoint reads {FORMAT}; make it again "
                "with patchpoint models check"
            )
        try:
            return _VERDICT.validate_python(data)
        except (ValidationError, RecursionError) as error:
            raise InvalidArgument(
                "this is no verdict, or a damaged one; make it again with patchpoint models check"
            ) from error


def _against(check: Check) -> str:
    if check.error is None:
        return f" ({check.reason})"
    return f" (error {check.error:.2g}, tolerance {check.tolerance:.2g})"


_VERDICT: TypeAdapter[Verdict] = TypeAdapter(Verdict)
