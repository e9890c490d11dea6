"""Pictures of a comparison: what the metric depends on, how much, and how it changed during training."""

import math
import re
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

from litlab.comparison.groups import Entry
from litlab.comparison.tables import Comparison
from litlab.errors import UserError
from litlab.files import replacing
from litlab.messages import as_override, one_line
from litlab.runs.record import LARGEST
from litlab.runs.run import Run

MOST_CURVES = 10
"""Groups that can be told apart by their colours."""

LONGEST_LABEL = 24
"""Characters of a value that are shown."""

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


class Scale:
    """Where values go on an axis: numbers by size, on a logarithmic scale if they span a decade; else in order."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.is_numeric = all(_is_number(value) for value in values)
        self.is_log = self.is_numeric and min(values) > 0 and max(values) >= 10 * min(values)
        self.categories = [] if self.is_numeric else sorted({_text(value) for value in values}, key=_natural)

    def place(self, value: Any) -> float:
        """Where the value is."""
        return float(value) if self.is_numeric else self.categories.index(_text(value))

    def mark(self, axes: Axes) -> None:
        """Make the x axis of `axes` this one."""
        if self.is_log:
            axes.set_xscale("log")
        if self.categories:
            labels = [label(category) for category in self.categories]
            tilted = sum(map(len, labels)) > LONGEST_LABEL
            alignment: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if tilted else {}
            axes.set_xticks(range(len(labels)), labels, **alignment)
            axes.set_xlim(-0.5, len(labels) - 0.5)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _natural(text: str) -> list[str | int]:
    """By which 9 comes before 10: every second part is a number."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def _text(value: Any) -> str:
    """A setting; a dash for null, or where the class that was chosen has no such setting."""
    return "—" if value is None else one_line(as_override(value))


def label(value: Any) -> str:
    """A setting in few characters."""
    text = f"{value:.4g}" if isinstance(value, float) else _text(value)
    short = text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
    return _plain(short)


def _plain(text: str) -> str:
    """A text that Matplotlib draws as it is, where dollars would begin a formula."""
    return one_line(text).replace("$", r"\$")


def _entries(comparison: Comparison) -> list[Entry]:
    """The runs with a value, the worst first, so that the best are drawn on top."""
    groups = reversed(comparison.groups)
    return [entry for group in groups for entry in group.entries if entry.value is not None]


def _parameters(comparison: Comparison) -> Figure | None:
    """The metric against each setting: a point a run, a line a group's mean."""
    entries = _entries(comparison)
    if not entries or not comparison.keys:
        return None
    scales = {key: Scale([entry.settings.get(key) for entry in entries]) for key in comparison.keys}
    columns = min(3, len(scales))
    rows = math.ceil(len(scales) / columns)
    width = min(MOST_INCHES, max(4.0, *(0.4 * len(scale.categories) for scale in scales.values())))
    figure = Figure(figsize=(width * columns, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for (key, scale), axes in zip(scales.items(), panels, strict=False):
        places = [scale.place(entry.settings.get(key)) for entry in entries]
        axes.plot(places, _values(entries), "o", alpha=0.5, markersize=5, markeredgewidth=0)
        means = [group for group in comparison.groups if group.main.mean is not None]
        middles = [scale.place(group.entries[0].settings.get(key)) for group in means]
        axes.plot(middles, [group.main.mean for group in means], "_", color="black", markersize=14)
        scale.mark(axes)
        axes.set_xlabel(_plain(key))
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(alpha=0.3)
    for axes in panels:  # those that are left over
        axes.set_visible(False)
    figure.supylabel(_plain(comparison.metric))
    return figure


def _parallel(comparison: Comparison) -> Figure | None:
    """A line a run, through its settings to its value, in the colour of the value."""
    entries = _entries(comparison)
    if len(entries) < 2 or not comparison.keys:
        return None
    columns: dict[str, Sequence[Any]] = {key: [entry.settings.get(key) for entry in entries] for key in comparison.keys}
    columns[comparison.metric] = _values(entries)
    most = max(len(Scale(column).categories) for column in columns.values())
    height = min(MOST_INCHES, max(4.5, 0.3 * most + 1))
    figure = Figure(figsize=(2.2 * len(columns) + 1, height), layout="constrained")
    axes = figure.subplots()
    heights = np.array([_upright(axes, at, column) for at, column in enumerate(columns.values())])
    values = np.array(_values(entries))
    colours = ScalarMappable(Normalize(values.min(), values.max()), matplotlib.colormaps["viridis"])
    for line, colour in zip(heights.T, colours.to_rgba(values), strict=True):
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
            name = label(float(place) if scale.is_numeric else scale.categories[int(place)])
            box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
            axes.text(at - 0.03, height(place), name, ha="right", va="center", fontsize=8, bbox=box, zorder=3)
            below = height(place)
    return [height(place) for place in places]


def _curves(comparison: Comparison) -> Figure | None:
    """The metric by epoch: of each group the mean over its runs, and from the least to the greatest."""
    curves: dict[str, dict[int, list[float]]] = {}
    for group in comparison.groups:
        points: dict[int, list[float]] = {}
        for entry in group.entries:
            if entry.value is not None:
                for epoch, value in _by_epoch(entry.run, comparison.metric).items():
                    points.setdefault(epoch, []).append(value)
        if len(points) > 1 and len(curves) < MOST_CURVES:
            named = ", ".join(f"{_plain(key)}={label(value)}" for key, value in group.settings.items())
            curves[textwrap.fill(named, 90) or "all runs"] = dict(sorted(points.items()))
    if not curves:
        return None
    lines = sum(name.count("\n") + 1 for name in curves)
    figure = Figure(figsize=(8, 4.5 + 0.2 * lines), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
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


def _by_epoch(run: Run, metric: str) -> dict[int, float]:
    """What the last validation of each epoch measured."""
    measured = ((one.epoch, one.metrics.get(metric)) for one in run.record.metrics.validations)
    return {epoch: value for epoch, value in measured if value is not None and abs(value) <= LARGEST}


def _importance(comparison: Comparison) -> Figure | None:
    """How much of the good values each setting explains, by PED-ANOVA.

    Watanabe, Bansal, Hutter (2023), PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces, IJCAI.
    """
    entries = _entries(comparison)
    if len(comparison.keys) < 2 or len(entries) < 5:
        return None
    importances = _importances(comparison, entries)
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


def _importances(comparison: Comparison, entries: Sequence[Entry]) -> dict[str, float]:
    """The share of each setting, the largest first; none where they cannot be told."""
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    distributions: dict[str, Any] = {}
    parameters: list[dict[str, Any]] = [{} for _ in entries]
    for key in comparison.keys:
        values: list[Any] = [entry.settings.get(key) for entry in entries]
        scale = Scale(values)
        if scale.is_numeric:
            distributions[key] = FloatDistribution(min(values), max(values), log=scale.is_log)
        else:
            distributions[key] = CategoricalDistribution(scale.categories)
        for own, value in zip(parameters, values, strict=True):
            own[key] = float(value) if scale.is_numeric else _text(value)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is experimental
            study = optuna.create_study(direction="minimize" if comparison.mode == "min" else "maximize")
            for own, value in zip(parameters, _values(entries), strict=True):
                study.add_trial(optuna.create_trial(params=own, distributions=distributions, value=value))
            return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    finally:
        optuna.logging.set_verbosity(before)


def _values(entries: Iterable[Entry]) -> list[float]:
    return [entry.value for entry in entries if entry.value is not None]
