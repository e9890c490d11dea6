"""Configs: composing, reading and checking them; needs neither torch nor lightning."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, cast

import hydra
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from litlab.config.command_schema import SweepCommand
from litlab.config.explain import explain
from litlab.config.marks import is_marked, marked, unmarked
from litlab.config.schema import Paths, Train
from litlab.config.trust import made_elsewhere
from litlab.config.validate import ConfigT, check_values
from litlab.errors import UserError
from litlab.files import LARGEST_TEXT, new_folder, read_text, write_text
from litlab.messages import first_lines
from litlab.project import CONFIGS, project_root

CALL = re.compile(r"(?<!\\)\$\{\s*[\w.]+\s*:")
"""The beginning of an interpolation that computes its value, such as `${oc.env:HOME}`."""

PORTABLE = "${project_root:}"
"""The one computed value that a run's folder keeps as such, so that the project can be moved."""

NOT_THE_RUNS = ("hydra", "sweep", "launcher", "paths")
"""Groups whose options make no difference to what a run is."""

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
            return without_hydra(hydra.compose(command, overrides=list(overrides), return_hydra_config=True))
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
    return without(without_hydra(composed), SweepCommand.model_fields.keys() - Train.model_fields.keys())


def without_hydra(composed: DictConfig) -> DictConfig:
    """What Hydra has composed, without its own part; `train`'s config says which options were chosen."""
    config = without(composed, {"hydra"})
    if "hydra" not in composed:
        return config
    replaced: Set[str] = frozenset()
    if any("_target_" in text for text in typed(composed)):  # Parsing takes time, and few command lines need it.
        replaced = replace_components(config, OverridesParser.create().parse_overrides(typed(composed)))
    if "choices" in config:
        options = composed.hydra.runtime.choices
        chosen = {name: options[name] for name in options if name.partition("/")[0] not in {*NOT_THE_RUNS, *replaced}}
        config.choices = {name: option for name, option in chosen.items() if option is not None}
    return config


def typed(composed: DictConfig) -> list[str]:
    """The overrides that Hydra was given, as they were typed."""
    return cast("list[str]", OmegaConf.to_container(composed.hydra.overrides.task, resolve=False))


def replace_components(config: DictConfig, overrides: Sequence[Override]) -> set[str]:
    """Let a component such as `model.net={_target_: …}` take the place of another, with whose keys Hydra merges it.

    Args:
        config: as Hydra has composed it.
        overrides: what it was told.

    Returns:
        The keys of the components that were told.
    """
    told = {one.key_or_group: None if one.is_sweep_override() else one.value() for one in overrides}
    components = {key: value for key, value in told.items() if isinstance(value, dict) and "_target_" in value}
    for key, value in components.items():
        inner = {other.removeprefix(f"{key}.") for other in told if other.startswith(f"{key}.")}
        with open_dict(config):
            _keep(OmegaConf.select(config, key), value, inner)
    return set(components)


def _keep(node: Any, component: Mapping[Any, Any], told: Set[str]) -> None:
    """Delete from a node what neither the component has nor was told besides, in the components inside it, too."""
    if not isinstance(node, DictConfig):  # another override has taken its place
        return
    for name in list(node):
        value = component.get(name)
        if name not in component and name not in {key.partition(".")[0] for key in told}:
            del node[name]
        elif isinstance(value, dict) and "_target_" in value:
            _keep(node[name], value, {key.removeprefix(f"{name}.") for key in told if key.startswith(f"{name}.")})


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
        UserError: the file is missing, is not YAML or does not pass the check.
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


def read_back(settings: ConfigT) -> ConfigT:
    """The settings once they were written to a config.yaml and read again."""
    return check(parse(config_text(OmegaConf.create(settings.model_dump())), "config.yaml"), type(settings))


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
        UserError: the file is missing, is not YAML, or does not pass the check.
    """
    return load(file, Train) if is_marked(file) else made_elsewhere(file, paths)


def read(file: Path) -> DictConfig:
    """The config that a run's folder holds, unchecked.

    Raises:
        UserError: the file is missing, or is not YAML.
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
        UserError: it is not YAML, or holds no config.
    """
    try:
        config = OmegaConf.create(unmarked(text))
    except Exception as error:
        raise UserError(f"{name} cannot be read: {first_lines(error)}") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"{name} holds no config")
    return config
