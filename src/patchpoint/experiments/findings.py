"""The experiments' own answers: shares, spreads and curves over facts, each with its interval."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from patchpoint.errors import InvalidArgument
from patchpoint.tracing.agreement import agreement
from patchpoint.tracing.averages import role_numbers
from patchpoint.tracing.bootstrap import CONFIDENCE, ratio
from patchpoint.tracing.grid import Grid
from patchpoint.tracing.roles import ROLES

from .intervals import mean_over_facts

EXPECTED = {"restore": 1.0, "corrupt": -1.0}
"""The sign of an effect that exchanging a state is expected to have."""
CURVES: dict[str, Callable[[Grid], float]] = {
    "p_corrupt": lambda grid: grid.p_corrupt,
    "mean effect": lambda grid: float(grid.effect[grid.subject_span[0] :].mean()),
    "largest effect": lambda grid: float(grid.effect.max()),
}
"""What is followed as the noise grows."""
BEFORE_SUBJECT = "tokens before the subject"


def wrong_sign(grids: Sequence[Grid]) -> xr.Dataset:
    """Share of facts whose effect has the unexpected sign, dims (role, layer): share, low, high, count.

    A fact's effect in a role is the mean over its tokens of that role; it is expected to be at least 0 where
    states are restored, at most 0 where they are corrupted.
    """
    effects = np.stack([role_means(grid) for grid in grids])
    wrong = np.where(np.isnan(effects), np.nan, EXPECTED[grids[0].direction] * effects < 0)
    return mean_over_facts(wrong, ("role", "layer"), _role_coords(grids), "share")


def magnitude(grids: Sequence[Grid]) -> xr.Dataset:
    """Mean over facts of the effect's absolute value, dims (role, layer)."""
    effects = np.abs(np.stack([role_means(grid) for grid in grids]))
    return mean_over_facts(effects, ("role", "layer"), _role_coords(grids))


def role_means(grid: Grid) -> Float[np.ndarray, "role layer"]:
    """A fact's mean effect over its tokens of each role, NaN for roles that it lacks."""
    roles = role_numbers(grid)
    return np.stack([_mean_of_rows(grid, roles == number) for number in range(len(ROLES))])


def by_level(by_std: Mapping[float, Sequence[Grid]]) -> dict[str, xr.Dataset]:
    """Against the noise's standard deviation, dim (std): p*, the mean effect over a fact's sites, the largest one."""
    found = {}
    for name, value in CURVES.items():
        table = np.array([[value(grid) for grid in grids] for grids in by_std.values()]).T
        found[name] = mean_over_facts(table, ("std",), {"std": list(by_std)})
    return found


def noise_against_noise(common: Sequence[Grid], fresh: Sequence[Grid]) -> dict[str, xr.Dataset]:
    """New noise at each site against the same noise for all: their difference by role, and how well they agree.

    `difference`: fresh - common, dims (role, layer). `agreement`: rank correlation over a fact's sites, and the
    share of the ten largest effects under common noise that are among the ten largest under fresh noise.
    """
    pairs = _same_facts(fresh, common)
    differences = np.stack([role_means(new) - role_means(old) for new, old in pairs])
    return {
        "difference": mean_over_facts(differences, ("role", "layer"), _role_coords(common)),
        "agreement": agreement_over_facts(fresh, common),
    }


def agreement_over_facts(some: Sequence[Grid], exact: Sequence[Grid]) -> xr.Dataset:
    """Agreement of two heatmaps of each fact, dim (measure).

    Rank correlation over sites, and recall of `exact`'s top ten.
    """
    expected = EXPECTED[exact[0].direction]
    alike = [
        agreement(expected * mine.effect, expected * other.effect, first=_first_that_differs(other))
        for mine, other in _same_facts(some, exact)
    ]
    table = np.array([[a.rank_correlation, a.recall] for a in alike])
    return mean_over_facts(table, ("measure",), {"measure": ["rank correlation", "recall of the top 10"]})


def spread_over_seeds(grids: Sequence[Grid]) -> xr.Dataset:
    """Mean, sample std and the middle 95% of the effect over repetitions, dims (token, layer)."""
    effects = np.stack([grid.effect for grid in grids])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(effects, [tail, 1 - tail], axis=0)
    parts = {"mean": effects.mean(0), "std": effects.std(0, ddof=1), "low": low, "high": high}
    coords = {
        "token": range(effects.shape[1]),
        "layer": range(effects.shape[2]),
        "text": ("token", list(grids[0].tokens)),
    }
    return xr.Dataset({name: (("token", "layer"), part) for name, part in parts.items()}, coords=coords)


