"""Components: config nodes whose `_target_` names a class or function and whose other keys are its arguments."""

import importlib
import importlib.util
import inspect
import pkgutil
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from litlab.config import component_schema
from litlab.config.signatures import definition, file_of, signature_of
from litlab.config.types import Settings
from litlab.errors import UserError
from litlab.messages import first_lines
from litlab.project import SOURCE, own_packages


def schema_of(target: str) -> type[Settings] | None:
    """Return the class that says what can be set on `target`: the one of its name in the nearest module `schema`.

    That is a module beside the target's own, or in one of the folders above. Those of torch's optimizers are in
    `litlab.config.component_schema`. No framework is imported.

    Raises:
        UserError: there is no such class or function.
    """
    module, _, name = target.rpartition(".")
    if not module or not all(part.isidentifier() for part in target.split(".")):
        raise UserError("not the name of a class or function; expected something like torch.optim.Adam")
    definition(target)
    home: ModuleType | None = component_schema if module in ("torch.optim", *component_schema.MODULES) else None
    if module.partition(".")[0] in own_packages() and home is None:
        folders = accumulate(module.split(".")[:-1] or [module], "{}.{}".format)
        near = [f"{folder}.schema" for folder in folders if file_of(f"{folder}.schema")]
        home = importlib.import_module(near[-1]) if near else None
    found = getattr(home, name, None)
    return found if isinstance(found, type) and issubclass(found, Settings) else None


def may_add(values: Any, key: str) -> bool:
    """Whether `key` would be an argument, not given yet, of a component among the values."""
    *place, name = key.split(".")
    for part in place:
        values = values.get(part) if isinstance(values, Mapping) else None
    if not (isinstance(values, Mapping) and "_target_" in values):
        return False
    with suppress(UserError):  # the target is wrong, too, and told then
        found = schema_of(str(values["_target_"]))
        signature = None if found else signature_of(str(values["_target_"]))
        return name in (found.model_fields if found else signature.types if signature else ())
    return False


def build(node: Mapping[str, Any], *args: Any, key: str = "", kind: type | None = None, **kwargs: Any) -> Any:
    """Call the class or function that `node` names with the node's own arguments and the given ones.

    Nested nodes are built first. `_partial_`, `_args_` and `_recursive_` mean what they mean in Hydra.

    Args:
        node: the component.
        args: arguments that come first.
        key: where the node stands in the config, for messages.
        kind: what it is to be; None for anything.
        kwargs: further arguments; they count where the node has the same.

    Raises:
        UserError: there is no such class or function, it does not take these arguments, it refuses their values, or it
            gives something of another kind. An error in a line of the user's own package is raised as it is.
    """
    target, is_partial = str(node["_target_"]), node.get("_partial_", False)
    found = import_target(target, key)
    nested = _build_nested if node.get("_recursive_", True) else lambda value, _: value
    settings = {name: nested(value, f"{key}.{name}".lstrip(".")) for name, value in node.items()}
    args = (*args, *settings.get("_args_", ()))
    settings = {name: value for name, value in settings.items() if name not in INSTRUCTIONS} | kwargs
    _require_kinds(found, {name: settings[name] for name in settings.keys() & node.keys()}, node, key)
    name = f"{key}: {target}" if key else target
    if is_partial:
        return partial(found, *args, **settings)
    try:
        inspect.signature(found).bind(*args, **settings)
    except ValueError:
        pass  # a function in C that does not say what it takes
    except TypeError as error:
        raise UserError(f"{name} cannot be built from {', '.join(settings) or 'no settings'}: {error}") from error
    try:
        built = found(*args, **settings)
    except UserError:
        raise
    except Exception as error:
        if _is_users(error):
            raise
        raise UserError(f"{name} cannot be built: {first_lines(error)}") from error
    _require_kind(built, kind, target, key)
    return built


