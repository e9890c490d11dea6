"""Types of values in a config, and the base of every schema; each says in its error what it wants."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**31)]

SplitName = Literal["train", "val", "test"]
"""The parts of a dataset, as Lightning's loaders and steps call them."""

Beta = Annotated[float, Field(ge=0, lt=1)]


def _absolute(path: str) -> str:
    if not Path(path).is_absolute():
        there = Path.cwd() / Path(path).expanduser()
        raise PydanticCustomError("absolute_path", "Input should be absolute, such as {there}", {"there": there})
    return path


AbsolutePath = Annotated[str, AfterValidator(_absolute)]
"""A path that means the same when the run is read from another folder."""


UNITS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
"""Seconds of each unit, in the order of DD:HH:MM:SS."""


def _lightnings_form(given: Any) -> Any:
    """Turn 90m, 2h or 1d, and Lightning's {days: 1, hours: 2}, into its text."""
    if short := re.fullmatch(r"(\d{1,6})([smhd])", str(given)):
        given = {next(unit for unit in UNITS if unit[0] == short[2]): int(short[1])}
    if not isinstance(given, dict) or not given or given.keys() - UNITS.keys():
        return given
    minutes, seconds = divmod(int(sum(given.get(unit, 0) * size for unit, size in UNITS.items())), 60)
    return f"{minutes // 1440:02}:{minutes // 60 % 24:02}:{minutes % 60:02}:{seconds:02}"


def _duration(text: str) -> str:
    parts = re.fullmatch(r"(\d{1,6}):(\d\d):(\d\d):(\d\d)", text)
    if not parts:
        raise PydanticCustomError("duration", "Input should be DD:HH:MM:SS, such as 00:00:10:00, or 10m, 2h, 1d")
    return text


def seconds_of(duration: str) -> float:
    """Return a time in Lightning's form, of which the first parts may be missing, as a number.

    Raises:
        ValueError: it is none.
    """
    parts = reversed(duration.split(":"))
    return sum(float(part) * size for part, size in zip(parts, reversed(UNITS.values()), strict=False))


NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
"""What the name of a run may be, as a regular expression."""


def _name(text: str) -> str:
    if not re.fullmatch(NAME, text) or text == "last":
        raise PydanticCustomError("name", "Input should be up to 100 of A-Z, a-z, 0-9, '_', '.' and '-', and not last")
    return text


Name = Annotated[str, AfterValidator(_name)]
"""A name that can stand in a folder's."""

Duration = Annotated[str, BeforeValidator(_lightnings_form), AfterValidator(_duration)]
"""A time above zero, in Lightning's form."""


def _inner(path: str) -> str:
    if Path(path).is_absolute() or ".." in Path(path).parts or set(path) & {"$", "~"}:
        raise PydanticCustomError("inner_path", "Input should be a path inside the run's folder")
    return path


InnerPath = Annotated[str, AfterValidator(_inner)]
"""A path inside the run's folder."""


def _named(node: dict[str, Any]) -> dict[str, Any]:
    if "_target_" not in node:
        raise PydanticCustomError("component", "Input should be a node with a _target_, the class to build")
    return node


Component = Annotated[dict[str, Any], AfterValidator(_named)]
"""A node with a `_target_`: the class to build and its arguments, checked by `litlab.config.components`."""

OptionalComponent = Annotated[Component | None, BeforeValidator(lambda node: node or None)]
"""A component, or an empty node for none."""


class Settings(BaseModel):
    """Base of every schema: an unknown key or a value of another type is refused, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, serialize_by_alias=True)


def or_default(default: Any) -> BeforeValidator:
    """Read null as Lightning's default."""
    return BeforeValidator(lambda given: default if given is None else given)


def _full_precision(given: Any) -> Any:
    """Write out Lightning's short forms: 16, "bf16", 32 and 64."""
    short = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
    return short.get(str(given), given)


Precision = Annotated[Literal[
    "auto", "32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true", "transformer-engine",
    "transformer-engine-float16",
], BeforeValidator(_full_precision), or_default("auto")]  # fmt: skip


def _devices(given: Any) -> Any:
    """Read Lightning's texts "2", "0,1" and "-1"."""
    if isinstance(given, str) and re.fullmatch(r"-?\d+(\s*,\s*\d+)*,?", given):
        numbers = [int(part) for part in given.split(",") if part]
        return numbers if "," in given else numbers[0]
    return given


Devices = Annotated[
    Literal["auto", -1] | PositiveInt | Annotated[list[NonNegativeInt], Field(min_length=1)], BeforeValidator(_devices)
]
