"""A comparison as one page that can be sent to a colleague: all that it takes is inside, and it asks no server."""

import html
import warnings
from typing import Any

import numpy as np
import optuna
import plotly.graph_objects as go
from optuna.importance import PedAnovaImportanceEvaluator

from litlab.comparison.document import document
from litlab.comparison.points import MOST_CURVES, as_study, curves, label_of
from litlab.comparison.tables import Comparison

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#bab0ac", "#eeca3b", "#ff9da6")
"""Vega's palette of ten, https://vega.github.io/vega/docs/schemes/#tableau10."""


def page(comparison: Comparison) -> str:
    """Return the page: a table that a click on a header sorts, and figures that tell what is under the mouse."""
    figures = {name: figure for name, figure in _figures(comparison).items() if figure is not None}
    columns = comparison.columns()
    header = "".join(f"<th{_class(column.is_text)}>{html.escape(column.title)}</th>" for column in columns)
    rows = []
    for group in comparison.groups:
        values = [(column, column.value(group)) for column in columns]
        cells = (
            f"<td{_class(column.is_text)}{_sortable(value)}>"
            f"{'' if value is None else html.escape(column.shown(value))}</td>"
            for column, value in values
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = f"""<p>{html.escape(comparison.totals())}</p>
<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>"""
    return document(f"Runs by {comparison.metric}", body, figures)


def _class(is_text: bool) -> str:
    return ' class="text"' if is_text else ""


def _sortable(value: Any) -> str:
    return f' data-value="{value!r}"' if isinstance(value, int | float) else ""


def _figures(comparison: Comparison) -> dict[str, go.Figure | None]:
    figures = {"curves": _curves(comparison)}
    study = as_study(comparison)
    trials = study.get_trials(deepcopy=False)
    if trials and trials[0].params:
        draw = optuna.visualization
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that something is experimental
            points = draw.plot_slice(study, target_name=comparison.metric)
            figures["slice"] = points.update_traces(marker={"color": COLOURS[0], "showscale": False})  # not their order
            if len(trials) > 1:
                figures["parallel"] = draw.plot_parallel_coordinate(study, target_name=comparison.metric)
            if len(trials) > 4 and len(trials[0].params) > 1:
                evaluator = PedAnovaImportanceEvaluator()
                figures["importance"] = draw.plot_param_importances(study, evaluator=evaluator)
    return figures


def _curves(comparison: Comparison) -> go.Figure | None:
    """The metric by epoch: of each group the mean over its runs, and from the least to the greatest."""
    found = curves(comparison)
    longest = max((max(points) for _, points in found), default=0)
    figure = go.Figure(
        layout={
            "title": f"{comparison.metric} by epoch; at most {MOST_CURVES} groups",
            "xaxis": {"title": "epoch", "tickformat": "d", "dtick": max(1, longest // 10)},
            "yaxis_title": comparison.metric, "template": "plotly_white", "height": 500,
            "legend": {"orientation": "h", "y": -0.2},
        }
    )  # fmt: skip
    for colour, (group, points) in zip(COLOURS, found, strict=False):
        epochs, name = list(points), label_of(group)
        lowest, highest = [[edge(values) for values in points.values()] for edge in (min, max)]
        figure.add_scatter(
            x=[*epochs, *reversed(epochs)], y=[*highest, *reversed(lowest)], fill="toself", fillcolor=colour,
            opacity=0.15, line={"width": 0}, hoverinfo="skip", showlegend=False, legendgroup=name,
        )  # fmt: skip
        means = [float(np.mean(values)) for values in points.values()]
        figure.add_scatter(x=epochs, y=means, name=name, legendgroup=name, line={"color": colour}, mode="lines+markers")
    return figure if found else None
