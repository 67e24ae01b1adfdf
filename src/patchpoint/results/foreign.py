"""Reading foreign results: for each fact an array of effects and its tokens, as the published study keeps them.

The effects have shape (token, layer), and the tokens of the subject end in `*`. Files are read without pickle, which
could run any code.
"""

import hashlib
import io
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from patchpoint.errors import FactError, UnknownName

Raw = Mapping[str, Any]
FIELDS = ("effect", "tokens", "p_clean", "p_corrupt", "prompt", "answer")
REQUIRED = ("effect", "tokens")
EXPECTED = f"an [effect, tokens] pair or an object with {', '.join(REQUIRED)} (and {', '.join(FIELDS[2:])})"
LARGEST = float(np.finfo(np.float32).max)
PLAIN = "json.dump([[numpy.asarray(e).tolist(), list(t)] for e, t in facts], open(sys.argv[2], 'w'))"
PICKLES = {
    **dict.fromkeys(
        (".pkl", ".pickle", ".p"),
        f"import json, numpy, pickle, sys; facts = pickle.load(open(sys.argv[1], 'rb')); {PLAIN}",
    ),
    **dict.fromkeys(
        (".pt", ".pth"),
        "import json, numpy, sys, torch; "
        f"facts = torch.load(sys.argv[1], map_location='cpu', weights_only=False); {PLAIN}",
    ),
}
"""By file name ending, the program that makes such a file one that is read here."""


@dataclass(frozen=True, eq=False)
class ForeignFact:
    """One fact of a foreign file: `number` counts from 1, `tokens` are without marks, `span` is the subject's.

    What the file does not say is None. Raises FactError when the parts do not fit each other.
    """

    number: int
    effect: Float[np.ndarray, "token layer"]
    tokens: tuple[str, ...]
    span: tuple[int, int]
    p_clean: float | None = None
    p_corrupt: float | None = None
    prompt: str | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        if self.effect.shape[0] != len(self.tokens):
            raise FactError(
                f"fact {self.number} has effects of shape {self.effect.shape} for {len(self.tokens)} tokens"
            )
        if not 0 <= self.span[0] < self.span[1] <= len(self.tokens):
            raise FactError(f"fact {self.number} has a subject that is not among its tokens")


@dataclass(frozen=True, eq=False)
class ForeignFile:
    """The facts of a foreign file, all with the same number of layers, and the SHA-256 of its bytes."""

    facts: tuple[ForeignFact, ...]
    sha256: str

    def __post_init__(self) -> None:
        if not self.facts:
            raise FactError(f"the file holds no facts; expected for each {EXPECTED}")
        n_layers = self.facts[0].effect.shape[1]
        for fact in self.facts:
            if fact.effect.shape[1] != n_layers:
                raise FactError(
                    f"fact {fact.number} has {fact.effect.shape[1]} layers and fact 1 has {n_layers}; "
                    "give facts of one model in one file"
                )


def read_foreign(path: Path, *, transposed: bool = False) -> ForeignFile:
    """Read a JSON, JSONL or npz file of effects, shape (token, layer), or (layer, token) when `transposed`.

    Raises FactError with the number of the fact that does not fit, and for pickles, saying how to convert them;
    UnknownName for another kind of file or an unknown field.
    """
    ending = path.suffix.lower()
    if ending in PICKLES:
        target = shlex.quote(str(path.with_suffix(".json")))
        raise FactError(
            f"{str(path)!r} is a pickle, which can run any code and is not read; if you trust it, convert it: "
            f'python -c "{PICKLES[ending]}" {shlex.quote(str(path))} {target}'
        )
    if ending not in READERS:
        raise UnknownName("ending of a file of results", ending, READERS)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise FactError(f"cannot read {str(path)!r}: {_line(error)}; give a file of results") from error
    raw = READERS[ending](data)
    facts = tuple(_fact(number, item, transposed) for number, item in enumerate(raw, start=1))
    return ForeignFile(facts, hashlib.sha256(data).hexdigest())


def _json(data: bytes) -> Sequence[object]:
    found = _document(data, "the file")
    if not isinstance(found, list):
        raise FactError(
            f"the file holds a JSON {type(found).__name__}; expected a list with for each fact {EXPECTED}"
        )
    return found


def _jsonl(data: bytes) -> Sequence[object]:
    lines = enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1)
    return [_document(line, f"line {number}") for number, line in lines if line.strip()]


def _document(data: bytes, where: str) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FactError(f"{where} is not JSON: {_line(error)}; expected for each fact {EXPECTED}") from error


