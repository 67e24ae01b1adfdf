"""Averages over facts by the role of a token: where in the prompt it stands with respect to the subject."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from patchpoint.errors import InvalidArgument

ROLES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)


def role_of(position: int, subject: Sequence[bool]) -> str | None:
    """A token's role; None before the subject. `subject` says of each token whether it belongs to the subject.

    A one-token subject counts as first only; a token both first after the subject and last in the prompt
    counts as first subsequent.
    """
    if subject[position]:
        if not any(subject[:position]):
            return ROLES[0]
        in_middle = position + 1 < len(subject) and subject[position + 1]
        return ROLES[1] if in_middle else ROLES[2]
    if not any(subject[:position]):
        return None
    if subject[position - 1]:
        return ROLES[3]
    return ROLES[5] if position == len(subject) - 1 else ROLES[4]


def average_by_role(
    effects: Sequence[Float[np.ndarray, "token layer"] | xr.DataArray], tokens: Sequence[Sequence[str]]
) -> xr.Dataset:
    """Mean, sample standard deviation and count per role and layer, over every token of every fact.

    `effects` holds one (token, layer) array per fact, `tokens` its token texts with a trailing `*` on those of
    the subject. Roles that no token has are NaN with count 0. Raises InvalidArgument for lists that do not
    fit each other.
    """
    if len(effects) != len(tokens) or not effects:
        raise InvalidArgument(
            f"{len(effects)} effects for {len(tokens)} token lists; give one of each per fact"
        )
    rows: dict[str, list[np.ndarray]] = {role: [] for role in ROLES}
    n_layers = np.asarray(effects[0]).shape[-1]
    for number, (effect, labels) in enumerate(zip(effects, tokens, strict=True)):
        values = np.asarray(effect, dtype=np.float64)
        if values.shape != (len(labels), n_layers):
            raise InvalidArgument(
                f"fact {number} has effects of shape {values.shape}; expected ({len(labels)} tokens, {n_layers} layers)"
            )
        subject = [label.endswith("*") for label in labels]
        for position in range(len(labels)):
            role = role_of(position, subject)
            if role is not None:
                rows[role].append(values[position])
    coords = {"role": list(ROLES), "layer": np.arange(n_layers)}
    table = {
        "mean": np.stack([_over(rows[role], np.mean, 1, n_layers) for role in ROLES]),
        "std": np.stack([_over(rows[role], _sample_std, 2, n_layers) for role in ROLES]),
        "count": np.array([[len(rows[role])] * n_layers for role in ROLES]),
    }
    return xr.Dataset({name: (("role", "layer"), values) for name, values in table.items()}, coords=coords)


def _over(values: list[np.ndarray], statistic: object, least: int, n_layers: int) -> np.ndarray:
    if len(values) < least:
        return np.full(n_layers, np.nan)
    return np.asarray(statistic(np.stack(values), axis=0))  # type: ignore[operator]


def _sample_std(values: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(values.std(axis=axis, ddof=1))
