"""Text files that are written whole or not at all."""

from pathlib import Path

from patchpoint.errors import ResultsError


def write_whole(path: Path, text: str) -> None:
    """Write a text, its folder made when missing; a reader sees the old file or the new one. ResultsError."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ResultsError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
