"""Checks of edits: one that changes nothing, one that must show, and the sweep against plain edited runs."""

from collections.abc import Sequence

from patchpoint.engine import Batch, Edit, Site, Variant
from patchpoint.engine.sites import KV_HEADS, PORTS

from .exam import Exam, Finding, gap
from .plain import on_cpu
from .sites import distances, scattered_sites, small_sites, whole_sites

NAMED = 3
"""Most sites named in a remark."""


def self_patch(exam: Exam) -> Finding:
    """Every component replaced by itself, in a sweep and in runs, against the run without edits."""
    errors = [float(exam.self_patched.max())]
    for sites in _apart(list(small_sites(exam.model))):
        run = exam.model.run(exam.short.batch, edits=[Edit(site, "replace", exam.short) for site in sites])
        errors.append(gap(on_cpu(run.logits), on_cpu(exam.short.logits)))
    return exam.of_logits(max(errors), f"{len(exam.self_patched)} sites swept, as many in runs")


def effect(exam: Exam) -> Finding:
    """How many components leave the logits as they are when they are set to zero in a whole layer.

    A dropped edit gives bit by bit what no edit gives, or what the component replaced by itself gives.
    """
    sites = list(whole_sites(exam.model))
    zeroed = distances(exam.short, [Edit(site, "replace", 0.0) for site in sites])
    dropped = (zeroed == 0) | (zeroed == exam.self_patched)
    silent = [str(site) for site, idle in zip(sites, dropped.tolist(), strict=True) if idle]
    more = f" and {len(silent) - NAMED} more" if len(silent) > NAMED else ""
    remark = f"no effect: {', '.join(silent[:NAMED])}{more}" if silent else f"{len(sites)} sites"
    return Finding(float(len(silent)), 0.0, "sites", remark)


def swept(exam: Exam) -> Finding:
    """Another run's values added to each component at one token, in one swept variant, against one edited run."""
    model, base = exam.model, exam.short
    donor = model.run(Batch(tuple((*ids[1:], ids[0]) for ids in base.batch.tokens)))
    errors = []
    for sites in _apart(list(scattered_sites(model))):
        edits = [Edit(site, "add", donor) for site in sites]
        run = model.run(base.batch, edits=edits)
        errors.append(float(distances(base, [Variant(tuple(edits))], run.logits).max()))
    return exam.of_logits(max(errors))


def _apart(sites: Sequence[Site]) -> list[list[Site]]:
    """Heads' own inputs and the rest where they would meet: there keys are per query head or per group, not both."""
    ports = [site for site in sites if site.component in PORTS]
    rest = [site for site in sites if site.component not in PORTS]
    meet = {site.layer for site in ports} & {site.layer for site in rest if site.component in KV_HEADS}
    return [ports, rest] if meet else [list(sites)]
