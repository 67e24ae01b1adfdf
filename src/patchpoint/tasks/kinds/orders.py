"""Which member follows which, and the windows of members that prompts show."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from patchpoint.errors import InvalidArgument

from .members import Vocabulary

Window = tuple[int, ...]
"""Values of the members that are shown, and behind them the value of the answer."""


@dataclass(frozen=True)
class Order:
    """How a sequence goes on.

    `follows`: the value behind these, of which it reads the last `reads`. `spacing`: how far apart the windows of
    one call begin (10, 20, 30 rather than 10, 11, 12 where the step is 10).
    """

    name: str
    follows: Callable[[Window], int]
    reads: int = 1
    spacing: int = 1

    def __post_init__(self) -> None:
        assert self.reads >= 1
        assert self.spacing >= 1


def _step(by: int, spacing: int = 1) -> Order:
    return Order(f"{by:+d}", lambda values: values[-1] + by, spacing=spacing)


_STEPS = (_step(1), _step(2), _step(3), _step(10, 10), _step(100, 100), _step(-1))
ORDERS: Mapping[str, Order] = {
    **{step.name: step for step in _STEPS},
    "x2": Order("x2", lambda values: 2 * values[-1]),
}
FIBONACCI = Order("fibonacci", lambda values: values[-2] + values[-1], reads=2)


@dataclass(frozen=True)
class Progression:
    """All windows of `n_shown` members of a vocabulary in an order, their answers included.

    `starts`: the values with which windows begin, as many as the order reads. Values lie in `first` to `last`; in
    a cyclic vocabulary no member comes twice. Raises InvalidArgument where no window fits.
    """

    vocabulary: Vocabulary
    order: Order
    n_shown: int
    starts: tuple[Window, ...]
    first: int
    last: int

    def __post_init__(self) -> None:
        if not self.windows:
            raise InvalidArgument(
                f"{self.vocabulary.name} order={self.order.name}: no {self.n_shown} members in this order with "
                f"a successor among the {self.last - self.first + 1} from {self.word(self.first)!r} to "
                f"{self.word(self.last)!r}; show fewer or take another order or range"
            )

    @classmethod
    def of_steps(
        cls, vocabulary: Vocabulary, order: Order, n_shown: int, first: int, last: int
    ) -> "Progression":
        """Windows of an order that reads one value, from starts in the range that are `order.spacing` apart.

        There are none where a step goes past the whole vocabulary: ten days on is three days on.
        """
        within = range(first, last + 1, order.spacing) if order.spacing <= len(vocabulary) else range(0)
        starts = tuple((value,) for value in within)
        return cls(vocabulary, order, n_shown, starts, first, last)

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """Values of the shown members and of the answer, by their starts."""
        return tuple(window for window in map(self._from, self.starts) if self._fits(window))

    @cached_property
    def values(self) -> tuple[int, ...]:
        """Values of all members of the windows, answers included, ascending."""
        return tuple(sorted({value for window in self.windows for value in window}))

    def word(self, value: int) -> str:
        """The member of a value."""
        return self.vocabulary.words[value - 1]

    def words(self, values: Window) -> tuple[str, ...]:
        """The members of several values."""
        return tuple(map(self.word, values))

    def continues(self, values: Window) -> bool:
        """Whether the last of these values is the successor of those before it."""
        return self._successor(values[:-1]) == values[-1]

    def _successor(self, values: Window) -> int:
        value = self.order.follows(values)
        return (value - 1) % len(self.vocabulary) + 1 if self.vocabulary.cyclic else value

    def _from(self, start: Window) -> Window:
        window = start
        while len(window) <= self.n_shown:
            window = (*window, self._successor(window))
        return window

    def _fits(self, window: Window) -> bool:
        if self.vocabulary.cyclic and len(set(window)) < len(window):
            return False
        return all(self.first <= value <= self.last for value in window)
