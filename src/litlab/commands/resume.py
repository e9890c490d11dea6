"""Which run goes on, and with which settings; needs neither torch nor lightning."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from litlab.config import schema
from litlab.config.compose import check, read
from litlab.config.marks import require_mine
from litlab.config.types import seconds_of
from litlab.errors import UserError
from litlab.files import new_folder
from litlab.messages import as_override
from litlab.runs.last import last_run, require_newest, run_path
from litlab.runs.links import refuse_traps
from litlab.runs.run import Run

SCHEDULED = ("trainer.max_epochs", "trainer.max_steps")
"""Limits of a training's length by which a schedule is made."""

ALWAYS_CHANGEABLE = {"trainer.devices", "tags", "notes"}
"""Settings that change the last digits at most."""

LENGTHS = (*SCHEDULED, "trainer.max_time")
"""Limits of a training's length; it ends by the one that is reached first."""


def run_folder(asked: str | int | None, logs: str, command: str, name: str | None) -> str:
    """The folder of the run that goes on, or else a new one for the command, whose name ends with the run's."""
    if asked is not None:
        return str(run_to_resume(asked, Path(logs)).folder)
    return new_folder(f"{logs}/{command}/runs", name)


def run_to_resume(asked: str | int, logs: Path) -> Run:
    """The run in the folder, or of the name, that was asked for; of `last`, the newest that was stopped before its end.

    Raises:
        UserError: there is none.
    """
    folder = run_path(asked, logs, unfinished=True)
    if (folder / "plan.json").exists():
        raise UserError(f"resume={asked}: is a sweep's folder; add -m")
    run = Run.open(folder, "resume")
    if run.record.evaluated is not None:
        raise UserError(f"resume={asked}: is an evaluation, of {run.record.evaluated}; only a training goes on")
    if run.is_alive():
        raise UserError(f"resume={asked}: another process is at work on this run")
    refuse_traps(run.folder, f"resume={asked}")
    return run


def resumed(composed: DictConfig, typed: Mapping[str, str]) -> tuple[Run, DictConfig]:
    """The run that goes on as the command line says, and its config.

    Raises:
        UserError: there is none, or it may not go on with these settings.
    """
    run = run_to_resume(composed.resume.run, Path(composed.paths.logs))
    return run, resumed_config(run, composed, typed)


def resumed_config(run: Run, composed: DictConfig, overrides: Mapping[str, str]) -> DictConfig:
    """The run's own config, with those settings that may change, or any by `resume.force=true`.

    These are the limits of the training's length, if they are raised, and those that are ALWAYS_CHANGEABLE.

    Args:
        run: what goes on.
        composed: the config that the command line leads to.
        overrides: what the command line sets: the text, by the key or group.

    Raises:
        UserError: a setting may not change, the run is not the newest that was meant, or there is nothing left to do.
    """
    file = run.folder / "config.yaml"
    require_mine(file, f"resume={run.folder}")
    config = read(file)
    own = check(config, schema.Train)
    force = bool(OmegaConf.select(composed, "resume.force"))
    changes = _changes(config, composed, overrides)
    if changes and composed.resume.run == "last":
        require_newest(last_run(Path(composed.paths.logs), unfinished=True))
    raised = {key for key in changes.keys() & set(LENGTHS) if _length(changes[key]) > _length(_value(config, key))}
    allowed = raised.difference(SCHEDULED) if own.scheduler else raised
    refused = [key for key in changes if key not in {*allowed, *ALWAYS_CHANGEABLE}]
    if refused and not force:
        raise UserError(*(_refusal(key, changes[key], config) for key in refused))
    if "groups" in (config.optimizer or {}) and any(key.partition(".")[0] == "optimizer" for key in changes):
        hint = f"start a new run from its weights by init.from={run.folder.absolute()}"
        raise UserError(f"optimizer.groups: settings of groups cannot change on the way; {hint}")
    for part in ("optimizer", "scheduler"):
        if part in changes and _target(changes[part]) != _target(_value(config, part)):
            raise UserError(f"{part}: another one cannot go on with the state of the run's")
    if run.record.status == "done" and not changes.keys() - ALWAYS_CHANGEABLE:
        limits = [key for key in LENGTHS if _length(_value(config, key)) < math.inf]
        raise UserError(f"resume={run.folder}: this run is done; a higher {' or '.join(limits)} trains on")
    for key, value in changes.items():
        OmegaConf.update(config, key, value, merge=False)
    return config


def _length(limit: int | str | None) -> float:
    """Return a limit of the training's length as a number; infinite if there is none, NaN if it is not readable."""
    if limit in (-1, None):
        return math.inf
    try:
        return seconds_of(str(limit))
    except ValueError:
        return math.nan


def _changes(config: DictConfig, composed: DictConfig, overrides: Mapping[str, str]) -> dict[str, Any]:
    """The settings, by key, that the command line gives another value than the run has."""
    changes = {}
    for given, text in overrides.items():
        key = given.replace("/", ".")
        if key.partition(".")[0] in ("resume", "sweep", "launcher", "hydra"):
            continue
        if key in ("experiment", "debug"):
            raise UserError(f"{text}: the run goes on with its own config; give single keys")
        new, old = (_value(source, key) for source in (composed, config))
        if new != old:
            changes[key] = new
    return changes


def _value(config: DictConfig, key: str) -> Any:
    value = OmegaConf.select(config, key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _target(node: Any) -> Any:
    return node["_target_"] if node else None


def _refusal(key: str, value: Any, config: DictConfig) -> str:
    if key == "name":
        return f"name={value}: the run has a name of its own; `litlab rename` changes it"
    old = as_override(_value(config, key))
    hint = "or resume.force=true, and the run is no longer that of one config"
    if key in SCHEDULED and config.scheduler:
        return f"{key}={value}: the run's schedule is made for {old}; leave it out, {hint}"
    return f"{key}={as_override(value)}: the run has {old}; leave it out, {hint}"
