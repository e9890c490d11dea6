"""Runs the checks one after the other, and prints the results as a table or as JSON."""

import json
import logging
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from rich.text import Text

from litlab.checks import data, exact, fast, right, safe  # noqa: F401 (each registers its checks)
from litlab.checks.subject import Subject
from litlab.checks.verdict import CHECKS, GROUPS, Check, NotCheckable, Verdict, failed, skipped
from litlab.config import schema
from litlab.errors import UserError
from litlab.messages import first_lines, visible

COLOURS = {"passed": "green", "noted": "yellow", "failed": "red", "skipped": "dim"}


@dataclass(frozen=True)
class Finding:
    """A check with its verdict and its duration."""

    check: Check
    verdict: Verdict
    seconds: float


def chosen(only: Sequence[str] | None) -> list[Check]:
    """Return the checks of these names or groups; all if nothing is chosen.

    Raises:
        UserError: there is no such check or group.
    """
    in_order = sorted(CHECKS.values(), key=lambda one: GROUPS.index(one.group))
    if only and (unknown := [name for name in only if name not in CHECKS and name not in GROUPS]):
        raise UserError(f"only={unknown[0]}: no such check; there is {', '.join([*GROUPS, *CHECKS])}")
    return [one for one in in_order if not only or {one.name, one.group} & set(only)]


def findings(settings: schema.Train, checks: Sequence[Check]) -> Iterator[Finding]:
    """Run checks on a config."""
    with tempfile.TemporaryDirectory(prefix="litlab-check-") as folder, silenced():
        subject = Subject(settings, Path(folder))
        for check in checks:
            began = time.monotonic()
            yield Finding(check, judge(check, subject), time.monotonic() - began)


@contextmanager
def silenced() -> Iterator[None]:
    """Silence logs and warnings, which would be about the reduced trainings."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def judge(check: Check, subject: Subject) -> Verdict:
    """Return a check's verdict; an exception is a failure, with the line that raised it."""
    try:
        return check.run(subject)
    except NotCheckable as error:
        return skipped(str(error))
    except Exception as error:
        if isinstance(error, UserError):
            return failed(str(error).splitlines()[0], "see what train says")
        place = traceback.extract_tb(error.__traceback__)[-1]
        return failed(f"{type(error).__name__}: {first_lines(error)}", f"at {place.filename}:{place.lineno}")


def report(settings: schema.Train, checks: Sequence[Check], form: str) -> bool:
    """Run the checks and print the results; return whether none has failed."""
    progress = Console(stderr=True)
    steps = track(
        findings(settings, checks), "checking", len(checks), console=progress, disable=not progress.is_terminal
    )
    found = list(steps)
    if form == "json":
        print(json.dumps([_plain(one) for one in found], indent=1))  # noqa: T201
    else:
        Console().print(_table(found))
    return all(one.verdict.status != "failed" for one in found)


def _plain(finding: Finding) -> dict[str, str | float]:
    check, verdict = finding.check, finding.verdict
    return {
        "check": check.name, "group": check.group, "question": check.question, "verdict": verdict.status,
        "found": verdict.found, "advice": verdict.advice, "seconds": round(finding.seconds, 2),
    }  # fmt: skip


def _table(found: Sequence[Finding]) -> Table:
    table = Table("", "check", "verdict", Column("found", overflow="fold"), box=None, padding=(0, 2, 0, 0))
    group = ""
    for one in found:
        verdict = one.verdict
        text = f"{verdict.found}\n→ {verdict.advice}" if verdict.advice else verdict.found
        first = one.check.group if one.check.group != group else ""
        colour = COLOURS[verdict.status]
        table.add_row(first, one.check.name, Text(verdict.status, style=colour), Text(visible(text, "\n")))
        group = one.check.group
    return table
