"""Runs grouped by their settings, and the mean and spread of each group."""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np

from litlab.messages import one_line
from litlab.runs.record import Status
from litlab.runs.run import Run

Mode = Literal["min", "max"]

OVER = ("seed", "data.fold")
"""Settings that are averaged over unless told otherwise."""


def in_words(counts: Mapping[str, int]) -> str:
    """`1 failed, 2 pruned`."""
    return ", ".join(f"{count} {state}" for state, count in counts.items())


WITHOUT_EFFECT = re.compile(r"(name|tags|notes|test)$|(paths|views|choices)\.|checkpoint\.every_")
"""Settings that runs of one group may differ in, whatever is averaged over: what is trained does not change."""


@dataclass(frozen=True)
class Entry:
    """A run as it is compared."""

    run: Run
    all_settings: dict[str, Any]
    """By dotted key."""
    settings: dict[str, Any]
    """Those that tell groups apart."""
    place: str
    """What it has of the settings that are averaged over, as text."""
    values: dict[str, float | None]
    """The metrics, the main one first; None unless the run is done and has it as a number."""

    @property
    def value(self) -> float | None:
        """The main metric."""
        return next(iter(self.values.values()))


def entry(run: Run, metrics: Sequence[str], over: Sequence[str]) -> Entry:
    """The run with its settings and its values of the metrics; `over` are settings that are averaged over."""
    record, settings = run.record, flat(run.record.settings)
    place = _text({key: settings.get(key) for key in over})
    values = {metric: record.measured(metric) if record.status == "done" else None for metric in metrics}
    return Entry(run, settings, _relevant(settings, over), place, values)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted key; where a class is chosen, the key of the component has the class's name."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            values |= flat(value, f"{key}.")
        else:
            if name == "_target_" and prefix:
                values[prefix.removesuffix(".")] = str(value).rpartition(".")[2]
            values[key] = value
    return values


def _relevant(settings: Mapping[str, Any], over: Sequence[str]) -> dict[str, Any]:
    """Flat settings that tell groups apart; of a path only what follows the folders in `paths`."""
    seed = settings.get("seed")
    paths = {key: value for key, value in settings.items() if key.startswith("paths.") and isinstance(value, str)}
    # The longest first: the root is the beginning of the others.
    folders = sorted(((f"{path}{os.sep}", key) for key, path in paths.items()), key=lambda pair: -len(pair[0]))

    def relative(value: Any) -> Any:
        if isinstance(value, str):
            for folder, key in folders:
                if f"{value}{os.sep}".startswith(folder):
                    return f"${{{key}}}/{value[len(folder) :]}"
        return value

    return {
        one_line(key): relative(value)
        for key, value in settings.items()
        if not (WITHOUT_EFFECT.match(key) or key in over)
        and not (key.endswith(".seed") and value == seed)  # which is that of the run
    }


@dataclass(frozen=True)
class Statistic:
    """Mean and spread of some values."""

    n: int
    """How many there are."""
    mean: float | None
    """None if there is none."""
    std: float | None
    """Standard deviation (with n - 1); None below two values."""
    interval: float | None
    """Half the width of the mean's 95 % confidence interval; None below two values."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return what these values have."""
        n, std = len(values), float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(n, _mean(values), std, None if std is None else half_width(std, n))


@dataclass(frozen=True)
class Group:
    """Runs with the same settings, but for those that are averaged over."""

    settings: dict[str, Any]
    """Those that are shown."""
    entries: list[Entry]
    counts: dict[str, int]
    """How many of the runs are in each state."""
    statistics: dict[str, Statistic]
    """Of each metric, the main one first."""
    to_best: Statistic | None
    """Of the differences to the best group, where both have two runs or more with the same seeds; else None."""
    best_epoch: float | None
    """The mean; epochs count from 0."""
    seconds: float | None
    """Mean time of the training."""

    @property
    def main(self) -> Statistic:
        """That of the main metric."""
        return next(iter(self.statistics.values()))

    @property
    def names(self) -> list[str]:
        """The names that the runs have been given."""
        names = (one.run.record.settings.get("name") for one in self.entries)
        return sorted({name for name in names if name})

    def not_done(self) -> str:
        """In words, how many runs are without value, and why."""
        others = {state: count for state, count in self.counts.items() if state != "done"}
        without_value = self.counts.get("done", 0) - self.main.n
        return in_words(others | ({"without value": without_value} if without_value else {}))


