"""What is wrong with a command line or a config, from the errors that Hydra and OmegaConf raise."""

import re
from typing import Any, cast

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from litlab.config.components import may_add
from litlab.errors import UserError
from litlab.messages import first_lines, no_such_option, one_line, unknown_key


def explain(error: Exception) -> str:
    """One line that says what is wrong with the command line or the config, and what would be right."""
    cause = error.__cause__ or error.__context__
    while cause:
        if isinstance(cause, UserError):  # a resolver has raised it
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return one_line(_explanation(error))


def _explanation(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return no_such_option(str(error.missing_cfg_file), error.options)
    if isinstance(error, OverrideParseException):
        return _no_override(error)
    if several := re.match(
        r"(?:Sweep parameters|Ambiguous value for argument) '(.+?)'(?: requires|\s+1\.)", str(error)
    ):
        a_list = ", or brackets if they are a list" if str(error).startswith("Ambiguous") else ""
        return f"{several[1]}: several values need `train -m`, which runs a job for each{a_list}"
    if "is not in struct" in str(cause) and isinstance(cause, OmegaConfBaseException):
        override = re.search(r"config use \+(.+?)=(.*)$", str(error), re.MULTILINE)  # Hydra repeats it there
        key, value = override.groups() if override else (cause.full_key or "", None)
        if (cause.full_key or "").startswith(f"{key}."):
            key, value = cause.full_key or "", None  # in a value that is a dictionary
        root = _root_of(cause)
        if value is not None and may_add(root, key):
            return f"{key}={value}: the config does not have it yet; +{key}={value} adds it"
        return unknown_key(key, value, root)
    if isinstance(cause, InterpolationKeyError) and (wanted := re.search(r"'(.*)' not found", str(cause))):
        return f"{cause.full_key}: is {wanted[1]} unless given, and there is none; give {cause.full_key}=…"
    if "Missing mandatory value" in str(cause) and isinstance(cause, OmegaConfBaseException):
        return f"{cause.full_key}: needs a value, give {cause.full_key}=…"
    return first_lines(error)


def _no_override(error: OverrideParseException) -> str:
    if "=" not in error.override:
        return f"{error.override}: needs a value, give {error.override}=…"
    reason = next(line for line in str(error).splitlines() if not line.startswith("Error parsing"))
    if "while evaluating" in reason:  # a function such as choice(…)
        if "NoneType" in reason:
            return f"{error.override}: Hydra's functions take no null; values with commas between them may be null"
        return f"{error.override}: {reason.rpartition(': ')[2]}"
    return f"{error.override}: {reason}; special characters need quotes, such as \"key='a=b'\""


def _root_of(error: OmegaConfBaseException) -> dict[str, Any]:
    if error.parent_node is None:
        return {}
    root = OmegaConf.to_container(error.parent_node._get_root(), resolve=False)
    return {str(key): value for key, value in cast("dict[str, Any]", root).items() if key != "hydra"}
