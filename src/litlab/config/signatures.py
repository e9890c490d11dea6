"""What a class or function takes, read from its source: importing a framework takes seconds."""

import ast
import importlib
import importlib.util
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, cast

from pydantic import Field, create_model

from litlab.config.types import Settings
from litlab.errors import UserError
from litlab.project import SOURCE, own_packages

Definition = ast.ClassDef | ast.FunctionDef


NO_ARGUMENTS = cast("ast.FunctionDef", ast.parse("def __init__(self): ...").body[0])
"""The constructor of a class that neither has nor inherits one."""


@dataclass(frozen=True)
class Signature:
    """What a class's constructor or a function takes.

    Attributes:
        types: the type of each argument, in order, as far as it is simple; Any where only the framework knows it.
        required: the arguments that have no default.
        defaults: the others' defaults, as they are written.
        positional: how many of the arguments can be given without their names.
    """

    types: Mapping[str, Any]
    required: frozenset[str]
    defaults: Mapping[str, str]
    positional: int

    def schema(self, names: Collection[str]) -> type[Settings]:
        """Return a schema of the arguments with these names."""
        fields = {f"argument_{name}": (self.types[name] | None, Field(None, alias=name)) for name in names}
        return create_model("Arguments", __base__=Settings, **cast("dict[str, Any]", fields))


def signature_of(target: str, through_decorators: bool = False) -> Signature | None:
    """Read what a class or function takes; None where any argument may be right.

    Args:
        target: its name.
        through_decorators: whether a decorator is known to leave the arguments as they are.

    Raises:
        UserError: there is no such class or function.
    """
    found = definition(target)
    if isinstance(found, ast.ClassDef):
        module, _, name = target.rpartition(".")
        found, first = _constructor(module, name), 1
    else:
        first = 0
    if found is None or found.args.kwarg or found.args.vararg or (found.decorator_list and not through_decorators):
        return None
    positional, named = [*found.args.posonlyargs, *found.args.args], found.args.kwonlyargs
    defaults = [None] * (len(positional) - len(found.args.defaults)) + [*found.args.defaults, *found.args.kw_defaults]
    with_defaults = list(zip([*positional, *named], defaults, strict=True))[first:]
    return Signature(
        {argument.arg: _type(argument.annotation) for argument, _ in with_defaults},
        frozenset(argument.arg for argument, default in with_defaults if default is None),
        {argument.arg: ast.unparse(default) for argument, default in with_defaults if default is not None},
        len(positional) - first,
    )


SIMPLE: Mapping[str, Any] = {
    "bool": bool, "float": float, "int": int, "str": str, "None": None,
    **dict.fromkeys(("list", "tuple", "List", "Tuple", "Sequence", "Iterable"), list),
    **dict.fromkeys(("dict", "Dict", "Mapping"), dict),
}  # fmt: skip
"""Types that a value of a config can have, by their names in annotations."""


def _type(annotation: ast.expr | None) -> Any:
    """Return the type that an annotation names, if it is simple or a union of simple ones; else Any."""
    match annotation:
        case ast.Name(name):
            return SIMPLE.get(name, Any)
        case ast.Constant(None):
            return None
        case ast.Constant(str(text)):
            with suppress(SyntaxError):
                return _type(ast.parse(text, mode="eval").body)
        case ast.BinOp(left, ast.BitOr(), right):
            return _union([left, right])
        case ast.Subscript(ast.Name("Optional"), inner):
            return _union([inner, ast.Constant(None)])
        case ast.Subscript(ast.Name("Union"), ast.Tuple(inners)):
            return _union(inners)
        case ast.Subscript(ast.Name("Literal"), inner):
            with suppress(ValueError):
                values = ast.literal_eval(inner)
                return Literal[values]
        case ast.Subscript(ast.Name(name), _):
            return SIMPLE.get(name, Any)
    return Any


def _union(parts: Sequence[ast.expr]) -> Any:
    types = [_type(part) for part in parts]
    return Any if Any in types else Union[tuple(types)]  # noqa: UP007 (of as many as there are)


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


def definition(target: str) -> Definition | None:
    """The source of a class or function; reading it is faster than importing it. None where only an import could tell.

    Raises:
        UserError: there is no such module, or nothing of that name in it.
    """
    module, _, name = target.rpartition(".")
    if file_of(module) is None:
        if not _may_be_module(module):
            raise UserError(f"there is not a module {module}")
        return None
    found = _find(module, name)
    if found is None and not _may_have(module, name):
        raise UserError(f"{module} has no {name}")
    return found and found[1]


def _may_be_module(module: str) -> bool:
    """Whether a name whose source is not to be found may be that of a compiled module, or of a class in a module."""
    parent, _, name = module.rpartition(".")
    if parent:
        return _may_have(parent, name) if file_of(parent) else _may_be_module(parent)
    return importlib.util.find_spec(module) is not None and module not in own_packages()


def _may_have(module: str, name: str) -> bool:
    """Whether a module, by its text, may have something of that name: assigned, imported, or made at run time."""
    file = file_of(module)
    if file is None:
        return module.partition(".")[0] not in own_packages()  # compiled
    if re.search(rf"\b{name}\b|\b__getattr__\b|\bglobals\(\)", file.read_text(encoding="utf-8")):
        return True
    return any(_may_have(origin, name) for origin, _ in _imports(module, file, name))


def _find(module: str, name: str) -> tuple[str, Definition] | None:
    """The class or function `name` that `module` defines or imports from elsewhere, and the module that defines it."""
    file = file_of(module)
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


def file_of(module: str) -> Path | None:
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
