"""Stops on the way through a block, where edits act and components are read."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Visit:
    """What happens at chosen components: called with a name, rows as soon as they exist, and the first row's number.

    It may change the rows in place.
    """

    at: frozenset[str]
    call: Callable[[str, Tensor, int], None]

    def wants(self, *components: str) -> bool:
        """Whether it stops at one of these."""
        return not self.at.isdisjoint(components)

    def __call__(self, component: str, rows: Tensor, start: int = 0) -> None:
        """Stop here, where asked to."""
        if component in self.at:
            self.call(component, rows, start)


NOWHERE = Visit(frozenset(), lambda component, rows, start: None)
