"""Verdicts kept in the cache folder beside the models: one examination per model, format, device and versions."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from patchpoint.engine import Model
from patchpoint.errors import InvalidArgument
from patchpoint.models.catalog import cache_folder

from .about import about
from .examine import examine
from .verdict import About, Verdict

log = logging.getLogger(__name__)


def verdict_of(
    model: Model, *, fingerprint: str | None = None, notify: Callable[[str], None] = log.info
) -> Verdict:
    """The verdict on a model: the kept one where it holds for exactly this, else of an examination now.

    `fingerprint`: the model's, where it has been read already (about 1 GB/s). `notify` receives one line when
    an examination was made. A damaged file, or one of another format, is made again.
    """
    wanted = about(model, fingerprint)
    kept = read(wanted)
    return new_verdict(model, fingerprint=wanted.model_fingerprint, notify=notify) if kept is None else kept


def new_verdict(
    model: Model, *, fingerprint: str | None = None, notify: Callable[[str], None] = log.info
) -> Verdict:
    """As `verdict_of`, but examined now whatever is kept."""
    verdict = examine(model, fingerprint=fingerprint)
    notify(verdict.summary())
    if verdict.conclusive:
        keep(verdict, notify)
    return verdict


def place(about: About) -> Path:
    """The file of what a verdict is about."""
    named = json.dumps(asdict(about), sort_keys=True).encode()
    short = f"{about.model_fingerprint[:16]}-{about.dtype}-{about.device}"
    return cache_folder() / "verdicts" / f"{short}-{hashlib.sha256(named).hexdigest()[:12]}.json"


def read(about: About) -> Verdict | None:
    """The kept verdict, or None where there is none that can be used."""
    try:
        verdict = Verdict.from_dict(json.loads(place(about).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, InvalidArgument):
        return None
    return verdict if verdict.about == about else None


def keep(verdict: Verdict, notify: Callable[[str], None]) -> None:
    """Write a verdict, whole or not at all; a cache that cannot be written only costs the next examination."""
    path = place(verdict.about)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(suffix=".tmp", prefix=".", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(verdict.to_dict(), file, indent=1)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        notify(f"the doctor's verdict cannot be kept in {str(path.parent)!r}: {error.strerror or error}")
