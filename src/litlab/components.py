"""Components: config nodes whose `_target_` names a class or function and whose other keys are its arguments."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from litlab import schema
from litlab.errors import UserError
from litlab.project import SOURCE, own_packages

Definition = ast.ClassDef | ast.FunctionDef


def schema_of(target: str) -> type[schema.Settings] | None:
    """The class that says what may be set on `target`: the one of the same name in its package's `schema` module.

    An optimizer of torch's has its schema, if any, in `litlab.schema`. No framework is imported.

    Raises:
        UserError: there is no such class or function.
    """
    module, _, name = target.rpartition(".")
    package = module.partition(".")[0]
    if not module or not all(part.isidentifier() for part in target.split(".")):
        raise UserError("not the name of a class or function; expected something like torch.optim.Adam")
    definition(target)
    if package in own_packages():
        home = importlib.import_module(f"{package}.schema") if _file_of(f"{package}.schema") else None
    else:
        home = schema if module == "torch.optim" else None
    found = getattr(home, name, None)
    return found if isinstance(found, type) and issubclass(found, schema.Settings) else None


def accepted_arguments(target: str) -> frozenset[str] | None:
    """Names that a function or a class's constructor takes, read from the source; None where any name may be right.

    Raises:
        UserError: there is no such class or function.
    """
    found = definition(target)
    if isinstance(found, ast.ClassDef):
        own = (one for one in found.body if isinstance(one, ast.FunctionDef) and one.name == "__init__")
        found = next(own, None)
        first = 1
    else:
        first = 0
    # What a decorator makes of a function may take other arguments.
    if found is None or found.args.kwarg or found.decorator_list:
        return None
    taken = [*found.args.posonlyargs, *found.args.args][first:] + found.args.kwonlyargs
    return frozenset(argument.arg for argument in taken)


def build(node: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Call the class or function that `node` names with the node's own arguments and the given ones.

    Nested nodes are built first.

    Raises:
        UserError: there is no such class or function, or it does not take these arguments.
    """
    target = node["_target_"]
    try:
        found = pkgutil.resolve_name(target)
    except (ValueError, AttributeError, ModuleNotFoundError) as error:
        raise UserError(f"_target_={target}: {error}") from error
    if not callable(found):
        raise UserError(f"_target_={target}: is a {type(found).__name__}, not a class or function")
    settings = {key: _build_nested(value) for key, value in node.items() if key != "_target_"}
    try:
        inspect.signature(found).bind(*args, **settings, **kwargs)
    except ValueError:
        pass  # a function in C that does not say what it takes
    except TypeError as error:
        raise UserError(f"{target} cannot be built from {', '.join(settings) or 'no settings'}: {error}") from error
    return found(*args, **settings, **kwargs)


def _build_nested(value: Any) -> Any:
    if isinstance(value, list):
        return [_build_nested(item) for item in value]
    return build(value) if isinstance(value, dict) and "_target_" in value else value


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
    return found


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


def _find(module: str, name: str) -> Definition | None:
    """The class or function `name` that `module` defines or imports from elsewhere."""
    file = _file_of(module)
    if file is None:
        return None
    for node in _parse(file).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
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
