"""Values of an edit that are looked up when they are needed."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from .sites import Site


class Source(ABC):
    """Where an edit's values come from."""

    @abstractmethod
    def check(self, site: "Site", prompt: int, lengths: Sequence[int]) -> None:
        """Raise PromptError or InvalidArgument where it cannot serve that prompt of the base."""

    @abstractmethod
    def rows(self, component: str, layer: int, prompts: Sequence[int], positions: Sequence[int]) -> Tensor:
        """One row per place (prompt, position), shape [place, *axes of the component]."""
