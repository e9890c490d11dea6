"""What `train --help GROUP` prints: each key with its type, its value and a sentence."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from litlab.config.command_schema import Resume, TrainCommand
from litlab.config.components import INSTRUCTIONS
from litlab.config.describe import (
    COLLECTIONS,
    INTERPOLATION,
    arguments,
    group_schema,
    model_schema,
    options,
    sentences,
)
from litlab.config.schema import Checkpoint, Init
from litlab.config.types import Settings
from litlab.errors import UserError
from litlab.messages import as_override
from litlab.project import CONFIGS, groups

PARTS: Mapping[str, type[Settings]] = {"checkpoint": Checkpoint, "init": Init, "resume": Resume}
"""Parts of train's config that are not groups."""

RECIPES = ("experiment", "debug")
"""Groups whose options set keys of other groups."""

WIDEST = 40
"""Characters of a column; what is longer moves the rest of its line."""


def help_of_group(asked: str) -> str:
    """Return what can be set in a group of configs, or in a part of train's config.

    Raises:
        UserError: there is no such group or part.
    """
    known = sorted({*groups(), *PARTS})
    if asked not in known:
        raise UserError(f"--help {asked}: no such group; there is {', '.join(known)}")
    lines = [f"{asked}: {sentences(TrainCommand).get(asked, 'settings of many groups at once')}", ""]
    if asked in PARTS:
        values = yaml.safe_load((CONFIGS / "train.yaml").read_text(encoding="utf-8"))[asked]
        return "\n".join([*lines, *_lines(asked, model_schema(PARTS[asked])["properties"], values), ""])
    for name, content in options(asked).items():
        lines += [_title(asked, name), *_option_lines(asked, content), ""]
    if asked not in ("trainer", "sweep", "paths", *RECIPES):
        place = f"{asked}.NAME" if asked in COLLECTIONS else asked
        lines += [f"Any class or function: {place}._target_=…, and its arguments as keys beside it.", ""]
    return "\n".join(lines)


def completions(line: str) -> list[str]:
    """Return what the last word of a command line may become: keys that the config lacks, as KEY=, or KEY=VALUE."""
    word = line.rpartition(" ")[2].lstrip("+")
    group, dot, _ = word.partition(".")
    if not dot or group not in groups() or group in (*COLLECTIONS, *RECIPES):
        return []
    schema = group_schema(group)
    kinds = [schema, *(case["then"] for case in schema.get("allOf", ()))]
    known = {name: inner for kind in kinds for name, inner in kind.get("properties", {}).items()}
    keys = {f"{group}.{name}=": inner for name, inner in known.items() if name not in ("defaults", *INSTRUCTIONS[1:])}
    told = word.partition("=")[0] + "="
    words = (f"{told}{value}" for value in _values(keys.get(told, {}))) if "=" in word else keys
    return sorted(text for text in words if text.startswith(word))


def _values(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the values that a key can have, where it has but a few."""
    for one in [schema, *schema.get("anyOf", ())]:
        few = {"boolean": [True, False], "null": [None]}.get(one.get("type"), [])
        yield from map(as_override, one.get("enum", few) + [one[key] for key in one if key == "const"])


def _title(group: str, name: str) -> str:
    text = (CONFIGS / group / f"{name}.yaml").read_text(encoding="utf-8")
    comments: list[str] = re.findall(r"^# (?!@)(.*)", text, re.MULTILINE)
    return "  ".join([f"{group}={name}", *comments[:1]])


def _option_lines(group: str, content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines on an option, from the content of its file."""
    if group in RECIPES:
        return
    if group in ("trainer", "sweep", "paths"):
        schema = group_schema(group)
        kind = "Grid" if content.get("sampler") == "grid" else "Sampled"
        inner = schema.get("properties") or schema["$defs"][kind]["properties"]
        inherits = "defaults" in content  # the option that it changes has all keys
        yield from _lines(group, {key: inner[key] for key in inner if key in content or not inherits}, content)
        return
    for key, node in {"": content, **content}.items():
        if isinstance(node, Mapping) and "_target_" in node:
            yield f"  {node['_target_']}"
            yield from _lines(f"{group}.{key}".rstrip("."), arguments(str(node["_target_"]), group), node)


def _lines(place: str, properties: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each key: its name, its type, its value in the config, and a sentence on it."""
    rows = [
        (f"{place}.{key}", type_text(schema), _shown(values, key), schema.get("description", ""))
        for key, schema in properties.items()
        if key != "defaults"
    ]
    widths = [max((len(row[column]) for row in rows if len(row[column]) <= WIDEST), default=0) for column in range(3)]
    for row in rows:
        yield "  " + "  ".join(text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)).rstrip()


def _shown(values: Mapping[str, Any], key: str) -> str:
    """Return a key's value in a file; what the file lacks has the default of the class or function."""
    if key not in values:
        return ""
    value = values[key]
    return f"= {value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"


def type_text(schema: Mapping[str, Any]) -> str:
    """Return a JSON Schema's type in a few words."""
    if "anyOf" in schema:
        texts = (type_text(one) for one in schema["anyOf"] if one not in (INTERPOLATION, {"type": "object"}))
        return " | ".join(dict.fromkeys(text for text in texts if text))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"[{type_text(schema.get('items', {})) or '…'}]"
    kinds = {"integer": "int", "number": "float", "boolean": "bool", "string": "text", "object": "{…}"}
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema and abs(schema[key]) < 2**31]
    return " ".join([kinds.get(str(schema.get("type")), str(schema.get("type") or "")), *limits]).strip()
