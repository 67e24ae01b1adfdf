"""A self-contained HTML page of heatmaps: Plotly figures as data, value tables, the page around them.

Texts reach a page in one of two forms: HTML, through `escaped`, or labels inside Plotly data, through
`plotly_text`; the data are JSON whose angle brackets are escaped, so that no text can end the script.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.colors import to_hex

from .cells import TICK_EVERY
from .labels import escaped, plotly_text, shortened
from .styles import DIVERGING, MISSING, symmetric

CHOICE_LIMIT = 90
STOPS = 11
ROW_PIXELS = 30
LEAST_PIXELS = 330
"""Height below which the colour bar's title is cut off."""
FONTS = "DejaVu Sans, Verdana, sans-serif"
# plotly.js names content delivery hosts for its maps; a heatmap has none.
DELIVERY = re.compile(r"https?://[\w.-]*cdn[\w.-]*", re.ASCII)

Measure = tuple[str, Float[np.ndarray, "row layer"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One heatmap of a page, its texts visible but not yet escaped.

    `names` say which row it is on hover and in the table, `ticks` along the axis, where `starred` rows are
    bold. `values`, shape (row, layer), are what colour stands for, NaN where not measured; `more` is told on
    hover only, `spread` (an error or a deviation) in the table too.
    """

    choice: str
    caption: tuple[str, ...]
    names: tuple[str, ...]
    ticks: tuple[str, ...]
    starred: tuple[bool, ...]
    layers: tuple[str, ...]
    axis: str
    values: Measure
    more: tuple[Measure, ...] = ()
    spread: Measure | None = None


def page(title: str, views: Sequence[View]) -> str:
    """An HTML page that shows one view at a time, the first to begin with, with plotly.js inside once."""
    from plotly.offline import get_plotlyjs

    data = json.dumps([_for_script(view) for view in views], allow_nan=False, separators=(",", ":"))
    return PAGE.substitute(
        title=escaped(title),
        choice=_choice(views) if len(views) > 1 else "",
        sections="\n".join(map(_section, views)),
        plotly=DELIVERY.sub("about:blank", get_plotlyjs()),
        views=data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"),
        script=SCRIPT,
    )


def figure(view: View) -> dict[str, Any]:
    """`data` and `layout` of the Plotly heatmap of a view; the page's script adds the hover texts.

    Axes are numeric, so that rows of equal text stay apart and labels are never read as numbers.
    """
    title, values = view.values
    rows, layers = values.shape
    low, high = symmetric([values])
    height = max(LEAST_PIXELS, ROW_PIXELS * rows)
    trace = {
        "type": "heatmap",
        "x": list(range(layers)),
        "y": list(range(rows)),
        "z": _numbers(values),
        "zmin": low,
        "zmax": high,
        "colorscale": _stops(),
        "colorbar": {
            "title": {"text": plotly_text(title), "side": "right", "font": {"size": 13}},
            "thickness": 14,
            "lenmode": "pixels",
            "len": min(height, 420),
            "y": 1,
            "yanchor": "top",
        },
        "hovertemplate": "%{text}<extra></extra>",
    }
    axis = {"type": "linear", "showgrid": False, "zeroline": False, "ticks": "outside", "automargin": True}
    marked = range(0, layers, TICK_EVERY)
    across = {
        "title": {"text": plotly_text(view.axis)},
        "tickvals": list(marked),
        "ticktext": [plotly_text(view.layers[i]) for i in marked],
        "range": [-0.5, layers - 0.5],
    }
    down = {"tickvals": list(range(rows)), "ticktext": _tick_texts(view), "range": [rows - 0.5, -0.5]}
    layout = {
        "height": height + 110,
        "margin": {"l": 20, "r": 20, "t": 40, "b": 60},
        "font": {"family": FONTS, "size": 13},
        "plot_bgcolor": MISSING,
        "hoverlabel": {"align": "left"},
        "xaxis": axis | across,
        "yaxis": axis | down,
    }
    return {"data": [trace], "layout": layout}


def _tick_texts(view: View) -> list[str]:
    texts = map(plotly_text, view.ticks)
    return [f"<b>{text}</b>" if star else text for text, star in zip(texts, view.starred, strict=True)]


def _for_script(view: View) -> dict[str, Any]:
    """What the script needs of a view: the figure, and in Plotly text what hover says."""
    measures = [*view.more, *([view.spread] if view.spread else [])]
    return figure(view) | {
        "title": plotly_text(view.values[0]),
        "names": [plotly_text(name) for name in view.names],
        "layers": [plotly_text(layer) for layer in view.layers],
        "more": [[plotly_text(name), _numbers(values)] for name, values in measures],
    }


def _stops() -> list[list[float | str]]:
    """The matplotlib figures' own colours; plotly.js has another map under the same name."""
    colours = matplotlib.colormaps[DIVERGING]
    return [[i / (STOPS - 1), to_hex(colours(i / (STOPS - 1)))] for i in range(STOPS)]


def _numbers(values: Float[np.ndarray, "row layer"]) -> list[list[float | None]]:
    """Rows of numbers to 6 digits for JSON, null where not measured."""
    return [[None if np.isnan(v) else float(f"{v:.6g}") for v in row] for row in values]


def _choice(views: Iterable[View]) -> str:
    options = "".join(
        f'<option value="{i}">{escaped(shortened(view.choice, CHOICE_LIMIT))}</option>'
        for i, view in enumerate(views)
    )
    return f'<p><label for="choice">Show</label> <select id="choice">{options}</select></p>'


def _section(view: View) -> str:
    """A view's caption and table as plain HTML, readable without any script."""
    title, values = view.values
    spread = view.spread[1] if view.spread else np.full(values.shape, np.nan)
    legend = f"{title} ± {view.spread[0]}" if view.spread else title
    head = "".join(f'<th scope="col">{escaped(layer)}</th>' for layer in view.layers)
    body = "".join(
        f'<tr><th scope="row"{" class=subject" if star else ""}>{escaped(name)}</th>'
        + "".join(f"<td>{_written(*cell)}</td>" for cell in zip(row, spreads, strict=True))
        + "</tr>\n"
        for name, star, row, spreads in zip(view.names, view.starred, values, spread, strict=True)
    )
    return (
        f"<section><h2>{escaped(view.choice)}</h2>\n"
        f"<p>{'<br>'.join(map(escaped, view.caption))}</p>\n"
        f"<details><summary>Table of values</summary><div class=wide><table>\n"
        f"<caption>{escaped(legend)}; {escaped(view.axis)}</caption>\n"
        f"<thead><tr><td></td>{head}</tr></thead>\n<tbody>{body}</tbody></table></div></details></section>"
    )


def _written(value: float, spread: float) -> str:
    if np.isnan(value):
        return "not measured"
    return f"{value:.4g}" if np.isnan(spread) else f"{value:.4g} ± {spread:.2g}"


SCRIPT = """"use strict";
const views = JSON.parse(document.getElementById("views").textContent);
const sections = Array.from(document.querySelectorAll("section"));
const plot = document.getElementById("plot");
const choice = document.getElementById("choice");

function written(value) {
  return value === null ? "not measured" : Number(value).toPrecision(4);
}

function hover(view) {
  return view.data[0].z.map((row, i) => row.map((value, j) => [
    view.names[i],
    "layer " + view.layers[j],
    view.title + ": " + written(value),
    ...view.more.map(([name, values]) => name + ": " + written(values[i][j])),
  ].join("<br>")));
}

function show(number) {
  const view = views[number];
  const trace = Object.assign({}, view.data[0], {text: hover(view)});
  Plotly.react(plot, [trace], view.layout, {responsive: true, displaylogo: false});
  sections.forEach((section, i) => { section.hidden = i !== number; });
  if (choice) choice.value = String(number);
}

function asked() {
  const number = parseInt(location.hash.slice(1), 10) - 1;
  return number >= 0 && number < views.length ? number : 0;
}

if (choice) {
  choice.addEventListener("change", () => {
    show(Number(choice.value));
    location.hash = String(Number(choice.value) + 1);
  });
  window.addEventListener("hashchange", () => show(asked()));
}
show(asked());
"""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';\
 style-src 'unsafe-inline'; img-src data: blob:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font-family: "DejaVu Sans", Verdana, sans-serif; color: #222; background: white;
       max-width: 75rem; margin: 1.5rem auto; padding: 0 1rem; line-height: 1.45; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; overflow-wrap: anywhere; }
select { max-width: 100%; font: inherit; }
section { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.8rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0.4rem 0; }
th, td { padding: 0.15rem 0.45rem; text-align: right; white-space: nowrap; font-weight: normal; }
thead th { border-bottom: 1px solid #888; }
tbody th { position: sticky; left: 0; background: white; }
th.subject { font-weight: bold; }
</style>
</head>
<body>
<h1>$title</h1>
$choice
<noscript><p>The heatmap needs scripts; every value is in the tables below.</p></noscript>
<div id="plot"></div>
$sections
<script>$plotly</script>
<script type="application/json" id="views">$views</script>
<script>$script</script>
</body>
</html>
""")
