"""What was asked of an experiment, checked before any work, and the same again as a command and as a call."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchpoint.errors import InvalidArgument
from patchpoint.experiments import FactSettings
from patchpoint.experiments.catalogue import Experiment


@dataclass(frozen=True)
class Given:
    """An option's value, its words on the command line behind the flag, and how Python writes it."""

    value: Any
    words: tuple[str, ...]
    code: str


def plain(value: object) -> Given | None:
    """A value that is written as it is, if there is one."""
    return None if value is None else Given(value, (str(value),), repr(value))


def levels_named(text: str | None) -> Given | None:
    """Numbers from a list with commas. Raises InvalidArgument."""
    if text is None:
        return None
    try:
        levels = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidArgument(
            f"--levels {text!r} is no list of numbers; give one such as 0.01,0.1,1"
        ) from None
    return Given(levels, (text,), repr(levels))


def orders_named(text: str | None) -> Given | None:
    """Orders from a text such as `1-2-3,3-2-1`. Raises InvalidArgument."""
    if text is None:
        return None
    try:
        orders = tuple(tuple(int(part) for part in order.split("-")) for order in text.split(","))
    except ValueError:
        raise InvalidArgument(
            f"--orders {text!r} is no list of orders; give one such as 1-2-3,3-2-1"
        ) from None
    return Given(orders, (text,), repr(orders))


def sentences_in(path: Path | None) -> Given | None:
    """Pairs of a true and a false sentence from a JSON file. Raises InvalidArgument."""
    if path is None:
        return None
    expected = 'expected a JSON list of pairs, such as [["A is B.", "A is C."]]'
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InvalidArgument(f"cannot read sentences from {str(path)!r}: {reason}; {expected}") from error
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise InvalidArgument(f"{str(path)!r} holds no pairs of sentences; {expected}")
    found = tuple((true, false) for true, false in pairs)
    return Given(found, (str(path),), repr(found))


def other_model(name: str | None, dtype: str | None) -> Given | None:
    """A second model, to be loaded once all else is found good. Raises InvalidArgument."""
    if name is None:
        if dtype is not None:
            raise InvalidArgument("--against-dtype is of the other model; give --against MODEL as well")
        return None
    if dtype is None:
        return Given(name, (name,), f"pp.load({name!r})")
    return Given(name, (name, "--against-dtype", dtype), f"pp.load({name!r}, dtype={dtype!r})")


def settings_for(
    experiment: Experiment, given: Mapping[str, Any], seed: int, *, strict: bool
) -> FactSettings:
    """The settings of one experiment; one that it fixes itself is refused, or with `strict` off left out."""
    fixed = [name for name in given if name in experiment.fixes]
    if fixed and strict:
        raise InvalidArgument(
            f"{experiment.name} sets {' and '.join(fixed)} itself; leave out {' '.join(map(flag, fixed))}"
        )
    return FactSettings(seed=seed, **{name: value for name, value in given.items() if name not in fixed})


def options_for(experiment: Experiment, own: Mapping[str, Given | None], *, strict: bool) -> dict[str, Given]:
    """The experiment's own options; one that it has not is refused, or with `strict` off left out."""
    given = {name: value for name, value in own.items() if value is not None}
    foreign = [name for name in given if name not in experiment.options]
    if foreign and strict:
        raise InvalidArgument(
            f"{experiment.name} has no {' and no '.join(map(flag, foreign))}; it takes "
            f"{', '.join(map(flag, experiment.options))}"
        )
    if "against" in experiment.options and "against" not in given:
        raise InvalidArgument(f"{experiment.name} compares with another model; give --against MODEL")
    return {name: value for name, value in given.items() if name not in foreign}


def flag(name: str) -> str:
    """A parameter as it is written on the command line."""
    return f"--{name.replace('_', '-')}"


def command_line(
    experiment: Experiment,
    facts: Path,
    out: Path,
    model: Given,
    settings: FactSettings,
    options: Mapping[str, Given],
) -> str:
    """The command that gives the same result, as it can be pasted into a shell."""
    words = ["patchpoint", "experiment", experiment.name, "--facts", str(facts), "--out", str(out)]
    words += ["--model", *model.words]
    for name, value in _changed(settings).items():
        words += [f"--{'' if value else 'no-'}bos"] if name == "bos" else [flag(name), str(value)]
    for name, given in options.items():
        words += [flag(name), *given.words]
    return shlex.join(words)


def python_call(
    experiment: Experiment,
    facts: Path,
    model: Given,
    settings: FactSettings,
    options: Mapping[str, Given],
) -> str:
    """The call that gives the same result."""
    function = experiment.run.__name__
    arguments = ["model", f"read_facts({str(facts)!r})"]
    arguments += [f"{name}={given.code}" for name, given in options.items()]
    if changed := [f"{name}={value!r}" for name, value in _changed(settings).items()]:
        arguments.append(f"settings=FactSettings({', '.join(changed)})")
    return "\n".join(
        [
            "import patchpoint as pp",
            f"from patchpoint.experiments import FactSettings, {function}",
            "from patchpoint.tasks.facts import read_facts",
            "",
            f"model = {model.code}",
            f"result = {function}({', '.join(arguments)})",
            "result.averages, result.findings",
        ]
    )


def _changed(settings: FactSettings) -> dict[str, Any]:
    usual = FactSettings()
    return {name: value for name, value in vars(settings).items() if value != getattr(usual, name)}


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
