"""The frame around every page of the report."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --ink: #222; --paper: white; --faint: #666; --line: #bbb; --code: #f3f3f3; --link: #0b57a4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #16181b; --faint: #a0a0a0; --line: #555; --code: #24272b; --link: #8ab8f0; }
}
* { box-sizing: border-box; }
body { font-family: "DejaVu Sans", Verdana, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 75rem; margin: 1.5rem auto; padding: 0 1rem; line-height: 1.5; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p, dd { max-width: 45rem; }
.question { font-size: 1.1rem; }
a { color: var(--link); }
pre { background: var(--code); padding: 0.6rem 0.8rem; white-space: pre-wrap; border-radius: 4px; }
.wide { overflow-x: auto; overflow-wrap: break-word; margin: 0.3rem 0 1rem; }
tbody th { min-width: 7rem; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
.caption { font-size: 0.85rem; margin: 1.5rem 0 0; }
th, td { padding: 0.2rem 0.7rem 0.2rem 0; text-align: left; font-weight: normal; vertical-align: top; }
.number { text-align: right; white-space: nowrap; }
thead th { border-bottom: 1px solid var(--line); font-weight: bold; }
tbody th.number { min-width: 0; }
.settings th { color: var(--faint); }
.missing { color: var(--faint); font-style: italic; }
figure { margin: 1rem 0; }
figure svg { max-width: 100%; height: auto; background: white; border-radius: 4px; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption { font-size: 0.85rem; }
dt { margin-top: 1rem; font-weight: bold; } dd { margin: 0; }
@media print {
  :root { --ink: black; --paper: white; --faint: #444; --line: #888; --code: white; --link: black; }
  body { max-width: none; margin: 0; font-size: 10pt; }
  figure, tr, pre { break-inside: avoid; } h2 { break-after: avoid; }
  .wide { overflow-x: visible; }
  figure svg { max-height: 24cm; }
}
</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
"""
