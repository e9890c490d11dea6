"""Conditions on settings and results, as text: `optimizer.lr<0.01 and status==done and "wide" in tags`."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from litlab.errors import UserError

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}

WITH_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)e[-+]?\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Condition:
    """A comparison of what goes by the name of `key` with `value`, or whether it contains that."""

    key: str
    operator: str
    value: Any

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether `values` are like that; not so without the key, or with what cannot be compared."""
        if self.key not in values:
            return False
        try:
            if self.operator == "in":
                return self.value in values[self.key]
            return bool(OPERATORS[self.operator](values[self.key], self.value))
        except TypeError:
            return False


def parse(text: str) -> list[Condition]:
    """The conditions of a text that joins them by ` and `.

    Raises:
        UserError: a part of it is not a condition.
    """
    return [_condition(part.strip()) for part in re.split(r"\s+and(?:\s+|$)", text)]


def _condition(text: str) -> Condition:
    if contained := re.fullmatch(r"(.*\S)\s+in\s+([^\s<>=!]+)", text):
        return Condition(contained[2], "in", _value(contained[1], text))
    match = re.fullmatch(r"([^\s<>=!]+)\s*([<>]=?|[=!]=)\s*([^\s<>=!].*)", text)
    if match is None:
        accepted = (
            "KEY OP VALUE, OP one of < <= > >= == !=, or VALUE in KEY; "
            "several are joined by ' and ': 'optimizer.lr<0.01'"
        )
        raise UserError(f"'{text}' is not a condition; expected {accepted}")
    key, name, value = match.groups()
    return Condition(key, name, _value(value, text))


def _value(text: str, condition: str) -> Any:
    if WITH_EXPONENT.fullmatch(text):
        return float(text)  # YAML takes 1e-4 for a string
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError for a date that does not exist
        raise UserError(f"'{condition}': {text} is not a value in YAML") from error
