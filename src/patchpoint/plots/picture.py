"""What a picture shows, as plain data: one trace, or averages by token role, each with its caption.

Drawing code reads these and nothing else, so a picture can be made from a live result or a saved one.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike

from patchpoint.errors import InvalidArgument
from patchpoint.tracing.roles import ROLES

from .labels import prose, shortened, visible
from .settings import METRICS, check_settings, how, patched

PROMPT_LIMIT = 300
ANSWER_LIMIT = 24
DOTS = "Dotted cells are estimates, not measurements"


@dataclass(frozen=True, kw_only=True, eq=False)
class TracePicture:
    """One causal trace of one prompt.

    `values` are indirect effects in units of `metric`, shape (token, layer), NaN where not measured;
    `standard_error`, same shape and units, is that of the mean over samples; `exact`, same shape, is False
    where a value is an estimate (None: nowhere). `tokens` are the tokens' own texts, `layers` their labels
    along x, `subject_span` half-open token positions. Arrays are copied and read-only. Meng et al. 2022, section 2.

    Raises InvalidArgument for a wrong shape, kind or range, UnknownName for a state, direction or metric.
    """

    values: Float[np.ndarray, "token layer"]
    tokens: tuple[str, ...]
    layers: tuple[int | str, ...]
    model: str
    prompt: str
    answer: str
    noise: str
    samples: int
    seed: int
    p_clean: float
    p_corrupt: float
    subject_span: tuple[int, int] | None = None
    state: str = "resid"
    window: int = 10
    direction: str = "restore"
    metric: str = "prob"
    standard_error: Float[np.ndarray, "token layer"] | None = None
    exact: Bool[np.ndarray, "token layer"] | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        tokens, layers = _labels("tokens", self.tokens), tuple(self.layers)
        shape = (len(tokens), len(layers))
        if not all(shape):
            raise InvalidArgument(
                f"a picture of {shape[0]} tokens x {shape[1]} layers; give at least one of each"
            )
        object.__setattr__(self, "tokens", tokens)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "values", _grid("values", self.values, shape, "token, layer"))
        if self.standard_error is not None:
            error = _grid("standard_error", self.standard_error, shape, "token, layer")
            object.__setattr__(self, "standard_error", _not_negative("standard_error", error))
        if self.exact is not None:
            object.__setattr__(self, "exact", _marks("exact", self.exact, shape))
        for name, value in (("p_clean", self.p_clean), ("p_corrupt", self.p_corrupt)):
            if not np.isfinite(value):
                raise InvalidArgument(f"{name} is {value}, expected a finite number; leave such prompts out")
        if self.subject_span is not None:
            start, stop = self.subject_span
            if not 0 <= start < stop <= len(tokens):
                raise InvalidArgument(
                    f"subject_span is ({start}, {stop}), expected 0 <= start < stop <= {len(tokens)} tokens"
                )

    @property
    def baseline(self) -> float:
        """The metric of the run that was patched: p_corrupt when restoring, p_clean when corrupting."""
        return self.p_corrupt if self.direction == "restore" else self.p_clean

    @property
    def p_restored(self) -> Float[np.ndarray, "token layer"]:
        """The metric of the patched run, shape (token, layer): baseline + indirect effect."""
        return self.baseline + self.values

    @property
    def estimated(self) -> Bool[np.ndarray, "token layer"]:
        """Where there is a value that was not measured, shape (token, layer)."""
        there: Bool[np.ndarray, "token layer"] = ~np.isnan(self.values)
        return there & (False if self.exact is None else ~self.exact)

    @property
    def measured(self) -> str:
        """The metric in words with its answer, e.g. ``p(␣Paris)``."""
        return METRICS[self.metric].format(shortened(visible(self.answer), ANSWER_LIMIT))

    @property
    def value_title(self) -> str:
        """What the values are, e.g. ``indirect effect on p(␣Paris)``."""
        return f"indirect effect on {self.measured}"

    @property
    def caption(self) -> tuple[str, ...]:
        """Lines that say model, prompt, answer, noise, samples and seed, and both unpatched runs."""
        prompt = shortened(prose(self.prompt), PROMPT_LIMIT)
        return (
            f"{prose(self.model)}: {patched(self)} at one token",
            f"Prompt “{prompt}”, answer “{shortened(visible(self.answer), PROMPT_LIMIT)}”",
            f"{self.measured}: {self.p_clean:.4g} clean, {self.p_corrupt:.4g} corrupted",
            how(self),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RolePicture:
    """Effects averaged by token role over many prompts.

    `mean` and `std` (sample standard deviation), shape (role, layer), are in units of `metric`, NaN where a
    role has no (for `std`: fewer than two) tokens; `count` is the number of tokens of each role, shape
    (role,) or (role, layer) with equal columns. `prompts` says in words what was averaged.

    Raises InvalidArgument for a wrong shape, kind or range, UnknownName for a state, direction or metric.
    """

    mean: Float[np.ndarray, "role layer"]
    std: Float[np.ndarray, "role layer"]
    count: Int[np.ndarray, " role"]
    layers: tuple[int | str, ...]
    model: str
    prompts: str
    noise: str
    samples: int
    seed: int
    roles: tuple[str, ...] = ROLES
    state: str = "resid"
    window: int = 10
    direction: str = "restore"
    metric: str = "prob"

    def __post_init__(self) -> None:
        check_settings(self)
        roles, layers = _labels("roles", self.roles), tuple(self.layers)
        shape = (len(roles), len(layers))
        if not all(shape):
            raise InvalidArgument(
                f"a picture of {shape[0]} roles x {shape[1]} layers; give at least one of each"
            )
        object.__setattr__(self, "roles", roles)
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "mean", _grid("mean", self.mean, shape, "role, layer"))
        object.__setattr__(self, "std", _not_negative("std", _grid("std", self.std, shape, "role, layer")))
        object.__setattr__(self, "count", _counts(self.count, shape))

    @property
    def measured(self) -> str:
        """The metric in words, e.g. ``p(answer)``."""
        return METRICS[self.metric].format("answer")

    @property
    def value_title(self) -> str:
        """What the values are, e.g. ``mean indirect effect on p(answer)``."""
        return f"mean indirect effect on {self.measured}"

    @property
    def row_labels(self) -> tuple[str, ...]:
        """Each role with its number of tokens, e.g. ``last token (n = 1,000)``."""
        return tuple(f"{prose(role)} (n = {n:,})" for role, n in zip(self.roles, self.count, strict=True))

    @property
    def caption(self) -> tuple[str, ...]:
        """Lines that say model, prompts, answers, noise, samples and seed."""
        return (
            f"{prose(self.model)}: {patched(self)} at one token, averaged by token role",
            f"Prompts: {prose(self.prompts)}, each with its own answer",
            how(self),
        )


def _labels(name: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise InvalidArgument(f"{name} is {labels!r:.80}, expected a sequence of texts, one per row")
    return tuple(labels)


def _grid(name: str, values: ArrayLike, shape: tuple[int, int], axes: str) -> Float[np.ndarray, "row layer"]:
    """A read-only float64 copy of `values`, checked."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        kind = type(values).__name__
        raise InvalidArgument(
            f"{name} is a {kind} that numpy cannot read; give numbers of shape {shape}"
        ) from None
    if array.shape != shape:
        raise InvalidArgument(f"{name} has shape {array.shape}, expected {shape} ({axes})")
    if np.isinf(array).any():
        raise InvalidArgument(f"{name} holds infinite values; give NaN where nothing was measured")
    array.flags.writeable = False
    return array


