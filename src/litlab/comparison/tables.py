"""Runs side by side: found in folders, grouped by their settings, with a metric's statistics, in several formats."""

import io
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
class Comparison:
    """Groups of runs by a metric, best first, and everything else that was found."""

    metric: str
    mode: Mode
    where: str | None
    keys: list[str]
    """Settings in which the groups differ."""
    groups: list[Group]
    counts: dict[str, int]
    """How many of all runs, whatever `where` leaves out, are in each state; of sweeps, also how many were planned."""
    damaged: dict[Path, str]
    """Runs that cannot be read, and why."""

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
        for name in self._header():
            table.add_column(name, justify="left" if name in self._left() else "right", overflow="fold")
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
        right = ["---" if name in self._left() else "---:" for name in self._header()]
        rows = [self._header(), right, *self._cells()]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)

    def as_csv(self) -> str:
        """One line a group, numbers with all digits."""
        statistics = ("n", "mean", "std", "interval", "best_epoch", "seconds", "not_done")
        rows: list[list[Any]] = [[*self._named(), *self.keys, *statistics]]
        for group in self.groups:
            settings = [as_override(group.settings[key]) if key in group.settings else "" for key in self.keys]
            numbers = [group.n, group.mean, group.std, group.interval, group.best_epoch, group.seconds]
            rows.append([*(" ".join(group.names) for _ in self._named()), *settings, *numbers, group.not_done()])
        return csv_text(rows)

    def as_json(self) -> str:
        """Everything, with the runs' folders, numbers with all digits."""
        numbers = ("n", "mean", "std", "interval", "best_epoch", "seconds", "counts")
        groups = [
            {"names": group.names, "settings": group.settings}
            | {name: getattr(group, name) for name in numbers}
            | {"runs": [str(one.run.folder) for one in group.entries]}
            for group in self.groups
        ]
        comparison = {"metric": self.metric, "mode": self.mode, "groups": groups, "counts": self.counts}
        return json.dumps(comparison | {"damaged": [str(folder) for folder in self.damaged]}, indent=2)

    def _header(self) -> list[str]:
        statistics = ("n", f"mean {self.metric}", "std", "± 95 %", "best epoch", "time", "not done")
        return [one_line(name) for name in (*self._named(), *self.keys, *statistics)]

    def _named(self) -> tuple[str, ...]:
        """A column for the runs' names, if they have any."""
        return ("name",) if any(group.names for group in self.groups) else ()

    def _left(self) -> tuple[str, ...]:
        """The columns of words, which are aligned to the left."""
        return (*self._named(), *self.keys, "not done")

    def _cells(self) -> Iterator[list[str]]:
        for group in self.groups:
            yield [
                *(" ".join(group.names) for _ in self._named()),
                *(_cell(group.settings[key]) if key in group.settings else "" for key in self.keys),
                str(group.n),
                _rounded(group.mean, 5),
                _rounded(group.std, 2),
                _rounded(group.interval, 2),
                "" if group.best_epoch is None else f"{group.best_epoch:.1f}".removesuffix(".0"),
                "" if group.seconds is None else _duration(group.seconds),
                group.not_done(),
            ]


def _cell(value: Any) -> str:
    return one_line(f"{value:.6g}" if isinstance(value, float) else as_override(value))


def _rounded(value: float | None, digits: int) -> str:
    """With so many significant digits, or all that are before the point."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:#.{digits}g}".removesuffix(".")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
