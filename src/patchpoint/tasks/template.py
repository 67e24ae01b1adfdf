"""Texts made from slots, so that where each part stands is known and never searched for."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from string import Formatter

from patchpoint.errors import InvalidArgument

Place = tuple[int, int]


@dataclass(frozen=True)
class Filled:
    """A text and, per slot, the half-open range of its characters."""

    text: str
    places: Mapping[str, Place]


@dataclass(frozen=True)
class Template:
    """A text with named slots in braces: `{name} was born in {month}. {name2} was born in`.

    A slot that returns is called `name#2`, `name#3`, ... at its later places. Doubled braces are braces.
    Raises InvalidArgument for text that is not such a template.
    """

    name: str
    text: str

    def __post_init__(self) -> None:
        assert self.parts

    @cached_property
    def parts(self) -> tuple[tuple[str, str | None], ...]:
        """Literal text and the slot behind it, in order; the slot is None at the end."""
        try:
            parsed = list(Formatter().parse(self.text))
        except ValueError as error:
            raise InvalidArgument(
                f"template {self.text!r}: {error}; double a brace that is no slot"
            ) from None
        for _, slot, form, conversion in parsed:
            if slot is not None and (not slot.isidentifier() or form or conversion):
                raise InvalidArgument(
                    f"template {self.text!r}: {slot!r} is no slot's name; name slots as {{city}}, without a format"
                )
        if not parsed:
            raise InvalidArgument("the template is empty; give its text")
        return tuple((literal, slot) for literal, slot, _, _ in parsed)

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, each once, in the order in which they stand."""
        return tuple(dict.fromkeys(slot for _, slot in self.parts if slot is not None))

    def fill(self, values: Mapping[str, str]) -> Filled:
        """The text with these values. InvalidArgument where a slot has none."""
        missing = [slot for slot in self.slots if not values.get(slot)]
        if missing:
            raise InvalidArgument(f"template {self.text!r}: no value for {', '.join(missing)}")
        text, places, seen = "", {}, dict.fromkeys(self.slots, 0)
        for literal, slot in self.parts:
            text += literal
            if slot is None:
                continue
            seen[slot] += 1
            role = slot if seen[slot] == 1 else f"{slot}#{seen[slot]}"
            places[role] = (len(text), len(text) + len(values[slot]))
            text += values[slot]
        return Filled(text, places)

    def around(self, slot: str) -> tuple[str, str]:
        """Literal text next to the first place of a slot, with a stand-in for a slot before it."""
        at = next(i for i, (_, name) in enumerate(self.parts) if name == slot)
        before = self.parts[at][0]
        if at > 0 and self.parts[at - 1][1] is not None:
            before = f"X{before}"
        after = self.parts[at + 1][0] if at + 1 < len(self.parts) else ""
        return before, after
