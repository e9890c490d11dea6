"""Mine or somebody else's: files that this user has made carry a mark; a folder without it is data.

The mark is an HMAC of the file's content under a key that only this user can read, as Jupyter marks notebooks. A marked
config may build anything, as in Hydra. Of any other config only a data module, a LightningModule and its networks are
built, each from a class that can do nothing else, and its values are taken as they are written.
"""

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml import AliasToken, YAMLError

from litlab.config.marks import is_marked
from litlab.config.schema import Paths, Train
from litlab.config.signatures import definition
from litlab.config.validate import check_values, components
from litlab.errors import UserError
from litlab.files import LARGEST_TEXT, read_text
from litlab.messages import first_lines, shell_quoted
from litlab.project import own_packages

NEEDED = ("seed", "test", "checkpoint", "data", "model", "optimizer", "trainer")
"""What evaluating and predicting take from a config that was made elsewhere."""

WANTED = {
    "data": "a LightningDataModule",
    "model": "a LightningModule",
    "network": "a network",
    "optimizer": "an optimizer of torch.optim",
}
"""What a component may be, by its place."""

LEFT_OUT: dict[str, Any] = {"augment": None, "scheduler": None, "callbacks": {}, "logger": {}, "views": {}}
"""What they do without; none of it is built."""


def made_elsewhere(file: Path, paths: Paths, data: Mapping[str, Any] | None = None) -> Train:
    """The settings of a config.yaml that somebody else has made, as far as evaluating and predicting need them.

    Args:
        file: the config.
        paths: the reader's own, which take the place of the config's.
        data: settings of the data module that the reader has given, such as its `dir`.

    Raises:
        UserError: the config is damaged, builds anything but its data and its model, or reads from a path of its own.
    """
    written = {**_written(file), "paths": paths.model_dump()}
    try:
        values = {key: _Expansion(written).of(written[key]) for key in NEEDED if key in written}
        if isinstance(values.get("data"), dict):
            values["data"] |= data or {}
        _refuse_roles(values, file.parent)
        _refuse_paths(values, paths.data)
        if isinstance(values.get("trainer"), dict):
            values["trainer"]["profiler"] = None  # which would write a file
        return check_values({**values, **LEFT_OUT, "paths": written["paths"]}, Train)
    except UserError as error:
        raise UserError(*(f"{file}: {line}" for line in str(error).splitlines())) from error


def network_settings(file: Path) -> Any:
    """What a config.yaml has as `model.net`; if somebody else has made it, it names nothing but networks.

    Raises:
        UserError: the config is damaged, or builds something else than a network.
    """
    written = _written(file)
    model = written.get("model")
    net = _Expansion(written).of(model.get("net")) if isinstance(model, dict) else None
    if not is_marked(file):
        _refuse_roles({"model": {"net": net}}, file.parent)
    return net


def _written(file: Path) -> dict[str, Any]:
    """The values of a config.yaml as they are written."""
    try:
        return settings_as_written(read_text(file), str(file))
    except FileNotFoundError as error:
        raise UserError(f"{file.parent} holds no {file.name}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {first_lines(error)}") from error


def settings_as_written(text: str, name: str) -> dict[str, Any]:
    """The values of a config, which the user knows by that name, as they are written: nothing is looked up or computed.

    Raises:
        UserError: it is not YAML, or has aliases, which can grow beyond all memory.
    """
    try:
        if any(isinstance(token, AliasToken) for token in yaml.scan(text)):
            raise UserError(f"{name} has YAML aliases, which no run's config has")
        values = yaml.safe_load(text)
    except (ValueError, YAMLError, RecursionError) as error:
        raise UserError(f"{name} cannot be read: {first_lines(error)}") from error
    if not isinstance(values, dict):
        raise UserError(f"{name} holds no config")
    return values


