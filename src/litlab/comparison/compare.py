"""Comparing runs: which settings are best, by how much, and over how many seeds."""

import difflib
import sys
from collections.abc import Callable, Iterable, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from litlab.comparison.filters import Condition, parse
from litlab.comparison.groups import OVER, Mode, entry, flat, grouped, in_words
from litlab.comparison.tables import Comparison, find
from litlab.console import print_document, say
from litlab.errors import UserError
from litlab.messages import one_line
from litlab.runs.record import RENAMED, Record, current_name
from litlab.runs.run import Run

Format = Literal["table", "json", "csv", "markdown", "html"]


def compare(
    folders: Sequence[Path],
    metric: str | Sequence[str] | None = None,
    mode: Mode | None = None,
    where: str | None = None,
    over: Sequence[str] = OVER,
    columns: Sequence[str] | None = None,
) -> Comparison:
    """The trainings in `folders`, at any depth, grouped by their settings without those that are averaged over.

    Args:
        folders: runs' folders, sweeps' folders, or what holds such.
        metric: what to compare by, and behind it what else is shown; None for the one that the runs monitor.
        mode: whether less or more of it is better; None for what the runs say.
        where: conditions on settings, results, seed and status, as in litlab.comparison.filters.
        over: settings that runs of one group may differ in.
        columns: settings that are shown; None for those in which the groups differ.

    Raises:
        UserError: there is nothing to compare in one of the folders, no such metric, no such key in `where` or
            `columns`, or the runs do not agree on metric or mode.
    """
    if not folders:
        raise UserError("give the folders to compare, such as logs/train/runs, or runs' own")
    found = find(folders)
    counts = found.counts()
    runs = [run for run in found.runs if run.record.settings]
    if not runs:
        there = "; ".join([in_words(counts) or "no training", *found.damaged.values()])
        raise UserError(f"no run to compare in {', '.join(map(str, folders))}: there is {there}")
    metrics = [current_name(name) for name in ([metric] if isinstance(metric, str) else metric or [_monitored(runs)])]
    for name in metrics:
        _require_measured(name, runs)
    mode = mode or _mode(metrics[0], runs)
    chosen = _chosen(runs, parse(where)) if where else runs
    entries = [entry(run, metrics, over) for run in chosen]
    if columns is not None:
        _require_known("columns", columns, {key for one in entries for key in one.all_settings})
    keys, groups = grouped(entries, mode, columns)
    return Comparison(metrics, mode, where, keys, groups, counts, found.damaged)


def _monitored(runs: Iterable[Run]) -> str:
    names = sorted({run.record.metrics.monitor for run in runs if run.record.metrics.monitor})
    if len(names) != 1:
        monitored = f"the runs monitor {', '.join(names)}" if names else "the runs monitor none"
        raise UserError(f"metric: {monitored}; give metric=NAME")
    return names[0]


def _require_measured(metric: str, runs: Iterable[Run]) -> None:
    known = {name for run in runs for name in (*run.record.results(), run.record.metrics.monitor) if name}
    if metric not in known:
        raise UserError(f"metric={metric}: no such metric{_did_you_mean(metric, known)}; there is {_listed(known)}")


def _mode(metric: str, runs: Iterable[Run]) -> Mode:
    """The direction that was monitored."""
    said = [flat(run.record.settings).get("checkpoint.mode") for run in runs if run.record.metrics.monitor == metric]
    modes: list[Mode] = [mode for mode in get_args(Mode) if mode in said]
    if len(modes) == 1:
        return modes[0]
    raise UserError(f"metric={metric}: the runs do not say whether less or more is better; give mode=min or mode=max")


def _chosen(runs: Sequence[Run], conditions: Sequence[Condition]) -> list[Run]:
    values = [_values(run.record) for run in runs]
    _require_known("where", [condition.key for condition in conditions], {key for names in values for key in names})
    chosen = [run for run, own in zip(runs, values, strict=True) if all(one.holds(own) for one in conditions)]
    if not chosen:
        raise UserError(f"where: none of {len(runs)} runs is like that")
    return chosen


def _require_known(option: str, keys: Iterable[str], known: Set[str]) -> None:
    for key in keys:
        if key not in known:
            what = "neither a setting nor a metric" if option == "where" else "not a setting"
            raise UserError(f"{option}: {key} is {what} of any run{_did_you_mean(key, known)}")


def _values(record: Record) -> dict[str, Any]:
    """What conditions may ask for."""
    results = record.results()
    old = {name: results[new] for name, new in RENAMED.items() if new in results}
    choices: dict[str, Any] = record.settings.get("choices", {})
    return choices | flat(record.settings) | old | results | {"seed": record.seed, "status": record.status}


def _did_you_mean(given: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(given, list(known), n=1)
    return f", did you mean {nearest[0]}?" if nearest else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none yet"


def as_page(comparison: Comparison) -> str:
    """Return the comparison as one page of HTML.

    Raises:
        UserError: a package is missing.
    """
    try:
        from litlab.comparison.page import page
    except ModuleNotFoundError as error:
        raise UserError(f"format=html: takes {error.name}; pip install -e '.[report]' brings it") from error
    return page(comparison)


def report(comparison: Comparison, form: Format, pictures: Path | None) -> None:
    """Print the comparison, draw its pictures, and say which runs cannot be read.

    Raises:
        UserError: the pictures cannot be written.
    """
    documents: dict[Format, Callable[[], str]] = {
        "table": comparison.as_table,
        "json": comparison.as_json,
        "csv": comparison.as_csv,
        "markdown": comparison.as_markdown,
        "html": partial(as_page, comparison),
    }
    print_document(documents[form]())
    for problem in comparison.damaged.values():
        say(f"compare: {one_line(problem)}", sys.stderr)
    if pictures is not None:
        from litlab.comparison.pictures import draw  # Matplotlib takes a second

        names = ", ".join(file.name for file in draw(comparison, pictures))
        line = f"pictures in {pictures}: {names}" if names else "pictures: there is nothing to draw yet"
        say(line, sys.stdout if form == "table" else sys.stderr)
