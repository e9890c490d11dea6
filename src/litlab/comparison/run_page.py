"""A run as one page: what it was, how it went, where it is wrong."""

import base64
import html
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import plotly.graph_objects as go
from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, EventAccumulator

from litlab.comparison.document import document
from litlab.files import read_text
from litlab.runs.run import Run

MOST_POINTS = 1000
"""Of a curve; TensorBoard's reader thins out longer ones evenly."""


def run_page(run: Run) -> str:
    """Return the page: results, curves, the last pictures of the views, config, command and versions.

    Curves and pictures are those of TensorBoard; where the run has none, the curves are those of its validations.
    """
    written = EventAccumulator(str(run.folder), size_guidance={SCALARS: MOST_POINTS, IMAGES: 1}).Reload()
    record = run.record
    curves = {
        tag: [(event.step, event.value) for event in written.Scalars(tag)]
        for tag in written.Tags()["scalars"]
        if tag != "epoch" and not tag.startswith("best/")
    }
    for one in record.metrics.validations if not curves else ():
        for tag, value in one.metrics.items():
            curves.setdefault(tag, []).append((one.step, value))
    pictures = {tag: written.Images(tag)[-1].encoded_image_string for tag in written.Tags()["images"]}
    what = {
        **{key: record.settings.get(key) for key in ("name", "tags", "notes")},
        "status": record.status + (f": {record.reason}" if record.reason else ""),
        **record.origin(),
        "training": f"{record.training_seconds:.1f} s" if record.training_seconds else None,
    }
    metrics = record.metrics
    results = {"best epoch": metrics.best_epoch} | metrics.best | metrics.test
    config = ""
    with suppress(OSError, ValueError):  # A run that failed early has none, and somebody else's may be anything.
        config = read_text(run.folder / "config.yaml")
    body = _table("what it was", {key: value for key, value in what.items() if value})
    body += _table("what came of it", {key: value for key, value in results.items() if value is not None})
    shown = "\n".join(f"<h2>{html.escape(tag)}</h2>{_image(picture)}" for tag, picture in pictures.items())
    config = f"<details><summary>config.yaml</summary><pre>{html.escape(config)}</pre></details>"
    return document(run.folder.name, body, _figures(curves), shown + config)


def _image(png: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _table(title: str, rows: Mapping[str, Any]) -> str:
    cells = (
        f'<tr><td class="text">{html.escape(key)}</td><td class="text">{html.escape(_shown(value))}</td></tr>'
        for key, value in rows.items()
    )
    return f"<h2>{title}</h2><table>{''.join(cells)}</table>"


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else " ".join(value) if isinstance(value, list) else str(value)


def _figures(curves: Mapping[str, Iterable[tuple[int, float]]]) -> dict[str, go.Figure]:
    """A figure for each metric: training and validation in one."""
    figures: dict[str, go.Figure] = {}
    for tag, points in curves.items():
        stage, _, metric = tag.rpartition("/")
        is_staged = stage in ("train", "val", "test")
        name = metric if is_staged else tag.partition("/")[0]
        if name not in figures:
            layout = {"title": name, "xaxis_title": "step", "template": "plotly_white", "height": 350}
            figures[name] = go.Figure(layout=layout)
        steps, values = zip(*points, strict=True)
        mode = "lines" if len(steps) > 1 else "markers"
        figures[name].add_scatter(x=steps, y=values, name=stage if is_staged else tag, mode=mode)
    return {f"figure-{index}": figure for index, figure in enumerate(figures.values())}