class _Expansion:
    """Values in which plain references are followed, as `${model.net.image_size}`; nothing else is computed.

    It counts what it makes: a few lines that refer to each other could grow beyond all memory.
    """

    REFERENCE = re.compile(r"\$\{([\w.]+)\}")
    DEEPEST = 50

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.left = LARGEST_TEXT

    def of(self, value: Any, depth: int = 0) -> Any:
        """The value with its references followed.

        Raises:
            UserError: it becomes too large, or is more than plain references.
        """
        self.left -= 1 + (len(value) if isinstance(value, str) else 0)
        if self.left < 0 or depth > self.DEEPEST:
            raise UserError("grows without end where its references are followed")
        if isinstance(value, dict):
            return {str(key): self.of(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.of(inner, depth + 1) for inner in value]
        if not isinstance(value, str) or "$" not in value:
            return value
        if whole := self.REFERENCE.fullmatch(value):
            return self.of(self._at(whole[1]), depth + 1)
        text = self.REFERENCE.sub(lambda reference: str(self.of(self._at(reference[1]), depth + 1)), value)
        if "${" in text:
            raise UserError(f"{value}: only plain references are followed in a config that was made elsewhere")
        return text

    def _at(self, key: str) -> Any:
        value: Any = self.root
        for part in key.split("."):
            if not (isinstance(value, dict) and part in value):
                raise UserError(f"${{{key}}}: there is no such key")
            value = value[part]
        return value


def _refuse_roles(values: Mapping[str, Any], folder: Path) -> None:
    """Make sure that each component is of a class that its place asks for, before any is called.

    Raises:
        UserError: one is not.
    """
    hint = f"`litlab trust {shell_quoted(str(folder))}` marks it as yours, and then anything may be built"
    for place, node in components({key: values[key] for key in WANTED if key in values}):
        target = str(node["_target_"])
        role = place[0] if len(place) == 1 else "network" if place[0] == "model" else None
        if role is None or not _fits(target, role):
            what = WANTED.get(role or "", "nothing")
            raise UserError(
                f"{'.'.join(place)}._target_={target}: in a folder made elsewhere this builds {what}; {hint}"
            )


def _fits(target: str, role: str) -> bool:
    """Whether a target is a class of the project's for this role, or a network of torch's or torchvision's."""
    module, _, name = target.rpartition(".")
    package = module.partition(".")[0]
    if role == "optimizer":  # which neither evaluating nor predicting builds
        return module == "torch.optim"
    if role == "network" and target == "litlab.networks.torchvision_network":
        return True
    if role == "network" and module in ("torch.nn", "torchvision.models"):
        found = getattr(importlib.import_module(module), name, None)
        return _is_network(found) or (module == "torchvision.models" and name in _torchvision_builders())
    if package not in own_packages() or (role == "network" and package == "litlab"):
        return False
    if not isinstance(definition(target), ast.ClassDef):
        return False
    found = getattr(importlib.import_module(module), name, None)
    if role == "network":
        return _is_network(found)
    import lightning.pytorch  # takes seconds, and whoever loads a network alone needs none

    base = lightning.pytorch.LightningDataModule if role == "data" else lightning.pytorch.LightningModule
    return isinstance(found, type) and issubclass(found, base)


def _is_network(found: Any) -> bool:
    from torch import nn  # takes seconds, and most of this module is used without

    return isinstance(found, type) and issubclass(found, nn.Module)


def _torchvision_builders() -> list[str]:
    """Names of the functions that make torchvision's networks."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)  # type: ignore[no-any-return]


def _refuse_paths(values: Mapping[str, Any], data: str) -> None:
    """Make sure that the data and the model read from the reader's own data folder alone.

    Raises:
        UserError: a setting is a path to elsewhere.
    """
    home = Path(data).resolve()
    for key, text in _texts({key: values[key] for key in ("data", "model") if key in values}, ""):
        is_path = key == "data.dir" or text.startswith(("/", "~")) or ".." in Path(text).parts
        if is_path and not Path(text).expanduser().resolve().is_relative_to(home):
            raise UserError(f"{key}={text}: is a path of whoever made this folder; give your own, such as data.dir=…")


def _texts(values: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(values, str):
        yield key, values
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for name, value in inner:
        yield from _texts(value, f"{key}.{name}".lstrip("."))
