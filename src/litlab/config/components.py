"""Components: config nodes whose `_target_` names a class or function and whose other keys are its arguments."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from litlab.config import component_schema, schema
from litlab.errors import UserError
from litlab.messages import first_lines
from litlab.project import SOURCE, own_packages

Definition = ast.ClassDef | ast.FunctionDef

NO_ARGUMENTS = cast("ast.FunctionDef", ast.parse("def __init__(self): ...").body[0])
"""The constructor of a class that neither has nor inherits one."""


def schema_of(target: str) -> type[schema.Settings] | None:
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
        near = [f"{folder}.schema" for folder in folders if _file_of(f"{folder}.schema")]
        home = importlib.import_module(near[-1]) if near else None
    found = getattr(home, name, None)
    return found if isinstance(found, type) and issubclass(found, schema.Settings) else None


def accepted_arguments(target: str) -> frozenset[str] | None:
    """Names that a function or a class's constructor takes, read from the source; None where any name may be right.

    Raises:
        UserError: there is no such class or function.
    """
    found = definition(target)
    if isinstance(found, ast.ClassDef):
        module, _, name = target.rpartition(".")
        found, first = _constructor(module, name), 1
    else:
        first = 0
    # What a decorator makes of a function may take other arguments.
    if found is None or found.args.kwarg or found.decorator_list:
        return None
    taken = [*found.args.posonlyargs, *found.args.args][first:] + found.args.kwonlyargs
    return frozenset(argument.arg for argument in taken)


def _constructor(module: str, name: str) -> ast.FunctionDef | None:
    """Return a class's `__init__`, its own or the first that it inherits; None where only an import could tell."""
    module, found = _find(module, name) or (module, None)
    if not isinstance(found, ast.ClassDef) or found.decorator_list or found.keywords:
        return None
    for member in found.body:
        if isinstance(member, ast.FunctionDef) and member.name in ("__init__", "__new__"):
            return member if member.name == "__init__" else None
    if not found.bases:
        return NO_ARGUMENTS
    base = found.bases[0]
    return _constructor(module, base.id) if isinstance(base, ast.Name) and len(found.bases) == 1 else None


def build(node: Mapping[str, Any], *args: Any, key: str = "", **kwargs: Any) -> Any:
    """Call the class or function that `node` names with the node's own arguments and the given ones.

    Nested nodes are built first.

    Args:
        node: the component.
        args: arguments that come first.
        key: where the node stands in the config, for messages.
        kwargs: further arguments; they count where the node has the same.

    Raises:
        UserError: there is no such class or function, it does not take these arguments, or it refuses their values.
            An error in a line of the user's own package is raised as it is.
    """
    target = str(node["_target_"])
    found = import_target(target, key)
    settings = {name: _build_nested(value, f"{key}.{name}".lstrip(".")) for name, value in node.items()}
    settings = {name: value for name, value in settings.items() if name != "_target_"} | kwargs
    name = f"{key}: {target}" if key else target
    try:
        inspect.signature(found).bind(*args, **settings)
    except ValueError:
        pass  # a function in C that does not say what it takes
    except TypeError as error:
        raise UserError(f"{name} cannot be built from {', '.join(settings) or 'no settings'}: {error}") from error
    try:
        return found(*args, **settings)
    except UserError:
        raise
    except Exception as error:
        if _is_users(error):
            raise
        raise UserError(f"{name} cannot be built: {first_lines(error)}") from error


def import_target(target: str, key: str = "") -> Callable[..., Any]:
    """The class or function of that name.

    Raises:
        UserError: there is none, or its package is missing.
    """
    name = f"{key}._target_" if key else "_target_"
    try:
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


def definition(target: str) -> Definition | None:
    """The source of a class or function; reading it is faster than importing it. None where only an import could tell.

    Raises:
        UserError: there is no such module, or nothing of that name in it.
    """
    module, _, name = target.rpartition(".")
    if _file_of(module) is None:
        if not _may_be_module(module):
            raise UserError(f"there is no module {module}")
        return None
    found = _find(module, name)
    if found is None and not _may_have(module, name):
        raise UserError(f"{module} has no {name}")
    return found and found[1]


def _may_be_module(module: str) -> bool:
    """Whether a name whose source is not to be found may be that of a compiled module, or of a class in a module."""
    parent, _, name = module.rpartition(".")
    if parent:
        return _may_have(parent, name) if _file_of(parent) else _may_be_module(parent)
    return importlib.util.find_spec(module) is not None and module not in own_packages()


def _may_have(module: str, name: str) -> bool:
    """Whether a module, by its text, may have something of that name: assigned, imported, or made at run time."""
    file = _file_of(module)
    if file is None:
        return module.partition(".")[0] not in own_packages()  # compiled
    if re.search(rf"\b{name}\b|\b__getattr__\b|\bglobals\(\)", file.read_text(encoding="utf-8")):
        return True
    return any(_may_have(origin, name) for origin, _ in _imports(module, file, name))


def _find(module: str, name: str) -> tuple[str, Definition] | None:
    """The class or function `name` that `module` defines or imports from elsewhere, and the module that defines it."""
    file = _file_of(module)
    if file is None:
        return None
    for node in _parse(file).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
    return next((found for origin in _imports(module, file, name) if (found := _find(*origin))), None)


def _imports(module: str, file: Path, name: str) -> Iterator[tuple[str, str]]:
    """Where `module`, whose source is `file`, may import `name` from: a module, and the name there."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    imports = (node for node in _parse(file).body if isinstance(node, ast.ImportFrom))
    return (origin for node in imports for origin in _origins(node, package, name))


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
        if spec is None or (spec.submodule_search_locations is None and parts):
            return None
        if not spec.submodule_search_locations:
            return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
        base = Path(next(iter(spec.submodule_search_locations)))
    place = base.joinpath(*parts)
    candidates = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


@cache
def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