def _npz(data: bytes) -> Sequence[object]:
    """Arrays named by field and place: effect_0, tokens_0, p_clean_0, ..., effect_1, ..."""
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        arrays = {name: loaded[name] for name in loaded.files}
    except (
        Exception
    ) as error:  # A damaged archive raises whatever zipfile, zlib and numpy happen to trip over.
        raise FactError(
            f"the file is not an archive of plain arrays: {_line(error)}; "
            "save with numpy.savez(file, effect_0=..., tokens_0=..., ...), tokens as an array of texts"
        ) from error
    facts: dict[int, dict[str, object]] = {}
    for name, array in arrays.items():
        parts = re.fullmatch(r"(\w+)_(0|[1-9][0-9]{0,8})", name, re.ASCII)
        if parts is None:
            raise FactError(f"the archive holds an array {name!r}; expected names such as effect_0, tokens_0")
        facts.setdefault(int(parts[2]), {})[parts[1]] = array if parts[1] == "effect" else array.tolist()
    for place in range(len(facts)):
        if place not in facts:
            raise FactError(
                f"the archive holds no effect_{place}, but later ones; number them from 0 without gaps"
            )
    return [facts[place] for place in sorted(facts)]


READERS: dict[str, Callable[[bytes], Sequence[object]]] = {".json": _json, ".jsonl": _jsonl, ".npz": _npz}


def _fact(number: int, item: object, transposed: bool) -> ForeignFact:
    raw = _fields(number, item)
    marked = _tokens(number, raw["tokens"])
    effect = _oriented(number, _effect(number, raw["effect"]), len(marked), transposed)
    starred = [position for position, text in enumerate(marked) if text.endswith("*")]
    if not starred or starred[-1] - starred[0] + 1 != len(starred):
        said = f"at positions {', '.join(map(str, starred))}, not one run" if starred else "on none"
        raise FactError(
            f"fact {number} has the mark * {said}; end the tokens of the subject in *, and no others"
        )
    return ForeignFact(
        number=number,
        effect=effect,
        tokens=tuple(text.removesuffix("*") for text in marked),
        span=(starred[0], starred[-1] + 1),
        p_clean=_number(number, raw, "p_clean"),
        p_corrupt=_number(number, raw, "p_corrupt"),
        prompt=_text(number, raw, "prompt"),
        answer=_text(number, raw, "answer"),
    )


def _fields(number: int, item: object) -> Raw:
    if isinstance(item, list) and len(item) == len(REQUIRED):
        item = dict(zip(REQUIRED, item, strict=True))
    if not isinstance(item, dict):
        size = f" of {len(item)}" if isinstance(item, list) else ""
        raise FactError(f"fact {number} is a {type(item).__name__}{size}; expected {EXPECTED}")
    for name in item:
        if name not in FIELDS:
            raise UnknownName(f"field of fact {number}", name, FIELDS)
    missing = [name for name in REQUIRED if name not in item]
    if missing:
        raise FactError(f"fact {number} lacks {', '.join(missing)}; expected {EXPECTED}")
    return item


def _tokens(number: int, value: object) -> list[str]:
    if not isinstance(value, list) or not value or not all(is_text(text) for text in value):
        raise FactError(f"fact {number} has tokens that are not a list of texts; got {_brief(value)}")
    return value


def _effect(number: int, value: object) -> np.ndarray:
    """An array of finite numbers with two axes."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise FactError(
            f"fact {number} has effects that are no array: {_line(error)}; give rows of one length"
        ) from error
    if array.dtype.kind not in "fiu" or array.ndim != 2 or not array.size:
        raise FactError(
            f"fact {number} has effects of shape {array.shape} and kind {array.dtype}; "
            "expected numbers of shape (token, layer)"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        array = array.astype(np.float64)
    usable = np.abs(array) <= LARGEST
    if not usable.all():
        row, column = np.argwhere(~usable)[0].tolist()
        raise FactError(
            f"fact {number} has the effect {array[row, column]} in row {row}, column {column}, both from 0; "
            "give finite numbers that float32 can hold"
        )
    return array


def _oriented(number: int, effect: np.ndarray, n_tokens: int, transposed: bool) -> np.ndarray:
    """The effect as (token, layer)."""
    found, other = (effect.T, effect) if transposed else (effect, effect.T)
    if found.shape[0] == n_tokens:
        return found
    said = f"fact {number} has effects of shape {effect.shape} for {n_tokens} tokens"
    if other.shape[0] == n_tokens:
        layout, cure = ("token, layer", "leave out") if transposed else ("layer, token", "give")
        raise FactError(f"{said}, which only fits as ({layout}); {cure} --transposed")
    raise FactError(f"{said}; expected one row for each token, with one value for each layer")


def _number(number: int, raw: Raw, name: str) -> float | None:
    value = raw.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise FactError(
            f"fact {number} has {name} {_brief(value)}; expected a finite number, or leave it out"
        )
    return float(value)


def _text(number: int, raw: Raw, name: str) -> str | None:
    value = raw.get(name)
    if value is None or (isinstance(value, str) and is_text(value)):
        return value
    raise FactError(f"fact {number} has {name} {_brief(value)}; expected text, or leave it out")


def is_text(value: object) -> bool:
    """Whether it is text that can be written as UTF-8, which lone surrogates cannot."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _brief(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _line(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
