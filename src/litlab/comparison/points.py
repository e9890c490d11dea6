"""What pictures and pages show of a comparison: its runs on scales, their curves, and all as a study of Optuna's."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from litlab.comparison.groups import Entry, Group
from litlab.comparison.tables import Comparison
from litlab.messages import as_override, one_line
from litlab.runs.record import LARGEST
from litlab.runs.run import Run

if TYPE_CHECKING:
    import optuna

MOST_CURVES = 10
"""Groups that can be told apart by their colours."""

LONGEST_LABEL = 24
"""Characters of a value that are shown."""


class Scale:
    """Where values go on an axis: numbers by size, on a logarithmic scale if they span a decade; else in order."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.is_numeric = all(_is_number(value) for value in values)
        self.is_log = self.is_numeric and min(values) > 0 and max(values) >= 10 * min(values)
        self.categories = [] if self.is_numeric else sorted({text(value) for value in values}, key=_natural)

    def place(self, value: Any) -> float:
        """Where the value is."""
        return float(value) if self.is_numeric else self.categories.index(text(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _natural(text: str) -> list[str | int]:
    """By which 9 comes before 10: every second part is a number."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def text(value: Any) -> str:
    """A setting; a dash for null, or where the class that was chosen has no such setting."""
    return "—" if value is None else one_line(as_override(value))


def label(value: Any) -> str:
    """A setting in few characters."""
    written = f"{value:.4g}" if isinstance(value, float) else text(value)
    return written if len(written) <= LONGEST_LABEL else f"{written[: LONGEST_LABEL - 1]}…"


def label_of(group: Group) -> str:
    """What tells a group from the others."""
    return ", ".join(f"{key}={label(value)}" for key, value in group.settings.items()) or "all runs"


def entries(comparison: Comparison) -> list[Entry]:
    """The runs with a value, the worst first, so that the best are drawn on top."""
    groups = reversed(comparison.groups)
    return [entry for group in groups for entry in group.entries if entry.value is not None]


def values(entries: Iterable[Entry]) -> list[float]:
    """The main metric of those that have it."""
    return [entry.value for entry in entries if entry.value is not None]


def curves(comparison: Comparison) -> list[tuple[Group, dict[int, list[float]]]]:
    """The groups, best first, whose runs have validated in several epochs, with all values of each epoch."""
    found: list[tuple[Group, dict[int, list[float]]]] = []
    for group in comparison.groups:
        points: dict[int, list[float]] = {}
        for entry in group.entries:
            if entry.value is not None:
                for epoch, value in _by_epoch(entry.run, comparison.metric).items():
                    points.setdefault(epoch, []).append(value)
        if len(points) > 1 and len(found) < MOST_CURVES:
            found.append((group, dict(sorted(points.items()))))
    return found


def _by_epoch(run: Run, metric: str) -> dict[int, float]:
    """What the last validation of each epoch measured."""
    measured = ((one.epoch, one.metrics.get(metric)) for one in run.record.metrics.validations)
    return {epoch: value for epoch, value in measured if value is not None and abs(value) <= LARGEST}


def as_study(comparison: Comparison) -> "optuna.Study":
    """Return the runs as trials of a study, their settings as its parameters."""
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    runs = entries(comparison)
    distributions: dict[str, Any] = {}
    parameters: list[dict[str, Any]] = [{} for _ in runs]
    for key in comparison.keys if runs else ():
        settings: list[Any] = [entry.settings.get(key) for entry in runs]
        scale = Scale(settings)
        if scale.is_numeric:
            distributions[key] = FloatDistribution(min(settings), max(settings), log=scale.is_log)
        else:
            distributions[key] = CategoricalDistribution(scale.categories)
        for own, value in zip(parameters, settings, strict=True):
            own[key] = float(value) if scale.is_numeric else text(value)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="minimize" if comparison.mode == "min" else "maximize")
        study.add_trials(
            optuna.create_trial(params=own, distributions=distributions, value=value)
            for own, value in zip(parameters, values(runs), strict=True)
        )
    finally:
        optuna.logging.set_verbosity(before)
    return study
