"""What was run: enough to repeat it, and to refuse to mix it with something else."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from patchpoint.doctor import Verdict
from patchpoint.errors import InvalidArgument, ResultsError

from .disk import replacing
from .schema import SCHEMA_VERSION

RUN_FILE = "run.json"
LIBRARIES = ("patchpoint", "torch", "transformers", "tokenizers", "numpy")
IDENTITY = (
    "command",
    "arguments",
    "seed",
    "dtype",
    "model_fingerprint",
    "tokenizer_fingerprint",
    "facts_sha256",
)


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Counts(_Plain):
    """Facts on disk, and how many of them have each status."""

    facts: int = 0
    traced: int = 0
    skipped: int = 0
    malformed: int = 0


class Surroundings(_Plain):
    """Where and with what a run was started, or continued."""

    started: AwareDatetime
    device: str
    versions: dict[str, str]
    git_commit: str | None
    """Commit of the patchpoint checkout; None when it is an installed package."""
    git_dirty: bool | None
    """Whether tracked files of that checkout differed from the commit."""
    doctor: Verdict | None = None
    """What the doctor found on the model, on that device, with these versions; None: it was not asked."""


def _as_json(arguments: object) -> object:
    """Arguments as a reader of run.json sees them, so that a run compares equal to its own record."""
    return json.loads(json.dumps(arguments, default=os.fspath, allow_nan=False))


class RunRecord(Surroundings):
    """One run: what was asked (`command`, `arguments`, `seed`), of what, with what, and how far it came.

    `outputs` holds the SHA-256 of each finished file; `resumed` one entry for each continuation.
    A run that was killed keeps the status "running".
    """

    schema_version: int = SCHEMA_VERSION
    command: str
    arguments: Annotated[dict[str, Any], BeforeValidator(_as_json)]
    seed: int
    model: str
    model_fingerprint: str
    tokenizer_fingerprint: str
    facts_sha256: str | None
    dtype: str
    finished: AwareDatetime | None = None
    status: Literal["running", "finished", "interrupted"] = "running"
    counts: Counts = Counts()
    outputs: dict[str, str] = Field(default_factory=dict)
    resumed: tuple[Surroundings, ...] = ()

    def with_(self, **changes: object) -> "RunRecord":
        """This record with some fields changed."""
        return self.model_copy(update=changes)

    def continued(self, again: "RunRecord") -> "RunRecord":
        """This record, taken up again by a run that began as `again`."""
        fields = {name: getattr(again, name) for name in Surroundings.model_fields}
        return self.with_(status="running", finished=None, resumed=(*self.resumed, Surroundings(**fields)))


def new_record(
    command: str,
    arguments: Mapping[str, object],
    *,
    seed: int,
    model: str,
    model_fingerprint: str,
    tokenizer_fingerprint: str,
    facts_sha256: str | None,
    device: str,
    dtype: str,
) -> RunRecord:
    """The record of a run that begins now, with the versions and the commit it runs on.

    `arguments` are the plain values and paths that change the numbers; the results folder is none.
    Raises InvalidArgument when they cannot be written as JSON (NaN and infinity included).
    """
    git = git_state(Path(__file__))
    try:
        return RunRecord(
            started=datetime.now(UTC),
            device=device,
            versions=versions(),
            git_commit=git.commit,
            git_dirty=git.dirty,
            command=command,
            arguments=dict(arguments),
            seed=seed,
            model=model,
            model_fingerprint=model_fingerprint,
            tokenizer_fingerprint=tokenizer_fingerprint,
            facts_sha256=facts_sha256,
            dtype=dtype,
        )
    except (ValidationError, TypeError) as error:
        raise InvalidArgument(f"the run cannot be recorded: {_first(error)}; use plain values") from error


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that make the numbers."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "unknown"
    return found


@dataclass(frozen=True)
class GitState:
    """A commit and whether tracked files differ from it; both None outside a checkout."""

    commit: str | None
    dirty: bool | None


@cache
def git_state(file: Path) -> GitState:
    """The state of the checkout that tracks `file`; a package installed inside a repository has none."""
    if _git(file, "ls-files", "--error-unmatch", file.name) is None:
        return GitState(None, None)
    commit = _git(file, "rev-parse", "HEAD")
    changes = _git(file, "status", "--porcelain", "--untracked-files=no")
    return GitState(commit, None if changes is None else bool(changes))


def _git(file: Path, *words: str) -> str | None:
    # Inside a git hook GIT_DIR and its like point at another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(file.parent), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, env=environment, check=False
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def write_record(folder: Path, record: RunRecord) -> None:
    """Write run.json, whole or not at all. Raises ResultsError when the disk refuses."""
    with replacing(folder / RUN_FILE) as temporary:
        temporary.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> RunRecord:
    """Read run.json. Raises ResultsError when it is absent, damaged or of another schema version."""
    path = folder / RUN_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("schema_version") != SCHEMA_VERSION:
            raise ResultsError(
                f"{str(path)!r} has schema version {data.get('schema_version')!r}, this patchpoint reads "
                f"{SCHEMA_VERSION}; use the version that wrote it ({_writer(data)}) or another --out"
            )
        return RunRecord.model_validate(data)
    except FileNotFoundError as error:
        raise ResultsError(
            f"no run in {str(folder)!r}: it has no {RUN_FILE}; give a results folder"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ResultsError(
            f"cannot read {str(path)!r}: {_first(error)}; restore the file or use another --out"
        ) from error


def require_same(saved: RunRecord, now: RunRecord, folder: Path) -> None:
    """Raise ResultsError that names every difference when `now` would not give the numbers of `saved`."""
    differences: list[str] = []
    for name in IDENTITY:
        there, here = getattr(saved, name), getattr(now, name)
        if name == "arguments":
            for key in sorted(there.keys() | here.keys()):
                differences += _difference(key, there.get(key, _ABSENT), here.get(key, _ABSENT))
        else:
            differences += _difference(name, there, here)
    if differences:
        raise ResultsError(
            f"{str(folder)!r} holds another run: {'; '.join(differences)}; use another --out, "
            "or the same settings to continue it"
        )


_ABSENT = object()


def _difference(name: str, there: object, here: object) -> list[str]:
    was, is_now = _shown(there), _shown(here)
    return [] if was == is_now else [f"{name} {_brief(was)} there, {_brief(is_now)} now"]


def _shown(value: object) -> str:
    # As JSON, where 1, 1.0 and true are three values.
    return "absent" if value is _ABSENT else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _brief(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:60]}...{text[-17:]}"


def _writer(data: Mapping[str, Any]) -> str:
    wrote = data.get("versions")
    return f"patchpoint {wrote.get('patchpoint', 'unknown') if isinstance(wrote, dict) else 'unknown'}"


def _first(error: Exception) -> str:
    """The first complaint of an error, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return " ".join(str(error).split()) or type(error).__name__
