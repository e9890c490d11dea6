"""What can be set, as JSON Schemas: read from the lab's own schemas, and from signatures and docstrings."""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, TypeAdapter, create_model

from litlab.config.command_schema import Grid, Sampled, TrainCommand
from litlab.config.component_schema import LRSchedulerConfig
from litlab.config.components import INSTRUCTIONS, schema_of
from litlab.config.schema import Paths, Trainer
from litlab.config.signatures import definition, signature_of
from litlab.config.types import Settings
from litlab.config.validate import ANSWERED, GIVEN, TRAINER, components
from litlab.project import CONFIGS, groups

COLLECTIONS = ("callbacks", "logger", "views")
"""Groups whose options are components under names of their own."""

INTERPOLATION = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
"""A value that refers to others, or that has to be given."""

Schema = dict[str, Any]


def options(group: str) -> dict[str, Any]:
    """Return the content of each option's file in a group, by the option's name."""
    files = sorted((CONFIGS / group).glob("*.yaml"))
    return {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) or {} for file in files}


def group_schema(group: str) -> Schema:
    """Return the JSON Schema of an option's file in a group of configs."""
    if group in ("experiment", "debug"):
        return model_schema(TrainCommand) | {"properties": _train_properties()}
    if group == "trainer":
        return _trainer_schema()
    if group == "sweep":
        return _loosened(TypeAdapter(Grid | Sampled).json_schema(), Grid, Sampled)
    if group == "paths":
        return model_schema(Paths)
    known = {str(node["_target_"]): node for one in options(group).values() for _, node in components(one)}
    made = _component(known, group)
    if group in COLLECTIONS:
        return {"type": ["object", "null"], "properties": {"defaults": {}}, "additionalProperties": made}
    return made


def command_schema(settings: type[Settings]) -> Schema:
    """Return the JSON Schema of a command's own config."""
    schema = model_schema(settings)
    schema["properties"] |= {"defaults": {}, "hydra": {}}
    if issubclass(settings, TrainCommand):
        schema["properties"] |= _train_properties()
    return schema


def _train_properties() -> Schema:
    """Return what may stand in a file of settings of `train`: for each group what its options may have."""
    own: Schema = model_schema(TrainCommand)["properties"]
    for group in {*groups(), "hydra", "defaults"} & {*own, "hydra", "defaults"}:
        own[group] = {"$ref": f"{group}.json", "description": own.get(group, {}).get("description", "")}
    return own | {"defaults": {}, "hydra": {}}


def model_schema(*models: type[Settings]) -> Schema:
    """Return the JSON Schema of a model, with the docstrings of its fields."""
    return _loosened(models[0].model_json_schema(), *models)


def _loosened(schema: Schema, *models: type[BaseModel]) -> Schema:
    """Let each value be an interpolation, and each key be missing: what a file lacks comes from another one."""
    known = {model.__name__: model for model in _with_inner(models)}
    schema = {key: value for key, value in schema.items() if key not in ("required", "title")}
    schema["$defs"] = {name: _described(inner, known.get(name)) for name, inner in schema.get("$defs", {}).items()}
    return _described(schema, models[0] if "properties" in schema else None)


def _described(schema: Schema, model: type[BaseModel] | None) -> Schema:
    told = sentences(model) if model else {}
    properties = {
        name: {"anyOf": [_without_titles(inner), INTERPOLATION], "description": told.get(name, "")}
        for name, inner in schema.get("properties", {}).items()
    }
    kept = {key: value for key, value in schema.items() if key not in ("required", "title", "properties")}
    return kept | ({"properties": {**properties, "defaults": {}}} if properties else {})


def _without_titles(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _without_titles(value) for key, value in schema.items() if key not in ("title", "default")}
    return [_without_titles(item) for item in schema] if isinstance(schema, list) else schema


def _with_inner(models: tuple[type[BaseModel], ...]) -> Iterator[type[BaseModel]]:
    for model in models:
        yield model
        for field in model.model_fields.values():
            for kind in (field.annotation, *get_args(field.annotation)):
                if isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel):
                    yield from _with_inner((kind,))


