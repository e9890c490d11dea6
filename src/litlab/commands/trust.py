"""`litlab trust FOLDER`: show what a run, sweep or experiment from elsewhere would do, and mark it as one's own."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from litlab.commands.command import Command, Request
from litlab.config.command_line import of_folders
from litlab.config.marks import is_mine, marked
from litlab.config.schema import Paths
from litlab.config.trust import settings_as_written
from litlab.config.types import Settings
from litlab.console import say
from litlab.errors import UserError
from litlab.files import LARGEST_PLAN, read_text, write_text
from litlab.messages import one_line

MOST_SHOWN = 60
"""Lines about one file."""


HELP = """\
trust: mark a run, a sweep or an experiment that was made elsewhere as your own.

  litlab trust FOLDER             shows what it would build, run and write, and asks
  litlab trust FOLDER yes=true    marks it without asking
  litlab trust experiment/X.yaml  the same for one experiment

What you have made carries your mark: it may build anything, and can be resumed and reproduced. What carries no mark is
data: it can be compared, evaluated, exported and predicted with, and builds nothing but its data, model and network.
Your own runs need this once on another machine. The key is in ~/.local/state/litlab; LITLAB_HOME moves it.
"""


class Trust(Settings):
    """Everything that `litlab trust` can be told."""

    folders: Annotated[list[str], Field(min_length=1)]
    """Folders of runs or sweeps, or experiments' files."""
    yes: bool
    """Whether to mark them without asking."""
    paths: Paths
    """Where things are."""


def run(request: Request[Trust]) -> None:
    """Mark each of the folders."""
    for folder in request.settings.folders:
        trust(Path(folder).expanduser(), request.settings.yes)


def trust(path: Path, yes: bool) -> None:
    """Show what the configs in `path` would build, run and write; if the user agrees, mark them.

    Args:
        path: the folder of a run or a sweep, or one file.
        yes: whether the user agrees without being asked.

    Raises:
        UserError: there is nothing to mark, it cannot be read, or the user does not agree.
    """
    files = [path] if path.is_file() else _files(path)
    if not files:
        raise UserError(f"{path}: holds no config.yaml, plan.json or experiment; give a run's or a sweep's folder")
    texts = {file: _text(file) for file in files}
    strange = {file: text for file, text in texts.items() if not is_mine(text)}
    if not strange:
        say(f"{path} is marked as yours already")
        return
    for file, text in strange.items():
        say(f"{file}:")
        lines = list(dict.fromkeys(_effects(file, text)))
        for line in lines[:MOST_SHOWN]:
            say(f"  {one_line(line)}")
        if len(lines) > MOST_SHOWN:
            say(f"  … and {len(lines) - MOST_SHOWN} more")
    say(f"Once it is marked, resume, reproduce and sweeps do all this with your rights, and write into {path}.")
    if not (yes or _agreed()):
        raise UserError(f"{path}: not marked; yes=true marks it")
    for file, text in strange.items():
        try:
            write_text(file, marked(text))
        except OSError as error:
            raise UserError(f"{file} cannot be written: {error.strerror}") from error
    say(f"{path} is marked as yours")


def _files(folder: Path) -> list[Path]:
    """What decides what is built: of a run, of a sweep, and of its jobs."""
    patterns = ("config.yaml", "plan.json", "*/config.yaml", "experiment/*.yaml")
    return [file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.is_file()]


def _text(file: Path) -> str:
    try:
        return read_text(file, LARGEST_PLAN)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error


def _effects(file: Path, text: str) -> Iterator[str]:
    """What using this file would do, one line each."""
    if file.suffix != ".json":
        yield from _effects_of(settings_as_written(text, str(file)))
        return
    try:
        plan = json.loads(text)
        bases = [base["config"] for base in plan["bases"]]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    for base in bases:
        yield from _effects_of(settings_as_written(str(base), str(file)))
    yield from _effects_of({key: value for key, value in plan.items() if key not in ("bases", "mark")})


def _effects_of(values: Any, key: str = "") -> Iterator[str]:
    if isinstance(values, dict | list):
        for name, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _effects_of(value, f"{key}.{name}".lstrip("."))
        return
    if not isinstance(values, str):
        return
    if key.endswith("_target_"):
        yield f"builds   {key.removesuffix('._target_')}: {values}"
    elif key.startswith("hydra."):
        yield f"runs     {key}={values}"
    elif calls := re.findall(r"\$\{\s*([\w.]+)\s*:", values):
        if set(calls) != {"project_root"}:
            yield f"computes {key}: {values}"
    elif "://" in values:
        yield f"connects {key}: {values}"
    elif values.startswith(("/", "~")) or ".." in Path(values).parts:
        yield f"uses     {key}: {values}"


def _agreed() -> bool:
    return sys.stdin.isatty() and input("Mark it as yours? [y/N] ").strip().lower() in ("y", "yes")


COMMAND = Command(Trust, HELP, run, rewrite=of_folders)
