"""Pictures of a comparison: what the metric depends on, how much, and how it changed during training."""

import math
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from litlab.comparison.points import LONGEST_LABEL, Scale, as_study, curves, entries, label, label_of, values
from litlab.comparison.tables import Comparison
from litlab.errors import UserError
from litlab.files import replacing
from litlab.messages import one_line

MOST_INCHES = 50.0
"""How far a panel grows with the number of its categories; beyond, their names cover each other."""


def draw(comparison: Comparison, folder: Path) -> list[Path]:
    """Draw what there is to show into PNG files in `folder`, and return them.

    Raises:
        UserError: the folder cannot be written.
    """
    pictures = {
        "parameters": _parameters(comparison),
        "parallel": _parallel(comparison),
        "curves": _curves(comparison),
        "importance": _importance(comparison),
    }
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in pictures.items():
            if figure is not None:
                files.append(folder / f"{name}.png")
                with replacing(files[-1]) as aside:
                    figure.savefig(aside, format="png")
    except OSError as error:
        raise UserError(f"pictures={folder} cannot be written: {error.strerror}") from error
    return files


def _mark(axes: Axes, scale: Scale) -> None:
    """Make the x axis of `axes` this scale."""
    if scale.is_log:
        axes.set_xscale("log")
    if scale.categories:
        labels = [_plain(label(category)) for category in scale.categories]
        tilted = sum(map(len, labels)) > LONGEST_LABEL
        alignment: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if tilted else {}
        axes.set_xticks(range(len(labels)), labels, **alignment)
        axes.set_xlim(-0.5, len(labels) - 0.5)


def _plain(text: str) -> str:
    """A text that Matplotlib draws as it is, where dollars would begin a formula."""
    return one_line(text).replace("$", r"\$")


def _parameters(comparison: Comparison) -> Figure | None:
    """The metric against each setting: a point a run, a line a group's mean."""
    runs = entries(comparison)
    if not runs or not comparison.keys:
        return None
    scales = {key: Scale([entry.settings.get(key) for entry in runs]) for key in comparison.keys}
    columns = min(3, len(scales))
    rows = math.ceil(len(scales) / columns)
    width = min(MOST_INCHES, max(4.0, *(0.4 * len(scale.categories) for scale in scales.values())))
    figure = Figure(figsize=(width * columns, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for (key, scale), axes in zip(scales.items(), panels, strict=False):
        places = [scale.place(entry.settings.get(key)) for entry in runs]
        axes.plot(places, values(runs), "o", alpha=0.5, markersize=5, markeredgewidth=0)
        means = [group for group in comparison.groups if group.main.mean is not None]
        middles = [scale.place(group.entries[0].settings.get(key)) for group in means]
        axes.plot(middles, [group.main.mean for group in means], "_", color="black", markersize=14)
        _mark(axes, scale)
        axes.set_xlabel(_plain(key))
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(alpha=0.3)
    for axes in panels:  # those that are left over
        axes.set_visible(False)
    figure.supylabel(_plain(comparison.metric))
    return figure


def _parallel(comparison: Comparison) -> Figure | None:
    """A line a run, through its settings to its value, in the colour of the value."""
    runs = entries(comparison)
    if len(runs) < 2 or not comparison.keys:
        return None
    columns: dict[str, Sequence[Any]] = {key: [entry.settings.get(key) for entry in runs] for key in comparison.keys}
    columns[comparison.metric] = values(runs)
    most = max(len(Scale(column).categories) for column in columns.values())
    height = min(MOST_INCHES, max(4.5, 0.3 * most + 1))
    figure = Figure(figsize=(2.2 * len(columns) + 1, height), layout="constrained")
    axes = figure.subplots()
    heights = np.array([_upright(axes, at, column) for at, column in enumerate(columns.values())])
    reached = np.array(values(runs))
    colours = ScalarMappable(Normalize(reached.min(), reached.max()), matplotlib.colormaps["viridis"])
    for line, colour in zip(heights.T, colours.to_rgba(reached), strict=True):
        axes.plot(range(len(columns)), line, color=colour, alpha=0.7)
    figure.colorbar(colours, ax=axes, label=_plain(comparison.metric), format="%.4g")
    # A long key is broken after its dots.
    axes.set_xticks(range(len(columns)), [_plain(key).replace(".", ".\n") for key in columns])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.set_xlim(-0.6, len(columns) - 0.9)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return figure


def _upright(axes: Axes, at: float, values: Sequence[Any]) -> list[float]:
    """Draw one of the parallel axes; how high each of the values is on it, from 0 to 1."""
    scale = Scale(values)
    places = [scale.place(value) for value in values]
    low, high = min(places), max(places)

    def height(place: float) -> float:
        if low == high:
            return 0.5
        return math.log(place / low) / math.log(high / low) if scale.is_log else (place - low) / (high - low)

    ticks: Iterable[float] = sorted(set(places))
    if len(set(places)) > 8 and scale.is_numeric:
        ticks = np.geomspace(low, high, 5) if scale.is_log else np.linspace(low, high, 5)
    axes.axvline(at, color="grey", linewidth=1, zorder=0)
    below = -math.inf
    for place in ticks:
        if height(place) - below > 0.04 or not scale.is_numeric:  # numbers must not cover each other
            name = _plain(label(float(place) if scale.is_numeric else scale.categories[int(place)]))
            box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
            axes.text(at - 0.03, height(place), name, ha="right", va="center", fontsize=8, bbox=box, zorder=3)
            below = height(place)
    return [height(place) for place in places]


def _curves(comparison: Comparison) -> Figure | None:
    """The metric by epoch: of each group the mean over its runs, and from the least to the greatest."""
    found = {textwrap.fill(_plain(label_of(group)), 90): points for group, points in curves(comparison)}
    if not found:
        return None
    lines = sum(name.count("\n") + 1 for name in found)
    figure = Figure(figsize=(8, 4.5 + 0.2 * lines), layout="constrained")
    axes = figure.subplots()
    for name, curve in found.items():
        (line,) = axes.plot(list(curve), [float(np.mean(values)) for values in curve.values()], label=name)
        lowest, highest = [[edge(values) for values in curve.values()] for edge in (min, max)]
        axes.fill_between(list(curve), lowest, highest, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel(_plain(comparison.metric))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8)
    return figure


def _importance(comparison: Comparison) -> Figure | None:
    """How much of the good values each setting explains, by PED-ANOVA.

    Watanabe, Bansal, Hutter (2023), PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces, IJCAI.
    """
    runs = entries(comparison)
    if len(comparison.keys) < 2 or len(runs) < 5:
        return None
    importances = _importances(comparison)
    if not importances:
        return None
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(importances)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(map(_plain, importances)), list(importances.values()))
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(f"importance for {_plain(comparison.metric)} (PED-ANOVA)")
    return figure


def _importances(comparison: Comparison) -> dict[str, float]:
    """The share of each setting, the largest first; none where they cannot be told."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    study = as_study(comparison)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
