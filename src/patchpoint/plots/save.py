"""Figures as files: PNG for screens, SVG and PDF for papers."""

from io import BytesIO
from os import PathLike
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from patchpoint.errors import ResultsError, UnknownName

from .cells import plain_settings

DPI = 200
# matplotlib writes the time of day and, in SVG, random ids unless told otherwise.
FORMATS: dict[str, dict[str, str | None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


def save(figure: Figure, path: str | PathLike[str]) -> Path:
    """Write a figure in the format its suffix names (.png at 200 dpi, .svg with text as text, .pdf).

    The parent folder is made when missing. Equal figures give equal bytes. Returns the path.
    Raises UnknownName for another suffix, ResultsError when the file cannot be written.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise UnknownName("picture format", suffix, FORMATS)
    content = _rendered(figure, suffix)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ResultsError(f"cannot write picture {str(target)!r}: {reason}; give another path") from None
    return target


def svg_text(figure: Figure) -> str:
    """The SVG document that `save` would write."""
    return _rendered(figure, ".svg").decode("utf-8")


def _rendered(figure: Figure, suffix: str) -> bytes:
    content = BytesIO()
    with plain_settings(), rc_context({"svg.fonttype": "none", "svg.hashsalt": "patchpoint"}):
        figure.savefig(content, format=suffix[1:], dpi=DPI, metadata=FORMATS[suffix])
    return content.getvalue()
