"""Runs side by side: found in folders, grouped by their settings, with a metric's statistics, in several formats."""

import io
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from litlab.comparison.groups import Group, Mode, in_words, run_states
from litlab.console import csv_text
from litlab.errors import UserError
from litlab.files import LARGEST_PLAN, read_text
from litlab.messages import as_override, one_line
from litlab.runs.run import Run


@dataclass(frozen=True)
class Found:
    """What there is in folders."""

    runs: list[Run]
    """The trainings, in the order in which they were started."""
    damaged: dict[Path, str]
    """Runs that cannot be read, and why."""
    sweeps: dict[Path, int]
    """How many jobs each sweep is to have."""

    def counts(self) -> dict[str, int]:
        """How many runs are in each state; of sweeps, also how many were planned."""
        folders = (*(run.folder for run in self.runs), *self.damaged)
        there = Counter(folder.parent for folder in folders)
        missing = sum(max(0, jobs - there[sweep]) for sweep, jobs in self.sweeps.items())
        counted = run_states(self.runs) | {"damaged": len(self.damaged), "missing": missing}
        planned = {"planned": sum(counted.values())} if self.sweeps else {}
        return planned | {state: count for state, count in counted.items() if count}


def find(folders: Iterable[Path]) -> Found:
    """The trainings in folders, however deep, and the sweeps that they belong to.

    Raises:
        UserError: a folder does not exist, or holds neither a run nor a sweep.
    """
    places: dict[Path, None] = {}  # as a set that keeps its order: folders may overlap
    sweeps: dict[Path, int] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder")
        of_runs, of_sweeps = _scan(folder.resolve())
        if not of_runs and not of_sweeps:
            raise UserError(f"{folder} holds no runs")
        places |= dict.fromkeys(of_runs)
        sweeps |= of_sweeps
    runs, damaged = [], {}
    for place in places:
        try:
            run = Run.open(place)
        except UserError as error:
            if (place / "run.json").exists():  # and not removed meanwhile
                damaged[place] = str(error)
        else:
            if run.record.evaluated is None:
                runs.append(run)
    return Found(sorted(runs, key=lambda run: run.record.started), damaged, sweeps)


def _scan(folder: Path) -> tuple[list[Path], dict[Path, int]]:
    """The runs' folders in a folder, and the sweeps' with the number of their jobs."""
    runs, sweeps = [], {}
    for place, inner, files in os.walk(folder):
        if "run.json" in (*files, *inner):
            runs.append(Path(place))
            inner.clear()  # what is in there belongs to the run
        elif "plan.json" in files:
            sweeps[Path(place)] = _planned(Path(place, "plan.json"))
    return runs, sweeps


