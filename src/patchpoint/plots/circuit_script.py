"""The page around an interactive circuit, and the script that draws it from data."""

from string import Template

SLIDER = """<p><label for="least">Hide edges below</label>
<input type="range" id="least" min="0" max="1" step="0.01" value="0"> <output id="told"></output>
<button type="button" id="whole">Whole circuit</button> Click a node for its inputs and outputs.</p>"""

SCRIPT = """"use strict";
const {nodes, ports, others, edges, layout} = JSON.parse(document.getElementById("data").textContent);
const plot = document.getElementById("plot");
const least = document.getElementById("least");
const told = document.getElementById("told");
let focus = null;

function shown() {
  const limit = least ? Number(least.value) : 0;
  return edges.filter(edge => edge.size >= limit && (focus === null || edge.ends.includes(focus)));
}

function dots(rows, marker) {
  return {type: "scatter", mode: "markers", x: rows.map(row => row.x), y: rows.map(row => row.y),
          hovertext: rows.map(row => row.hover), hoverinfo: "text", marker};
}

function draw() {
  const kept = shown();
  const near = new Set(kept.flatMap(edge => edge.ends));
  const faint = node => focus !== null && node.name !== focus && !near.has(node.name);
  const middles = kept.map(edge => ({x: edge.middle[0], y: edge.middle[1], hover: edge.hover}));
  const traces = [
    dots(others, {size: 4, color: "#c9c9c9"}),
    dots(middles, {size: 9, opacity: 0, color: kept.map(edge => edge.color)}),
    Object.assign(dots(nodes, {
      size: nodes.map(node => node.size), symbol: nodes.map(node => node.symbol), color: nodes.map(node => node.fill),
      opacity: nodes.map(node => faint(node) ? 0.2 : 1),
      line: {color: nodes.map(node => node.line), width: nodes.map(node => node.width)},
    }), {mode: "markers+text", text: nodes.map(node => node.text), textfont: {size: 9}}),
    Object.assign(dots(ports, {
      size: 12, color: "white", opacity: ports.map(port => faint(port) ? 0.2 : 1), line: {color: "#666666", width: 1},
    }), {mode: "markers+text", text: ports.map(port => port.text), textfont: {size: 8}}),
  ];
  const stems = ports.map(port => ({
    type: "path", path: port.path, layer: "below", line: {color: "#666666", width: 0.7},
  }));
  const shapes = stems.concat(kept.map(edge => ({
    type: "path", path: edge.path, layer: "below", opacity: 0.8,
    line: {color: edge.color, width: edge.width, dash: edge.dash},
  })));
  Plotly.react(plot, traces, Object.assign({}, layout, {shapes}), {displaylogo: false});
  if (told) {
    told.textContent = Number(least.value).toFixed(2) + " of the largest: " + kept.length + " of " + edges.length +
      " edges" + (focus === null ? "" : " of " + focus);
  }
}

function keep() {
  const said = new URLSearchParams();
  if (least && Number(least.value) > 0) said.set("least", least.value);
  if (focus !== null) said.set("node", focus);
  history.replaceState(null, "", "#" + said.toString());
  draw();
}

function asked() {
  const said = new URLSearchParams(location.hash.slice(1));
  if (least) least.value = said.get("least") || "0";
  focus = nodes.some(node => node.name === said.get("node")) ? said.get("node") : null;
  draw();
}

asked();
window.addEventListener("hashchange", asked);
if (least) {
  least.addEventListener("input", keep);
  document.getElementById("whole").addEventListener("click", () => { least.value = "0"; focus = null; keep(); });
  plot.on("plotly_click", event => {
    const point = event.points[0];
    if (point.curveNumber !== 2) return;
    const name = nodes[point.pointNumber].name;
    focus = focus === name ? null : name;
    keep();
  });
}
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
       margin: 1.5rem auto; padding: 0 1rem; max-width: 90rem; line-height: 1.45; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; }
.caption { font-size: 0.85rem; overflow-wrap: anywhere; }
.wide, #plot { overflow-x: auto; }
.key { margin-right: 1.2rem; white-space: nowrap; }
.key span { display: inline-block; width: 1.4em; height: 0.8em; margin-right: 0.4em; }
table { border-collapse: collapse; font-size: 0.8rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0.4rem 0; }
th, td { padding: 0.15rem 0.6rem; text-align: right; white-space: nowrap; font-weight: normal; }
thead th { border-bottom: 1px solid #888; }
</style>
</head>
<body>
<h1>$title</h1>
$legend
$slider
<noscript><p>The graph needs scripts; every number is in the tables below.</p></noscript>
<div id="plot"></div>
<p class="caption">$caption</p>
$tables
<script>$plotly</script>
<script type="application/json" id="data">$data</script>
<script>$script</script>
</body>
</html>
""")
