"""Configs: composing, reading and checking them, and what is wrong with one; needs neither torch nor lightning."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, cast

import hydra
from hydra import initialize_config_dir
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from litlab.config.command_schema import SweepCommand
from litlab.config.components import may_add
from litlab.config.marks import is_marked, marked, unmarked
from litlab.config.schema import Paths, Train
from litlab.config.trust import made_elsewhere
from litlab.config.validate import ConfigT, check_values
from litlab.errors import UserError
from litlab.files import LARGEST_TEXT, new_folder, read_text, write_text
from litlab.messages import first_lines, no_such_option, one_line, unknown_key
from litlab.project import CONFIGS, project_root

CALL = re.compile(r"(?<!\\)\$\{\s*[\w.]+\s*:")
"""The beginning of an interpolation that computes its value, such as `${oc.env:HOME}`."""

PORTABLE = "${project_root:}"
"""The one computed value that a run's folder keeps as such, so that the project can be moved."""

NOT_KNOWN = "not_known_before_the_job"
"""Resolver of a value that a sweep has yet to choose."""


def _not_known() -> None:
    raise LookupError(NOT_KNOWN)


OmegaConf.register_new_resolver(NOT_KNOWN, _not_known)
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


def settled(config: DictConfig, open_keys: Set[str] = frozenset()) -> DictConfig:
    """A copy of the config in which what resolvers compute, such as from the environment, has become plain values.

    References to other keys stay, and so do paths relative to the project.

    Args:
        config: as composed.
        open_keys: keys whose values are not known yet; what is computed from them stays as it is.

    Raises:
        UserError: a value cannot be computed.
    """
    copy = config.copy()
    known = config.copy()
    for key in open_keys:
        OmegaConf.update(known, key, f"${{{NOT_KNOWN}:}}", merge=False, force_add=True)
    for key in _computed(OmegaConf.to_container(copy)):
        try:
            value = _value(known, key)
        except OmegaConfBaseException as error:
            if NOT_KNOWN in str(error):
                continue
            raise UserError(explain(error)) from error
        OmegaConf.update(copy, key, _relative(value, copy), merge=False)
    return copy


def _computed(values: Any, key: str = "") -> Iterator[str]:
    """Keys of the values, not resolved yet, that a resolver computes."""
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _computed(value, f"{key}.{name}".lstrip("."))
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from _computed(value, f"{key}[{index}]")
    elif isinstance(values, str) and CALL.search(values.replace(PORTABLE, "")):
        yield key


def _value(config: DictConfig, key: str) -> Any:
    value = OmegaConf.select(config, key, throw_on_resolution_failure=True, throw_on_missing=True)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _relative(value: Any, config: DictConfig) -> Any:
    """The value; a path inside the project as one relative to `paths.root`."""
    root = OmegaConf.select(config, "paths.root")
    inside = isinstance(value, str) and root and value.startswith(f"{root}{os.sep}")
    return "${paths.root}" + value.removeprefix(str(root)) if inside else value


def config_text(config: DictConfig) -> str:
    """What `config.yaml` of a run with this config holds: settled, and marked as the user's own.

    Raises:
        UserError: reading it would give other values, or fail.
    """
    text = OmegaConf.to_yaml(settled(config))
    if len(text.encode()) > LARGEST_TEXT:
        raise UserError(f"the config has more than {LARGEST_TEXT} bytes; keep large tables in a file of their own")
    before = OmegaConf.to_container(config, resolve=True)
    try:
        lost = next(_differences(before, OmegaConf.to_container(parse(text, "config.yaml"), resolve=True)), None)
    except OmegaConfBaseException as error:
        lost = str(error.full_key)
    if lost is not None:
        raise UserError(f"{lost}: cannot be written to config.yaml and read again as it was; give a plain value")
    return marked(text)


def _differences(before: Any, after: Any, key: str = "") -> Iterator[str]:
    """Keys whose values are not the same in type or value."""
    if isinstance(before, Mapping) and isinstance(after, Mapping) and before.keys() == after.keys():
        for inner, value in before.items():
            yield from _differences(value, after[inner], f"{key}.{inner}".lstrip("."))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, values in enumerate(zip(before, after, strict=True)):
            yield from _differences(*values, f"{key}.{index}")
    elif type(before) is not type(after) or before != after:
        yield key


