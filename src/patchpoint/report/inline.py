"""Figures as SVG inside an HTML page: no name of one meets that of another, and few bytes per cell."""

import re
from xml.etree import ElementTree

from matplotlib.figure import Figure

from patchpoint.plots.save import svg_text

NAMESPACE = re.compile(r"\{[^}]*\}")
REFERENCE = re.compile(r"url\(#")
NUMBER = re.compile(r"-?\d+\.\d+")
RECTANGLE = re.compile(
    r"M (?P<left>\S+) (?P<top>\S+) L (?P<right>\S+) (?P=top) L (?P=right) (?P<bottom>\S+) "
    r"L (?P=left) (?P=bottom)(?: L (?P=left) (?P=top))?(?: z)?"
)
TEXTS = frozenset({"text", "tspan"})
UNUSED = frozenset({"metadata", "style"})
"""A style sheet inside an SVG of a page holds for the whole page, so the page has those rules itself."""


def inline_svg(figure: Figure, *, prefix: str, alt: str) -> str:
    """A figure as one ``<svg>`` element for HTML: an image named by `alt`, every id behind `prefix`.

    Coordinates are kept to 1/100 point. Equal figures give equal text.
    """
    root = ElementTree.fromstring(svg_text(figure))
    _plain(root, prefix)
    root.attrib = {"role": "img", "aria-label": alt, "viewBox": root.attrib["viewBox"]} | {
        name: root.attrib[name] for name in ("width", "height")
    }
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _plain(element: ElementTree.Element, prefix: str) -> None:
    """Strip namespaces, white space and unused parts, rename ids and references, and shorten paths, in place."""
    element.tag = NAMESPACE.sub("", element.tag)
    element.attrib = {
        NAMESPACE.sub("", name): _renamed(NAMESPACE.sub("", name), value, prefix)
        for name, value in element.attrib.items()
    }
    if element.tag not in TEXTS:
        element.text = None
    for child in list(element):
        _plain(child, prefix)
        child.tail = child.tail if element.tag in TEXTS else None
        if child.tag in UNUSED:
            element.remove(child)
    if element.attrib.get("id", "").startswith(f"{prefix}QuadMesh"):
        _share(element)


def _renamed(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == "href" and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    if name == "d":
        return _short(" ".join(value.split()))
    return REFERENCE.sub(f"url(#{prefix}", value)


def _short(path: str) -> str:
    rounded = NUMBER.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), path)
    box = RECTANGLE.fullmatch(rounded)
    if box is None:
        return rounded
    return f"M{box['left']} {box['top']}H{box['right']}V{box['bottom']}H{box['left']}z"


def _share(cells: ElementTree.Element) -> None:
    """Move what all cells of a heatmap have in common, such as their outline, to the group they are in."""
    looks = [dict(cell.attrib) | _styles(cell.attrib.pop("style", "")) for cell in cells]
    for look in looks:
        look.pop("style", None)
    common = {
        name: value
        for name, value in (looks[0] if looks else {}).items()
        if name != "d" and all(look.get(name) == value for look in looks)
    }
    cells.attrib |= common
    for cell, look in zip(cells, looks, strict=True):
        cell.attrib = {name: value for name, value in look.items() if name not in common}


def _styles(text: str) -> dict[str, str]:
    rules = (rule.partition(":") for rule in text.split(";") if ":" in rule)
    return {name.strip(): value.strip() for name, _, value in rules}
