"""Experiments in which facts are traced under one or two conditions."""

from dataclasses import replace

from patchpoint.engine import Model
from patchpoint.tasks.facts import FactFile
from patchpoint.tracing.exchange import STATES
from patchpoint.tracing.trace import SEVERED

from .condition import WORK, Condition, Work, measure
from .findings import noise_against_noise, wrong_sign
from .result import Result
from .settings import SETTINGS, SWAP, FactSettings

N_FACTS, N_PANELS = 100, 5


def gaussian(
    model: Model,
    facts: FactFile,
    *,
    limit: int | None = N_FACTS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """Clean states restored, one at a time, into the run with a noised subject. Meng et al. 2022, section 2."""
    return Result("gaussian", measure([_restoring(model, settings, limit)], facts, work))


def reverse(
    model: Model,
    facts: FactFile,
    *,
    limit: int | None = N_FACTS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """Noised states put, one at a time, into the clean run: effects p_h* - p, expected below 0."""
    return Result("reverse", measure([_corrupting(model, settings, limit)], facts, work))


def wrong_direction(
    model: Model,
    facts: FactFile,
    *,
    limit: int | None = N_FACTS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """Share of facts whose effect has the unexpected sign, by role and layer, restoring and corrupting."""
    both = [_restoring(model, settings, limit), _corrupting(model, settings, limit)]
    found = measure(both, facts, work)
    return Result(
        "wrong-direction", found, {f"wrong sign, {name}": wrong_sign(m.grids) for name, m in found.items()}
    )


def random_embedding(
    model: Model,
    facts: FactFile,
    *,
    limit: int | None = N_FACTS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """The subject's embeddings replaced by noise as large as embeddings are, instead of noise added to them."""
    noise = settings.noise if settings.noise.startswith("replace:") else "replace:m"
    one = Condition("random embedding", model, replace(settings, noise=noise, limit=limit))
    return Result("random-embedding", measure([one], facts, work))


def shuffle(
    model: Model,
    facts: FactFile,
    *,
    limit: int | None = N_FACTS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """The subject's embeddings in another order; subjects of one token are skipped."""
    one = Condition("shuffled", model, replace(settings, noise="shuffle", limit=limit))
    return Result("shuffle", measure([one], facts, work))


def token_swap(
    model: Model,
    facts: FactFile,
    *,
    limit: int | None = N_FACTS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """Symmetric token replacement: another fact's subject of as many tokens in place of the fact's own.

    Zhang & Nanda 2024, section 2. No noise: each sample is another subject.
    """
    one = Condition("another subject", model, replace(settings, noise=SWAP, limit=limit))
    return Result("token-swap", measure([one], facts, work))


def rome(
    model: Model,
    facts: FactFile,
    *,
    limit: int | None = N_PANELS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """Residual stream, and windows of MLP and attention outputs: the figure set of Meng et al. 2022, figure 1."""
    each = [Condition(state, model, replace(settings, state=state, limit=limit)) for state in STATES]
    return Result("rome", measure(each, facts, work))


def severed(
    model: Model,
    facts: FactFile,
    *,
    limit: int | None = N_FACTS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """A state restored while later MLP, or attention, outputs of its token stay corrupted.

    Meng et al. 2022, section 2.2 and figure 3.
    """
    intact = _restoring(model, replace(settings, state="resid"), limit)
    cut = [Condition(f"{part} severed", model, replace(intact.settings, sever=part)) for part in SEVERED]
    return Result("severed", measure([intact, *cut], facts, work))


def fresh_noise(
    model: Model,
    facts: FactFile,
    *,
    limit: int | None = N_FACTS,
    settings: FactSettings = SETTINGS,
    work: Work = WORK,
) -> Result:
    """New noise for every site and a single run, as in early runs of the method, against common noise."""
    common = _restoring(model, settings, limit)
    fresh = Condition("fresh noise", model, replace(common.settings, fresh_noise=True, samples=1))
    found = measure([common, fresh], facts, work)
    return Result(
        "fresh-noise", found, noise_against_noise(found[common.name].grids, found[fresh.name].grids)
    )


def _restoring(model: Model, settings: FactSettings, limit: int | None) -> Condition:
    return Condition("restored", model, replace(settings, direction="restore", limit=limit))


def _corrupting(model: Model, settings: FactSettings, limit: int | None) -> Condition:
    return Condition("corrupted", model, replace(settings, direction="corrupt", limit=limit))