def by_place(grids: Sequence[Grid]) -> xr.Dataset:
    """Mean effect at every token of the sentences in front, then by role in the prompt; dims (place, layer).

    The sentences are the same for all facts; coordinate `text` has their tokens,
    then the roles' names, where `is_token` is false.
    """
    n_prefix = max(stop for _, stop in grids[0].spans.values())
    values = np.stack([_by_place(grid, n_prefix) for grid in grids])
    text = [*grids[0].tokens[:n_prefix], BEFORE_SUBJECT, *ROLES]
    coords = {
        "place": range(len(text)),
        "layer": range(values.shape[2]),
        "text": ("place", text),
        "is_token": ("place", [place < n_prefix for place in range(len(text))]),
    }
    return mean_over_facts(values, ("place", "layer"), coords)


def by_position(
    alone: Sequence[Sequence[Grid]], stacked: Mapping[tuple[int, ...], Sequence[Grid]]
) -> dict[str, xr.Dataset]:
    """The effect of a sentence, summed over its tokens, by layer: alone, and by its position in a stack.

    Given the facts behind each sentence alone, and behind all of them in each order (sentences from 1).
    `alone` has dims (sentence, layer); `stacked` (position, layer), over all orders; `each stacked`
    (sentence, position, layer). Only facts traced under every condition count; InvalidArgument for none.
    """
    numbers = set.intersection(*({grid.number for grid in some} for some in (*alone, *stacked.values())))
    if not numbers:
        raise InvalidArgument("no fact was traced behind every sentence and order; give more facts")

    def sums(grids: Sequence[Grid]) -> Float[np.ndarray, "fact position layer"]:
        return np.stack([_sentence_sums(grid) for grid in grids if grid.number in numbers])

    single = np.stack([sums(grids)[:, 0] for grids in alone], axis=1)
    n, n_layers = single.shape[1:]
    total, count = np.zeros((len(numbers), n, n, n_layers)), np.zeros((n, n, 1))
    for order, grids in stacked.items():
        for position, sentence in enumerate(order):
            total[:, sentence - 1, position] += sums(grids)[:, position]
            count[sentence - 1, position] += 1
    each = ratio(total, np.broadcast_to(count, total.shape))
    layers, counted = range(n_layers), range(1, n + 1)
    return {
        "alone": mean_over_facts(single, ("sentence", "layer"), {"sentence": counted, "layer": layers}),
        "stacked": mean_over_facts(
            np.nanmean(each, axis=1), ("position", "layer"), {"position": counted, "layer": layers}
        ),
        "each stacked": mean_over_facts(
            each,
            ("sentence", "position", "layer"),
            {"sentence": counted, "position": counted, "layer": layers},
        ),
    }


def _sentence_sums(grid: Grid) -> Float[np.ndarray, "position layer"]:
    """The effect summed over the tokens of each sentence in front, in their order."""
    return np.stack([grid.effect[start:stop].sum(0) for start, stop in sorted(grid.spans.values())])


def _by_place(grid: Grid, n_prefix: int) -> Float[np.ndarray, "place layer"]:
    places = np.arange(len(grid.tokens))
    before = (n_prefix <= places) & (places < grid.subject_span[0])
    return np.concatenate([grid.effect[:n_prefix], _mean_of_rows(grid, before)[None], role_means(grid)])


def _mean_of_rows(grid: Grid, wanted: Bool[np.ndarray, " token"]) -> Float[np.ndarray, " layer"]:
    rows = grid.effect[wanted]
    return rows.mean(0) if len(rows) else np.full(grid.effect.shape[1], np.nan)


def _role_coords(grids: Sequence[Grid]) -> dict[str, object]:
    return {"role": list(ROLES), "layer": range(grids[0].effect.shape[1])}


def _same_facts(some: Sequence[Grid], others: Sequence[Grid]) -> list[tuple[Grid, Grid]]:
    by_number = {grid.number: grid for grid in others}
    return [(grid, by_number[grid.number]) for grid in some if grid.number in by_number]


def _first_that_differs(grid: Grid) -> int:
    """The first token at which an exchange does anything."""
    touched = np.flatnonzero(np.abs(grid.effect).max(axis=1))
    return int(touched[0]) if len(touched) else 0
