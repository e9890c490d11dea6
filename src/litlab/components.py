"""Components: config nodes whose `_target_` names the class to build and whose other keys are its arguments."""

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from litlab import schema
from litlab.errors import UserError
from litlab.project import SOURCE, own_packages

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


def schema_of(target: str) -> type[schema.Settings] | None:
    """The class that says what may be set on `target`: the one of the same name in its package's `schema` module.

    A class of a framework has its schema, if any, in `litlab.schema`. No framework is imported.

    Raises:
        UserError: a config may not name `target`, or there is no such class.
    """
    module, _, name = target.rpartition(".")
    package = module.partition(".")[0]
    if not all(part.isidentifier() for part in target.split(".")):
        raise UserError("this is no class's name, such as torch.optim.Adam")
    if package not in own_packages() and module not in FRAMEWORK_MODULES:
        allowed = ", ".join([*sorted(own_packages()), *sorted(FRAMEWORK_MODULES)])
        raise UserError(f"a config may not build this; it may build classes of {allowed}")
    if package in own_packages():
        _class_source(target)
        home = importlib.import_module(f"{package}.schema") if _file_of(f"{package}.schema") else None
    else:
        home = schema
    found = getattr(home, name, None)
    return found if isinstance(found, type) and issubclass(found, schema.Settings) else None


def accepted_arguments(target: str) -> frozenset[str] | None:
    """Names that the constructor of a class takes, read from its source; None where any name may be right.

    Raises:
        UserError: there is no such class.
    """
    for statement in _class_source(target).body:
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
    if isinstance(value, list):
        return [_build_nested(item) for item in value]
    return build(value) if isinstance(value, dict) and "_target_" in value else value


def _class_source(target: str) -> ast.ClassDef:
    """The source of a class; reading it is faster and safer than importing it.

    Raises:
        UserError: there is no such module or class.
    """
    module, _, name = target.rpartition(".")
    if _file_of(module) is None:
        raise UserError(f"there is no module {module}")
    found = _find_class(module, name)
    if found is None:
        raise UserError(f"{module} has no class {name}")
    return found


def _find_class(module: str, name: str) -> ast.ClassDef | None:
    """The class `name` that `module` defines or, in a framework, imports from elsewhere in it."""
    file = _file_of(module)
    if file is None:
        return None
    body = _parse(file).body
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    if module.partition(".")[0] in own_packages():
        return None
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    imports = (node for node in body if isinstance(node, ast.ImportFrom))
    origins = (_find_class(*origin) for node in imports for origin in _origins(node, package, name))
    return next((found for found in origins if found), None)


def _origins(node: ast.ImportFrom, package: str, name: str) -> Iterator[tuple[str, str]]:
    """Where a `from … import` in `package` may take `name` from: a module, and the name there."""
    module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    for alias in node.names:
        if alias.name == "*":
            yield module, name
        elif (alias.asname or alias.name) == name:
            yield module, alias.name


def _file_of(module: str) -> Path | None:
    """Where the source of a module is; nothing is imported to find it."""
    package, *parts = module.split(".")
    if package in own_packages():
        base = SOURCE / package
    else:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            return None
        base = Path(next(iter(spec.submodule_search_locations)))
    place = base.joinpath(*parts)
    candidates = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


@cache
def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
