"""Pictures and exports of circuits as files."""

from collections.abc import Callable, Sequence
from pathlib import Path

from patchpoint.circuits.circuit import Circuit
from patchpoint.errors import ResultsError, UnknownName

from .circuit_exports import EXPORTS
from .circuit_graph import circuit_figure
from .circuit_page import circuit_html
from .run import formats_named
from .save import FORMATS as FIGURES
from .save import save

WRITERS: dict[str, Callable[..., str]] = {"html": circuit_html, **EXPORTS}
FORMATS = (*(suffix.removeprefix(".") for suffix in FIGURES), *WRITERS)


def formats_of(text: str) -> tuple[str, ...]:
    """Formats from a list with commas, such as `png,html`; none of `none`. Raises UnknownName."""
    formats = () if text == "none" else formats_named(text)
    for name in formats:
        check_circuit_format(name)
    return formats


def check_circuit_format(name: str) -> None:
    """UnknownName for a format that circuits are not drawn in."""
    if name not in FORMATS:
        raise UnknownName("picture format", name, FORMATS)


def draw_circuits(
    circuits: Sequence[Circuit], path: Path, *, ports: bool = False, n_layers: int, n_heads: int
) -> Path:
    """Write one circuit, or several of one model over each other, in the format that the suffix names.

    .png, .svg, .pdf: `circuit_figure`; .html: `circuit_html`; .dot, .graphml, .json: for other programs. The parent
    folder is made when missing. Raises UnknownName for another suffix, ResultsError when the file cannot be
    written, and as `circuit_figure`. Returns the path.
    """
    name = path.suffix.lower().removeprefix(".")
    check_circuit_format(name)
    size = {"ports": ports, "n_layers": n_layers, "n_heads": n_heads}
    if name not in WRITERS:
        return save(circuit_figure(circuits, ports=ports, n_layers=n_layers, n_heads=n_heads), path)
    text = WRITERS[name](circuits, **size)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ResultsError(f"cannot write picture {str(path)!r}: {reason}; give another path") from None
    return path