def grouped(entries: Iterable[Entry], mode: Mode, columns: Sequence[str] | None) -> tuple[list[str], list[Group]]:
    """The keys in which runs differ, or the columns asked for, and the groups of those that differ in none.

    The best mean comes first.
    """
    by_settings: dict[str, list[Entry]] = {}
    for one in entries:
        by_settings.setdefault(_text(one.settings), []).append(one)
    sign = 1 if mode == "min" else -1

    def rank(members: Sequence[Entry]) -> float:
        mean = _mean(one.value for one in members)
        return math.inf if mean is None else sign * mean

    in_order = sorted(by_settings.values(), key=rank)
    keys = _differing([members[0].settings for members in by_settings.values()]) if columns is None else list(columns)
    return keys, [_group(keys, members, in_order[0]) for members in in_order]


def _paired(entries: Sequence[Entry], best: Sequence[Entry]) -> Statistic | None:
    """The differences of those that have the same seed, or whatever is averaged over, as one of the best group's."""
    if entries is best:
        return None
    values, others = (
        sorted((one.place, one.value) for one in some if one.value is not None) for some in (entries, best)
    )
    places = [place for place, _ in values]
    if places != [place for place, _ in others] or len(set(places)) < max(2, len(places)):
        return None
    return Statistic.of([own - of_best for (_, own), (_, of_best) in zip(values, others, strict=True)])


def _differing(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for settings in groups for key in settings)
    columns = {key: [_text(settings[key]) if key in settings else None for settings in groups] for key in keys}
    differing = {key: column for key, column in columns.items() if len(set(column)) > 1}
    return [key for key in differing if not _implied(key, differing)]


def _implied(key: str, columns: Mapping[str, Sequence[str | None]]) -> bool:
    """Whether a key is there, with a value that is always the same, just because of which class was chosen."""
    if not key.endswith("._target_") and len(set(columns[key]) - {None}) > 1:
        return False
    choices = [columns[other] for other in columns if key.startswith(f"{other}.")]
    return any(len(set(zip(choice, columns[key], strict=True))) == len(set(choice)) for choice in choices)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _group(keys: Sequence[str], entries: list[Entry], best: list[Entry]) -> Group:
    with_value = [one for one in entries if one.value is not None]
    first = entries[0].all_settings | entries[0].settings  # whose paths are shorter
    values = {metric: [one.values[metric] for one in entries] for metric in entries[0].values}
    return Group(
        settings={key: first[key] for key in keys if key in first},
        entries=entries,
        counts=run_states(one.run for one in entries),
        statistics={
            metric: Statistic.of([value for value in some if value is not None]) for metric, some in values.items()
        },
        to_best=_paired(entries, best),
        best_epoch=_mean(one.run.record.metrics.best_epoch for one in with_value),
        seconds=_mean(one.run.record.training_seconds for one in with_value),
    )


def run_states(runs: Iterable[Run]) -> dict[str, int]:
    """Count the runs by their status."""
    states = Counter(run.record.status for run in runs)
    return {state: states[state] for state in get_args(Status) if state in states}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def half_width(std: float, n: int) -> float:
    """Half the width of a mean's 95 % confidence interval, by Student's t.

    Student (1908), The probable error of a mean, Biometrika 6(1).
    """
    from scipy.special import stdtrit  # takes half a second

    return float(stdtrit(n - 1, 0.975) * (std / np.sqrt(n)))