def write_config(folder: Path, config: DictConfig) -> None:
    """Write `config.yaml` of the run in this folder.

    Raises:
        UserError: as of `config_text`.
    """
    write_text(folder / "config.yaml", config_text(config))


def load_trained(file: Path, paths: Paths) -> Train:
    """The config of a run that is to be evaluated or used; `paths` are the reader's own.

    Raises:
        UserError: the file is missing, is no YAML, or does not pass the check.
    """
    return load(file, Train) if is_marked(file) else made_elsewhere(file, paths)


def read(file: Path) -> DictConfig:
    """The config that a run's folder holds, unchecked.

    Raises:
        UserError: the file is missing, or is no YAML.
    """
    try:
        return parse(read_text(file), str(file))
    except FileNotFoundError as error:
        raise UserError(f"{file.parent} holds no {file.name}") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{file} cannot be read: {first_lines(error)}") from error


def parse(text: str, name: str) -> DictConfig:
    """The config that a text holds, which the user knows by that name; unchecked.

    Raises:
        UserError: it is no YAML, or holds no config.
    """
    try:
        config = OmegaConf.create(unmarked(text))
    except Exception as error:
        raise UserError(f"{name} cannot be read: {first_lines(error)}") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"{name} holds no config")
    return config


def explain(error: Exception) -> str:
    """One line that says what is wrong with the command line or the config, and what would be right."""
    cause = error.__cause__ or error.__context__
    while cause:
        if isinstance(cause, UserError):  # a resolver has raised it
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return one_line(_explanation(error))


def _explanation(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return no_such_option(str(error.missing_cfg_file), error.options)
    if isinstance(error, OverrideParseException):
        return _no_override(error)
    if several := re.match(
        r"(?:Sweep parameters|Ambiguous value for argument) '(.+?)'(?: requires|\s+1\.)", str(error)
    ):
        a_list = ", or brackets if they are a list" if str(error).startswith("Ambiguous") else ""
        return f"{several[1]}: several values need `train -m`, which runs a job for each{a_list}"
    if "is not in struct" in str(cause) and isinstance(cause, OmegaConfBaseException):
        override = re.search(r"config use \+(.+?)=(.*)$", str(error), re.MULTILINE)  # Hydra repeats it there
        key, value = override.groups() if override else (cause.full_key or "", None)
        if (cause.full_key or "").startswith(f"{key}."):
            key, value = cause.full_key or "", None  # in a value that is a dictionary
        root = _root_of(cause)
        if value is not None and may_add(root, key):
            return f"{key}={value}: the config does not have it yet; +{key}={value} adds it"
        return unknown_key(key, value, root)
    if isinstance(cause, InterpolationKeyError) and (wanted := re.search(r"'(.*)' not found", str(cause))):
        return f"{cause.full_key}: is {wanted[1]} unless given, and there is none; give {cause.full_key}=…"
    if "Missing mandatory value" in str(cause) and isinstance(cause, OmegaConfBaseException):
        return f"{cause.full_key}: needs a value, give {cause.full_key}=…"
    return first_lines(error)


def _no_override(error: OverrideParseException) -> str:
    if "=" not in error.override:
        return f"{error.override}: needs a value, give {error.override}=…"
    reason = next(line for line in str(error).splitlines() if not line.startswith("Error parsing"))
    if "while evaluating" in reason:  # a function such as choice(…)
        if "NoneType" in reason:
            return f"{error.override}: Hydra's functions take no null; values with commas between them may be null"
        return f"{error.override}: {reason.rpartition(': ')[2]}"
    return f"{error.override}: {reason}; special characters need quotes, such as \"key='a=b'\""


def _root_of(error: OmegaConfBaseException) -> dict[str, Any]:
    if error.parent_node is None:
        return {}
    root = OmegaConf.to_container(error.parent_node._get_root(), resolve=False)
    return {str(key): value for key, value in cast("dict[str, Any]", root).items() if key != "hydra"}
