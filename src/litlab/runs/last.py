"""What `last`, or a name, stands for: the newest such run or sweep, wherever its folder is."""

import hashlib
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from litlab.config.types import NAME
from litlab.console import say
from litlab.errors import UserError
from litlab.runs.run import Run

ELSEWHERE = "elsewhere"
"""Folder in `logs/train` with links to the runs and sweeps whose folders are not among the others."""


@dataclass(frozen=True)
class Last:
    """A run or a sweep."""

    folder: Path
    passed_over: str | None = None
    """The newest of all, if that is another one, and why it is not taken."""


def remember(folder: Path, logs: Path) -> None:
    """Let `last` find the run or the sweep in `folder`."""
    trainings = logs / "train"
    if folder.parent in (trainings / "runs", trainings / "multiruns"):
        return
    links = trainings / ELSEWHERE
    with suppress(OSError):  # then it goes by its own name alone
        links.mkdir(parents=True, exist_ok=True)
        for link in links.iterdir():
            if not link.exists():
                link.unlink()
        (links / hashlib.sha256(bytes(folder)).hexdigest()[:16]).symlink_to(folder)


def newest_run(logs: Path, unfinished: bool = False) -> Last:
    """The training that was started last, alone or in a sweep; a record that cannot be read is named and skipped.

    Args:
        logs: where the runs are.
        unfinished: whether it must have been stopped before its end.

    Raises:
        UserError: there is none.
    """
    kind = "unfinished run" if unfinished else "run"
    return newest(((run.folder, _state(run) if unfinished else "") for run in _trainings(logs)), kind, logs)


last_run = cache(newest_run)
"""For a command, which asks several times and must get the same answer."""


@cache
def run_path(asked: str | int, logs: Path, unfinished: bool = False) -> Path:
    """Where the run is that was asked for by its path, its name, of which the newest counts, or as `last`.

    Args:
        asked: the path, the name or `last`.
        logs: where the runs are.
        unfinished: whether `last` must have been stopped before its end.

    Raises:
        UserError: there is no last one.
    """
    if asked == "last":
        return last_run(logs, unfinished).folder
    path = Path(str(asked)).expanduser()
    if path.exists() or not re.fullmatch(NAME, str(asked)):
        return path
    return next((run.folder for run in _trainings(logs) if run.record.settings.get("name") == asked), path)


def announce(option: str, asked: str | int, folder: Path) -> None:
    """Tell which folder `last`, or a name, has led to; a path says it itself."""
    if asked == "last" or not Path(str(asked)).expanduser().exists():
        say(f"{option}={asked}: {folder}", sys.stderr)


def _trainings(logs: Path) -> list[Run]:
    """All trainings, the newest first; a record that cannot be read is named and skipped."""
    runs = []
    for folder in folders_with("run.json", logs, ("runs/*", "multiruns/*/*", f"{ELSEWHERE}/*", f"{ELSEWHERE}/*/*")):
        try:
            runs.append(Run.open(folder))
        except UserError as error:
            say(f"last: {error}; it is skipped", sys.stderr)
    trainings = (run for run in runs if run.record.evaluated is None)
    return sorted(trainings, key=lambda run: run.record.started, reverse=True)


def require_newest(last: Last) -> None:
    """Make sure that changed settings are for the run, or the sweep, that the user means.

    Raises:
        UserError: there is a newer one.
    """
    if last.passed_over:
        raise UserError(
            f"resume=last: {last.passed_over}, and an older one is {last.folder}; to change settings, give the folder"
        )


def folders_with(name: str, logs: Path, patterns: Iterable[str]) -> set[Path]:
    """Where trainings have left a file of this name, in folders of `logs/train` that match one of the patterns."""
    return {file.parent.resolve() for pattern in patterns for file in (logs / "train").glob(f"{pattern}/{name}")}


def newest(found: Iterable[tuple[Path, str]], kind: str, logs: Path) -> Last:
    """The first that nothing speaks against.

    Args:
        found: the folders, the newest first, and what speaks against each, such as "is done".
        kind: what they are.
        logs: where they were looked for.

    Raises:
        UserError: there is none.
    """
    passed_over = None
    for folder, reason in found:
        if not reason:
            return Last(folder, passed_over)
        passed_over = passed_over or f"the newest one, {folder}, {reason}"
    raise UserError(f"there is no {kind} in {logs / 'train'}" + (f"; {passed_over}" if passed_over else ""))


def _state(run: Run) -> str:
    """What speaks against going on with a run."""
    if run.is_alive():
        return "is at work"
    return f"is {run.record.status}" if run.record.status in ("done", "pruned") else ""
