"""Many figures as one PDF of many pages."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from patchpoint.errors import InvalidArgument, ResultsError, UnknownName
from patchpoint.results.disk import replacing

from .cells import plain_settings
from .save import DPI, FORMATS


def save_book(figures: Iterable[Figure], path: str | PathLike[str]) -> Path:
    """Write figures as the pages of one PDF, in order, each of its own size; whole or not at all.

    Give a generator: a figure is let go before the next is drawn. Only rasters, which heatmaps of more than
    2,000 cells become, stay in memory until the end. The parent folder is made when missing. Equal figures
    give equal bytes. Returns the path.

    Raises UnknownName for another suffix than .pdf, InvalidArgument for no figure, ResultsError when the file
    cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".pdf":
        raise UnknownName("book format", target.suffix, (".pdf",))
    pages = iter(figures)
    figure = next(pages, None)
    if figure is None:
        raise InvalidArgument(f"the book {str(target)!r} got no figure; give at least one")
    _make_folder(target)
    with replacing(target) as temporary, temporary.open("wb") as file:
        book = PdfPages(file, metadata=FORMATS[".pdf"])
        while figure is not None:
            with plain_settings():
                book.savefig(figure, dpi=DPI)  # type: ignore[no-untyped-call]
            # Unbound first, so that two figures are never in memory at once.
            figure = None
            figure = next(pages, None)
        with plain_settings():
            book.close()  # type: ignore[no-untyped-call]
    return target


def _make_folder(target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        reason = "a path cannot hold a zero byte" if "\0" in target.name else None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if reason is not None:
        raise ResultsError(f"cannot write the book {str(target)!r}: {reason}; give another path")
