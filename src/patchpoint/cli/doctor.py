"""What commands say about the doctor's verdict on the model they run."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from patchpoint.doctor import Verdict, verdict_of
from patchpoint.engine import Model


@dataclass(frozen=True)
class Diagnosis:
    """A verdict, and what is still to be told about it: a refused request is answered with its error alone."""

    verdict: Verdict
    news: tuple[str, ...]

    def tell(self, console: Console) -> None:
        """A line when the model was examined now; where a check failed a warning, however quiet the command."""
        if self.verdict.passed:
            for line in self.news:
                console.print(line, markup=False, soft_wrap=True)
            return
        Console(stderr=True, highlight=False).print(
            f"warning: {self.verdict.summary()}; its numbers may be wrong, see patchpoint models check",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )

    def to_dict(self) -> dict[str, Any]:
        """The outcome for JSON; all checks are in the run's record."""
        return {"passed": self.verdict.passed, "failed": [check.name for check in self.verdict.failed]}


def diagnosed(model: Model, console: Console, *, fingerprint: str | None = None) -> Diagnosis:
    """The verdict on a model, of an examination now where none is kept.

    `fingerprint`: the model's, where it has been read already.
    """
    news: list[str] = []
    with console.status("the doctor looks at the model, once"):
        verdict = verdict_of(model, fingerprint=fingerprint, notify=news.append)
    return Diagnosis(verdict, tuple(news))
