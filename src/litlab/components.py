"""Components: config nodes whose `_target_` names the class to build and whose other keys are its arguments."""

import ast
import importlib
import importlib.metadata
import inspect
from functools import cache
from pathlib import Path
from typing import Any

from litlab import schema
from litlab.errors import UserError

SOURCE = Path(__file__).resolve().parents[1]

# A config may come from somebody else, so it may only name classes that do no more than their name says.
FRAMEWORK_MODULES = frozenset(
    {
        "torch.nn",
        "torch.optim",
        "torch.optim.lr_scheduler",
        "torchmetrics",
        "torchmetrics.classification",
        "torchvision.ops",
        "torchvision.transforms.v2",
        "lightning.pytorch.callbacks",
        "lightning.pytorch.loggers",
    }
)


@cache
def own_packages() -> frozenset[str]:
    """Names of the project's packages: the folders of `src`, or what its wheel holds."""
    if SOURCE.name == "src":
        return frozenset(path.name for path in SOURCE.iterdir() if path.is_dir() and path.name.isidentifier())
    files = importlib.metadata.files("litlab") or []
    return frozenset(file.parts[0] for file in files if file.suffix == ".py")


def schema_of(target: str) -> type[schema.Settings] | None:
    """The class that says what may be set on `target`: the one of the same name in its package's `schema` module.

    A class of a framework has its schema, if any, in `litlab.schema`. No framework is imported.

    Raises:
        UserError: a config may not name `target`, or there is no such class.
    """
    module, _, name = target.rpartition(".")
    package = module.partition(".")[0]
    if package in own_packages():
        _own_class(target)
        home = _import_if_there(f"{package}.schema")
    elif module in FRAMEWORK_MODULES:
        home = schema
    else:
        allowed = ", ".join([*sorted(own_packages()), *sorted(FRAMEWORK_MODULES)])
        raise UserError(f"a config may not build this; it may build classes of {allowed}")
    found = getattr(home, name, None)
    return found if isinstance(found, type) and issubclass(found, schema.Settings) else None


def accepted_arguments(target: str) -> frozenset[str] | None:
    """Names that the constructor of a class of ours takes, read from its source; None where any name may be right."""
    if target.partition(".")[0] not in own_packages():
        return None
    for statement in _own_class(target).body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            arguments = statement.args
            if arguments.kwarg:
                return None
            return frozenset(argument.arg for argument in arguments.args[1:] + arguments.kwonlyargs)
    return None


def build(node: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Build the class that `node` names, from the node's own arguments and the given ones; nested nodes come first.

    Raises:
        UserError: the class does not exist or does not take these arguments.
    """
    target = node["_target_"]
    schema_of(target)
    module, _, name = target.rpartition(".")
    found = getattr(importlib.import_module(module), name, None)
    if not (inspect.isclass(found) and found.__module__.partition(".")[0] == module.partition(".")[0]):
        raise UserError(f"_target_={target}: {module} has no class {name}")
    settings = {key: _build_nested(value) for key, value in node.items() if key != "_target_"}
    try:
        inspect.signature(found).bind(*args, **settings, **kwargs)
    except TypeError as error:
        raise UserError(f"{target} cannot be built from {', '.join(settings) or 'no settings'}: {error}") from error
    return found(*args, **settings, **kwargs)


def _build_nested(value: Any) -> Any:
    return build(value) if isinstance(value, dict) and "_target_" in value else value


def _own_class(target: str) -> ast.ClassDef:
    """The source of a class of ours; reading it is faster and safer than importing it.

    Raises:
        UserError: there is no such module or class.
    """
    module, _, name = target.rpartition(".")
    file = SOURCE.joinpath(*module.split(".")).with_suffix(".py")
    if not file.is_file():
        raise UserError(f"there is no module {module}")
    classes = {node.name: node for node in _parse(file).body if isinstance(node, ast.ClassDef)}
    if name not in classes:
        raise UserError(f"{module} has no class {name}; it has {', '.join(classes) or 'none'}")
    return classes[name]


@cache
def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def _import_if_there(module: str) -> Any:
    return importlib.import_module(module) if SOURCE.joinpath(*module.split(".")).with_suffix(".py").is_file() else None
