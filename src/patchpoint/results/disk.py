"""Files that are whole or absent, and one writer per folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from patchpoint.errors import ResultsError

LOCK = ".lock"


def leftover(name: str) -> bool:
    """Whether a file name is one that `replacing` gives to unfinished files."""
    return name.startswith(".") and name.endswith(".tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name in the same folder to write to; it becomes `path`, synced to disk, when the block ends well.

    A reader sees the old file or the new one, never a part. Raises ResultsError when the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ResultsError(
            f"cannot write {str(path)!r}: {_why(error)}; make room or choose another --out, "
            "finished facts are kept and the same command continues"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def lock(folder: Path) -> FileLock:
    """Make `folder` and take it for writing; the system frees it when the process ends, killed or not.

    Raises ResultsError when another process (or another writer of this one) has it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / LOCK, timeout=0, thread_local=False)
        held.acquire()
    except Timeout as error:
        raise ResultsError(
            f"another run is writing {str(folder)!r}; wait for it to end or use another --out"
        ) from error
    except (OSError, ValueError, NotImplementedError) as error:
        raise ResultsError(
            f"cannot write to the folder {str(folder)!r}: {_why(error)}; choose another --out"
        ) from error
    return held


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """A rename outlives a power cut only when its folder is synced; not every system opens folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
