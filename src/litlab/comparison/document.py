"""A page of HTML that can be sent to a colleague: all that it takes is inside, and it asks no server."""

import base64
import gzip
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import plotly.graph_objects as go

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:">
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222 }}
.wide {{ overflow-x: auto }}
pre {{ overflow-x: auto; background: #f5f5f5; padding: 1em }}
img {{ max-width: 100% }}
table {{ border-collapse: collapse }}
th, td {{ padding: .25em .8em; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd }}
th {{ cursor: pointer }}
.text {{ text-align: left }}
</style></head><body>
<h1>{title}</h1>
{body}
{places}
{behind}
<script>
const figures = {figures}, library = "{library}";
for (const cell of document.querySelectorAll("th")) cell.onclick = () => {{
  const body = cell.closest("table").tBodies[0], sign = cell.dataset.sign = -(cell.dataset.sign || -1);
  const value = (row) => row.cells[cell.cellIndex].dataset.value ?? row.cells[cell.cellIndex].textContent;
  const order = (a, b) => (a === "") - (b === "") || sign * (isNaN(a - b) ? a.localeCompare(b) : a - b);
  body.append(...[...body.rows].sort((a, b) => order(value(a), value(b))));
}};
(async () => {{
  const packed = new Blob([Uint8Array.from(atob(library), (letter) => letter.charCodeAt(0))]).stream();
  const script = document.createElement("script");
  script.textContent = await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(script);
  for (const [place, figure] of Object.entries(figures))
    await Plotly.newPlot(place, figure.data, figure.layout, {{responsive: true, displaylogo: false}});
  document.body.dataset.drawn = Object.keys(figures).length;
}})();
</script></body></html>
"""


def document(title: str, body: str, figures: Mapping[str, go.Figure], behind: str = "") -> str:
    """Return the page: headers of its tables sort them, and figures, which stand below, tell what is under the mouse.

    Args:
        title: the page's.
        body: HTML.
        figures: by the name of their place; they stand behind the body.
        behind: HTML behind the figures.
    """
    return PAGE.format(
        title=html.escape(title),
        body=body,
        behind=behind,
        places="\n".join(f'<div id="{name}"></div>' for name in figures),
        figures=_in_script({name: json.loads(figure.to_json()) for name, figure in figures.items()}),
        library=_library(),
    )


def _in_script(value: Any) -> str:
    """JSON that no text in it can leave."""
    return json.dumps(value).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _library() -> str:
    """Plotly's JavaScript, packed, since it is most of the page."""
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, mtime=0)).decode()