def _marks(name: str, marks: ArrayLike, shape: tuple[int, int]) -> Bool[np.ndarray, "row layer"]:
    """A read-only copy of truth values, checked."""
    array = np.array(marks)
    if array.dtype != bool or array.shape != shape:
        raise InvalidArgument(
            f"{name} is {array.dtype} of shape {array.shape}, expected bool of shape {shape} (token, layer)"
        )
    array.flags.writeable = False
    return array


def _not_negative(name: str, array: Float[np.ndarray, "row layer"]) -> Float[np.ndarray, "row layer"]:
    if (array < 0).any():
        raise InvalidArgument(f"{name} holds {np.nanmin(array):.4g}, expected no negative values")
    return array


def _counts(count: ArrayLike, shape: tuple[int, int]) -> Int[np.ndarray, " role"]:
    """One count per role from `count` of shape (role,) or (role, layer), checked."""
    array = np.array(count)
    per_role = array[:, 0] if array.shape == shape else array
    same = array.shape in (shape, shape[:1]) and (per_role == array.T).all()
    if not same or (per_role < 0).any() or (per_role % 1 != 0).any():
        raise InvalidArgument(
            f"count has shape {array.shape}; give a whole number of tokens for each of the {shape[0]} roles"
        )
    whole: Int[np.ndarray, " role"] = per_role.astype(np.int64)
    whole.flags.writeable = False
    return whole
