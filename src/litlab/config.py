"""Configs: composing, reading and checking them, and what is wrong with one; needs neither torch nor lightning."""

import re
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra import initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from yaml import AliasToken

from litlab.checking import ConfigT, check_values
from litlab.errors import UserError
from litlab.project import CONFIGS, project_root
from litlab.refusals import first_lines, no_such_option, one_line, unknown_key
from litlab.runs.files import new_folder, read_text
from litlab.schema import SweepCommand, Train

MOST_REFERENCES = 16
"""How often a run's config may refer to another of its values; ours do seven times."""

# Hydra asks several times for the folder of a run, and must get the same answer: hence the cache.
OmegaConf.register_new_resolver("new_folder", new_folder, use_cache=True)
OmegaConf.register_new_resolver("project_root", project_root)


def mode_of(monitor: str | None, known: str, mode: str) -> str | None:
    """Return `mode`, the direction of the metric `known`, if that is monitored; no other direction is guessed."""
    return mode if monitor == known else None


OmegaConf.register_new_resolver("mode_of", mode_of)


def compose(command: str, overrides: Sequence[str]) -> DictConfig:
    """The config that `COMMAND OVERRIDES` leads to, unchecked.

    Raises:
        UserError: an override is none, or for a key that there is not.
    """
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return hydra.compose(command, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error)) from error


def check(config: DictConfig, schema: type[ConfigT]) -> ConfigT:
    """The composed config as a checked object.

    Raises:
        UserError: one line for each key that is unknown, missing, of the wrong type or out of range.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    values = cast("dict[str, Any]", values)
    for group in ("experiment", "debug"):
        if group in values:
            raise UserError(f"{group}: begin its file with '# @package _global_', which makes its keys the root's")
    return check_values(values, schema)


def run_config(composed: DictConfig) -> DictConfig:
    """What of `train`'s composed config is the run's, and goes into its folder."""
    return without(composed, {"hydra"} | SweepCommand.model_fields.keys() - Train.model_fields.keys())


def without(config: DictConfig, keys: Set[str]) -> DictConfig:
    """A copy of the config that lacks these keys."""
    copy = config.copy()
    with open_dict(copy):
        for key in keys & copy.keys():
            del copy[key]
    return copy


def load(file: Path, schema: type[ConfigT]) -> ConfigT:
    """The config that a run's folder holds, checked like one from the command line.

    Raises:
        UserError: the file is missing, is no YAML or does not pass the check.
    """
    try:
        return check(read(file), schema)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def read(file: Path) -> DictConfig:
    """The config that a run's folder holds, unchecked but for what would be done by merely looking at its values.

    Raises:
        UserError: the file is missing, is no YAML or asks for what no run's config does.
    """
    try:
        return parse(read_text(file), str(file))
    except FileNotFoundError as error:
        raise UserError(f"{file.parent} holds no {file.name}") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{file} cannot be read: {first_lines(error)}") from error


def parse(text: str, name: str) -> DictConfig:
    """The config that a text holds, which the user knows by that name; likewise unchecked.

    Raises:
        UserError: it is no YAML or asks for what no run's config does.
    """
    try:
        # A few lines that repeat each other can grow beyond all memory.
        aliases = "*" in text and any(isinstance(token, AliasToken) for token in yaml.scan(text))
        repeats = aliases or text.count("${") > MOST_REFERENCES
        refuse_calls(text, name)
        config = None if repeats else OmegaConf.create(text)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} cannot be read: {first_lines(error)}") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"{name} {'repeats itself' if repeats else 'holds no config'}: no run's config does")
    return config


def refuse_calls(text: str, name: str) -> None:
    """Make sure that merely looking at a config's values does nothing.

    Raises:
        UserError: the text, which the user knows by that name, calls a resolver that no run's config does.
    """
    if calls := {call.strip() for call in re.findall(r"\$\{([^:}]*):", text)} - {"oc.env", "project_root", "mode_of"}:
        raise UserError(f"{name} calls {', '.join(sorted(calls))}: no run's config does")


def explain(error: Exception) -> str:
    """One line that says what is wrong with the command line or the config, and what would be right."""
    return one_line(_explanation(error))


def _explanation(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return no_such_option(str(error.missing_cfg_file), error.options)
    if isinstance(error, OverrideParseException):
        return _no_override(error)
    if "is not in struct" in str(cause) and isinstance(cause, OmegaConfBaseException):
        override = re.search(r"config use \+(.+?)=(.*)$", str(error), re.MULTILINE)  # Hydra repeats it there
        key, value = override.groups() if override else (cause.full_key or "", None)
        if (cause.full_key or "").startswith(f"{key}."):
            key, value = cause.full_key or "", None  # in a value that is a dictionary
        return unknown_key(key, value, _root_of(cause))
    if isinstance(cause, InterpolationKeyError) and (wanted := re.search(r"'(.*)' not found", str(cause))):
        return f"{cause.full_key}: is {wanted[1]} unless given, and there is none; give {cause.full_key}=…"
    if "Missing mandatory value" in str(cause) and isinstance(cause, OmegaConfBaseException):
        return f"{cause.full_key}: needs a value, give {cause.full_key}=…"
    return first_lines(error)


def _no_override(error: OverrideParseException) -> str:
    if "=" not in error.override:
        return f"{error.override}: needs a value, give {error.override}=…"
    reason = next(line for line in str(error).splitlines() if not line.startswith("Error parsing"))
    return f"{error.override}: {reason}; special characters need quotes, such as \"key='a=b'\""


def _root_of(error: OmegaConfBaseException) -> dict[str, Any]:
    if error.parent_node is None:
        return {}
    root = OmegaConf.to_container(error.parent_node._get_root(), resolve=False)
    return {str(key): value for key, value in cast("dict[str, Any]", root).items() if key != "hydra"}