def sentences(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstrings that stand below a model's fields, by the names that a config has for them."""
    found = {}
    for base in (base for base in reversed(model.__mro__) if issubclass(base, Settings)):
        body = ast.parse(inspect.getsource(base)).body[0].body  # type: ignore[attr-defined]
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                name = field.target.id  # type: ignore[union-attr]
                found[model.model_fields[name].alias or name] = str(text.value.value)
    return found


def _trainer_schema() -> Schema:
    schema = model_schema(Trainer)
    signature = signature_of(TRAINER, through_decorators=True)
    others = {name for name in signature.types if name not in Trainer.model_fields} if signature else set()
    schema["properties"] |= {name: _argument(TRAINER, name) for name in sorted(others - ANSWERED.keys())}
    return schema | {"additionalProperties": False}


def _component(known: Mapping[str, Any], group: str) -> Schema:
    """Return the schema of a component that may be any class or function, of which the known ones are described."""
    of_schedule = model_schema(LRSchedulerConfig)["properties"] if group == "scheduler" else {}
    cases = [
        {
            "if": {"properties": {"_target_": {"const": target}}},
            "then": {"properties": arguments(target, group) | of_schedule},
        }
        for target in sorted(known)
    ]
    target = {"type": "string", "description": "The class or function to build.", "examples": sorted(known)}
    properties = {"_target_": target, **{key: {} for key in INSTRUCTIONS if key != "_target_"}, "defaults": {}}
    return {"type": ["object", "null"], "properties": properties, "allOf": cases}


def arguments(target: str, group: str) -> Schema:
    """Return the schemas of what a class or function takes, by name, without what it is given in this group."""
    model = schema_of(target)
    if model is not None:
        schema = model_schema(model)
        properties: Schema = _inlined(schema["properties"], schema.get("$defs", {}))
        return {name: inner for name, inner in properties.items() if name != "defaults"}
    signature = signature_of(target)
    names = [name for name in signature.types if name not in GIVEN.get(group, ())] if signature else []
    return {name: _argument(target, name) for name in names}


def _inlined(schema: Any, definitions: Schema) -> Any:
    """Put definitions where they are referred to, since these schemas stand within others."""
    if isinstance(schema, dict):
        if reference := str(schema.get("$ref", "")).removeprefix("#/$defs/"):
            return _inlined(definitions[reference], definitions)
        return {key: _inlined(value, definitions) for key, value in schema.items()}
    return [_inlined(item, definitions) for item in schema] if isinstance(schema, list) else schema


def _argument(target: str, name: str) -> Schema:
    """Return the schema of an argument, by its annotation, default and docstring."""
    signature = signature_of(target, through_decorators=target == TRAINER)
    assert signature is not None  # noqa: S101 (it has given the name)
    kind = create_model("Argument", __base__=Settings, value=(signature.types[name], Field(...)))
    shape = _without_titles(kind.model_json_schema()["properties"]["value"])
    default = signature.defaults.get(name)
    told = _argument_docs(target).get(name, "")
    described = {"description": told + (f" Default: {default}." if default not in (None, "None") else "")}
    return {"anyOf": [shape, {"type": "object"}, INTERPOLATION], **described} if shape else described


def _argument_docs(target: str) -> dict[str, str]:
    """Return the first sentence on each argument in a docstring of Google's or Sphinx's form."""
    found = definition(target)
    inner = [one for one in getattr(found, "body", []) if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
    texts = [ast.get_docstring(one) or "" for one in (found, *inner) if isinstance(one, ast.ClassDef | ast.FunctionDef)]
    told: dict[str, str] = {}
    for match in re.finditer(r"^ +(\w+)(?: \([^\n]*\))?: (.+(?:\n {6,}\S.*)*)", "\n".join(texts), re.MULTILINE):
        sentence = re.split(r"(?<=[.!?])\s|\n\s*\n", " ".join(match[2].split()))[0]
        told.setdefault(match[1], re.sub(r":\w+:`~?([^`]*)`|`+", r"\1", sentence))
    return told