def _require_kinds(found: Callable[..., Any], settings: Mapping[str, Any], node: Mapping[str, Any], key: str) -> None:
    """Refuse what a nested node gives if the argument is annotated with a class that it is not an instance of."""
    for name, value in settings.items():
        inner = node[name]
        if isinstance(inner, Mapping) and "_target_" in inner and not inner.get("_partial_"):
            annotation = parameters(found)[name].annotation if name in parameters(found) else None
            kind = annotation if isinstance(annotation, type) and annotation is not inspect.Parameter.empty else None
            _require_kind(value, kind, str(inner["_target_"]), f"{key}.{name}".lstrip("."))


def _require_kind(built: Any, kind: type | None, target: str, key: str) -> None:
    with suppress(TypeError):  # of a protocol that cannot be asked
        if kind is not None and not isinstance(built, kind):
            raise UserError(f"{key}: {target} gives a {type(built).__name__}, not a {kind.__name__}")


AS_WITH_WEIGHTS: Mapping[str, Mapping[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": False},
    "inception_v3": {"transform_input": True, "init_weights": False},
}
"""Settings that torchvision's builders change where pretrained weights are given."""


def as_with_weights(target: str, weights: Any) -> dict[str, Any]:
    """Return the settings by which a builder of torchvision's gives the same network as with pretrained weights."""
    return dict(AS_WITH_WEIGHTS.get(target.rpartition(".")[2], {})) if weights else {}


def without_downloads(node: Any) -> Any:
    """Return a component, with all inside it, that fetches no pretrained weights: a checkpoint has the trained ones."""
    if isinstance(node, list):
        return [without_downloads(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    inner = {key: without_downloads(value) for key, value in node.items()}
    target = str(node.get("_target_"))
    if target.startswith("torchvision.models."):
        kept = {key: value for key, value in inner.items() if not key.startswith(("weights", "pretrained"))}
        backbone = {"weights_backbone": None} if "segmentation" in target or "detection" in target else {}
        return as_with_weights(target, inner.get("weights") or inner.get("pretrained")) | backbone | kept
    if target == "litlab.networks.torchvision_network":
        return inner | {"download": False}
    return inner | {"pretrained": False} if target.startswith("timm.") else inner


INSTRUCTIONS = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")
"""Keys of a component that say how it is built, as in Hydra."""


def import_target(target: str, key: str = "") -> Callable[..., Any]:
    """The class or function of that name.

    Raises:
        UserError: there is none, or its package is missing.
    """
    name = f"{key}._target_" if key else "_target_"
    try:
        module, _, attribute = target.rpartition(".")
        try:  # pkgutil takes torchvision.models.alexnet for the module of that name, which the function hides
            found = getattr(importlib.import_module(module), attribute)
        except ImportError:  # the class of a method is not a module
            found = pkgutil.resolve_name(target)
    except (ValueError, AttributeError, ImportError) as error:
        raise UserError(f"{name}={target}: {first_lines(error)}") from error
    if not callable(found):
        raise UserError(f"{name}={target}: is a {type(found).__name__}, not a class or function")
    return cast("Callable[..., Any]", found)


def parameters(found: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a class or function by their names; none of a function in C that does not say."""
    try:
        return dict(inspect.signature(found).parameters)
    except ValueError:
        return {}


def takes(found: Callable[..., Any], name: str) -> bool:
    """Whether a class or function takes an argument of that name."""
    known = parameters(found)
    return name in known or any(one.kind is one.VAR_KEYWORD for one in known.values())


def _is_users(error: Exception) -> bool:
    """Whether an error was raised by a line of the user's own package, not by a library that it calls."""
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    own = (SOURCE / package for package in own_packages() - {"litlab"})
    return any(Path(raised_in).is_relative_to(package) for package in own)


def _build_nested(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return [_build_nested(item, f"{key}.{index}") for index, item in enumerate(value)]
    return build(value, key=key) if isinstance(value, Mapping) and "_target_" in value else value