def _planned(file: Path) -> int:
    try:
        jobs = json.loads(read_text(file, LARGEST_PLAN))["planned"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return jobs if isinstance(jobs, int) else 0


@dataclass(frozen=True)
class Column:
    """A column of a comparison.

    Attributes:
        title: what people read above it.
        name: its name in a CSV file.
        value: what a group has; None for nothing.
        shown: the value as people read it.
        is_text: whether it is words, which are aligned to the left.
    """

    title: str
    name: str
    value: Callable[[Group], Any]
    shown: Callable[[Any], str]
    is_text: bool = False


@dataclass(frozen=True)
class Comparison:
    """Groups of runs by a metric, best first, and everything else that was found."""

    metrics: list[str]
    """What the runs are compared by, and what is shown besides."""
    mode: Mode
    where: str | None
    keys: list[str]
    """Settings that are shown."""
    groups: list[Group]
    counts: dict[str, int]
    """How many of all runs, whatever `where` leaves out, are in each state; of sweeps, also how many were planned."""
    damaged: dict[Path, str]
    """Runs that cannot be read, and why."""

    @property
    def metric(self) -> str:
        """What the runs are compared by."""
        return self.metrics[0]

    def totals(self) -> str:
        """One line on how many runs there are, and in which state."""
        states = {state: count for state, count in self.counts.items() if state != "planned"}
        number = sum(states.values())
        runs = "planned" if "planned" in self.counts else "run" if number == 1 else "runs"
        chosen = f"; {sum(len(group.entries) for group in self.groups)} where {self.where}" if self.where else ""
        return one_line(f"{number} {runs}: {in_words(states)}{chosen}")

    def as_table(self) -> str:
        """For people: as wide as the terminal where there is one, and the totals below. Numbers are rounded."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for column in self.columns():
            table.add_column(column.title, justify="left" if column.is_text else "right", overflow="fold")
        for cells in self._cells():
            table.add_row(*cells)
        terminal = sys.stdout.isatty()
        text = io.StringIO()
        console = Console(file=text, force_terminal=terminal, markup=False, emoji=False, highlight=False, width=10_000)
        if terminal:  # where it is too narrow even for the longest words, it breaks the lines itself
            least = Measurement.get(console, console.options, table).minimum
            console.width = max(shutil.get_terminal_size().columns, least)
        console.print(table)
        return f"{text.getvalue()}\n{self.totals()}"

    def as_markdown(self) -> str:
        """A table of the same content."""
        columns = self.columns()
        lines = ["---" if column.is_text else "---:" for column in columns]
        rows = [[column.title for column in columns], lines, *self._cells()]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)

    def as_csv(self) -> str:
        """One line a group, numbers with all digits, all runs' folders."""
        columns = [*self.columns()[:-1], Column("", "runs", _folders, str)]
        rows = [[column.value(group) for column in columns] for group in self.groups]
        return csv_text([[column.name for column in columns], *rows])

    def as_json(self) -> str:
        """Everything, with the runs' folders, numbers with all digits."""
        groups = [
            {"names": group.names, "settings": group.settings}
            | asdict(group.main)
            | {name: getattr(group, name) for name in ("best_epoch", "seconds", "counts")}
            | {"others": {name: asdict(group.statistics[name]) for name in self.metrics[1:]}}
            | {"to_best": asdict(group.to_best) if group.to_best else None}
            | {"runs": [str(one.run.folder) for one in group.entries]}
            for group in self.groups
        ]
        comparison = {"metric": self.metric, "mode": self.mode, "groups": groups, "counts": self.counts}
        return json.dumps(comparison | {"damaged": [str(folder) for folder in self.damaged]}, indent=2)

    def columns(self) -> list[Column]:
        """Return what is shown of each group."""
        has_names = "name" not in self.keys and any(group.names for group in self.groups)
        is_paired = any(group.to_best for group in self.groups)
        common = os.path.commonpath([one.run.folder.parent for group in self.groups for one in group.entries])
        return [
            *([Column("name", "name", lambda group: " ".join(group.names), one_line, True)] if has_names else []),
            *map(_setting, self.keys),
            Column("n", "n", lambda group: group.main.n, str),
            Column(one_line(f"mean {self.metric}"), "mean", lambda group: group.main.mean, _rounded(5)),
            Column("std", "std", lambda group: group.main.std, _rounded(2)),
            Column("± 95 %", "interval", lambda group: group.main.interval, _rounded(2)),
            *(column for metric in self.metrics[1:] for column in _further(metric)),
            *(DIFFERENCE if is_paired else ()),
            Column("best epoch", "best_epoch", lambda group: group.best_epoch, _epoch),
            Column("time", "seconds", lambda group: group.seconds, _duration),
            Column("not done", "not_done", lambda group: group.not_done(), str, True),
            Column("best run", "run", lambda group: os.path.relpath(_best(group, self.mode), common), one_line, True),
        ]

    def _cells(self) -> list[list[str]]:
        columns = self.columns()
        values = [[(column, column.value(group)) for column in columns] for group in self.groups]
        return [["" if value is None else column.shown(value) for column, value in row] for row in values]


def _setting(key: str) -> Column:
    def value(group: Group) -> float | str | None:
        if key not in group.settings:
            return None
        setting = group.settings[key]
        return setting if isinstance(setting, float) else as_override(setting)

    def shown(value: float | str) -> str:
        return one_line(f"{value:.6g}" if isinstance(value, float) else value)

    return Column(one_line(key), key, value, shown, is_text=True)


def _further(metric: str) -> tuple[Column, Column]:
    """Columns of a metric that is shown besides the main one."""
    return (
        Column(one_line(f"mean {metric}"), f"mean {metric}", lambda group: group.statistics[metric].mean, _rounded(5)),
        Column("± 95 %", f"interval {metric}", lambda group: group.statistics[metric].interval, _rounded(2)),
    )


def _best(group: Group, mode: Mode) -> Path:
    """The folder of the best run, or of the newest if none has a value."""
    sign = 1 if mode == "min" else -1
    with_value = [(sign * one.value, str(one.run.folder)) for one in group.entries if one.value is not None]
    return Path(min(with_value)[1]) if with_value else group.entries[-1].run.folder


def _folders(group: Group) -> str:
    return ";".join(str(one.run.folder) for one in group.entries)


def _rounded(digits: int) -> Callable[[float], str]:
    """What shows a number with so many significant digits, or all that are before the point."""

    def shown(value: float) -> str:
        return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:#.{digits}g}".removesuffix(".")

    return shown


def _epoch(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


DIFFERENCE = (
    Column("to best", "difference", lambda group: group.to_best and group.to_best.mean, _rounded(2)),
    Column("± 95 %", "difference_interval", lambda group: group.to_best and group.to_best.interval, _rounded(2)),
)
"""Of groups whose runs have the same seeds as the best one's: how far they are from it, seed by seed."""
