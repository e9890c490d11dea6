"""Whether values are what a schema wants of them; needs neither Hydra nor a framework."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, TypeVar

from pydantic import ValidationError

from litlab.config.component_schema import LRSchedulerConfig
from litlab.config.components import INSTRUCTIONS, schema_of
from litlab.config.schema import Trainer
from litlab.config.signatures import Signature, signature_of
from litlab.config.types import Settings
from litlab.errors import UserError
from litlab.messages import as_override, one_line, unknown_argument, unknown_key

ConfigT = TypeVar("ConfigT", bound=Settings)

GIVEN = {
    "optimizer": {"params"},
    "scheduler": {"optimizer", "total_steps", "T_max", "total_iters", "num_training_steps"},
    "model": {"optimizer", "scheduler", "augment"},
    "logger": {"save_dir"},
}
"""What the lab gives to the component of a slot, and to those in it."""

TRAINER = "lightning.pytorch.trainer.trainer.Trainer"

ANSWERED = {
    "callbacks": "choose callbacks by callbacks=NAME, or add one by callbacks.NAME._target_=CLASS",
    "logger": "choose loggers by logger=NAME, or add one by logger.NAME._target_=CLASS",
    "default_root_dir": "a run's folder is hydra.run.dir, and paths.logs holds them all; leave it out",
    "barebones": "take logger=none views=none trainer.enable_progress_bar=false trainer.enable_checkpointing=false",
    "model_registry": "belongs to Lightning's own cloud; leave it out",
}
"""Arguments of Lightning's Trainer that the lab has a way of its own for."""

MOST_PROBLEMS = 20
"""How many problems are told at once."""


def check_values(values: dict[str, Any], schema: type[ConfigT]) -> ConfigT:
    """The values, and those of the components among them, as a checked object.

    Raises:
        UserError: one line for each key that is unknown, missing, of the wrong type or out of range.
    """
    _refuse(chain(_problems(values, schema, values, ()), _problems_of_components(values)))
    return schema.model_validate(values)


def check_components(values: dict[str, Any]) -> None:
    """Check only the components among the values.

    Raises:
        UserError: as of `check_values`.
    """
    _refuse(_problems_of_components(values))


def _refuse(problems: Iterable[str]) -> None:
    told: dict[str, str] = {}
    for problem in islice(problems, MOST_PROBLEMS):
        # A key that takes its value from another of that name has the same problem: skip it.
        told.setdefault(re.sub(r"^[\w.]*\.(?=\w+=)", "", problem), one_line(problem))
    if told:
        raise UserError(*told.values())


def _problems_of_components(values: dict[str, Any]) -> Iterator[str]:
    yield from _trainer_problems(values, values.get("trainer"))
    for place, component in components(values):
        yield from _component_problems(values, component, place)


def _problems(
    root: Mapping[str, Any], schema: type[Settings], values: Mapping[str, Any], place: tuple[str, ...]
) -> Iterator[str]:
    """What `schema` has against `values`, which stand at `place` in the config; one line a key."""
    try:
        schema.model_validate(values)
    except ValidationError as error:
        complaints: dict[str, tuple[Any, list[str]]] = {}
        for detail in error.errors():
            inner, given = _follow(values, detail["loc"])
            key = ".".join([*place, *inner])
            if detail["type"] == "extra_forbidden":
                yield unknown_key(key, as_override(given), root)
            elif detail["type"] == "missing":
                yield f"{'.'.join([*place, *inner, str(detail['loc'][-1])])}: is missing"
            elif detail["type"] == "value_error":  # a cross-check names its keys itself
                yield str(detail["ctx"]["error"])
            else:
                complaints.setdefault(key, (given, []))[1].append(detail["msg"])
        for key, (given, messages) in complaints.items():
            accepted = " or ".join(dict.fromkeys(message.removeprefix("Input should be ") for message in messages))
            should_be = "should be " if messages[0].startswith("Input should be ") else ""
            yield f"{key}={as_override(given)}: {should_be}{accepted}"


def _follow(values: Any, location: Sequence[str | int]) -> tuple[list[str], Any]:
    """The part of pydantic's location that are keys of the config, and the value there; the rest is unions' tags."""
    keys = []
    for part in location:
        if isinstance(values, Mapping) and part in values:
            values = values[str(part)]
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            continue
        keys.append(str(part))
    return keys, values


def components(values: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The nodes among the values that name a class or function to call, each with the keys that lead to it."""
    if isinstance(values, dict):
        if "_target_" in values:
            yield place, values
        for key, value in values.items():
            yield from components(value, (*place, str(key)))
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from components(value, (*place, str(index)))


def _component_problems(root: Mapping[str, Any], component: dict[str, Any], place: tuple[str, ...]) -> list[str]:
    target, settings = component["_target_"], {key: component[key] for key in component if key != "_target_"}
    if place == ("scheduler",):
        when = {key: settings.pop(key) for key in LRSchedulerConfig.model_fields.keys() & settings.keys()}
        if problems := list(_problems(root, LRSchedulerConfig, when, place)):
            return problems
    if place == ("optimizer",) and "groups" in settings:
        plain = {key: value for key, value in component.items() if key != "groups"}
        return _component_problems(root, plain, place) or list(_group_problems(root, plain, settings["groups"]))
    is_partial, positional = settings.get("_partial_"), settings.get("_args_") or []
    settings = {key: value for key, value in settings.items() if key not in INSTRUCTIONS}
    try:
        schema = schema_of(str(target))
        if schema and not (is_partial or positional):
            return list(_problems(root, schema, settings, place))
        signature = signature_of(str(target))
    except UserError as error:
        return [f"{'.'.join([*place, '_target_'])}={target}: {error}"]
    if signature is None:
        return []
    if problems := list(_argument_problems(root, signature, str(target), settings, place)):
        return problems
    given = list(signature.types)[: len(positional) + (place == ("optimizer", "groups"))]  # which gets the module
    missing = signature.required - {*settings, *given} - GIVEN.get(place[0], set())
    return [f"{'.'.join([*place, name])}: is missing; {target} needs it" for name in sorted(missing) if not is_partial]


def _group_problems(root: Mapping[str, Any], optimizer: dict[str, Any], groups: Any) -> Iterator[str]:
    """What is wrong with groups of parameters: each has patterns of their names, and settings of the optimizer's."""
    if not isinstance(groups, dict):
        hint = "should be settings by a group's name, such as {head: {params: net.head, lr: 0.01}}"
        yield f"optimizer.groups={as_override(groups)}: {hint}"
    elif "_target_" not in groups:
        for name, given in groups.items():
            place, settings = ("optimizer", "groups", str(name)), given if isinstance(given, dict) else {}
            patterns = settings.get("params")
            if not all(isinstance(one, str) for one in (patterns if isinstance(patterns, list) else [patterns])):
                yield f"{'.'.join(place)}.params: should be a pattern of parameters' names, such as net.head, or a list"
            own = {key: value for key, value in settings.items() if key != "params"}
            yield from _component_problems(root, {**optimizer, **own}, place)


def _argument_problems(
    root: Mapping[str, Any], signature: Signature, target: str, settings: Mapping[str, Any], place: tuple[str, ...]
) -> Iterator[str]:
    """What a signature has against names and types of arguments; what a nested node gives is known once it is built."""
    for key in settings.keys() - signature.types.keys():
        yield unknown_argument(".".join(place), key, as_override(settings[key]), target, sorted(signature.types))
    plain = {
        key: value
        for key, value in settings.items()
        if key in signature.types and not (isinstance(value, Mapping) and "_target_" in value)
    }
    yield from _problems(root, signature.schema(plain.keys()), plain, place)


def _trainer_problems(root: Mapping[str, Any], settings: Any) -> Iterator[str]:
    """What Lightning's Trainer has against arguments that the lab's schema leaves to it."""
    items = settings.items() if isinstance(settings, Mapping) else ()
    others = {key: value for key, value in items if key not in Trainer.model_fields}
    signature = signature_of(TRAINER, through_decorators=True) if others else None
    if signature is None:
        return
    taken = sorted({*signature.types, *Trainer.model_fields} - ANSWERED.keys())
    for key in others.keys() - signature.types.keys():
        yield unknown_argument("trainer", key, as_override(others[key]), "it", taken)
    known = {key: value for key, value in others.items() if key in signature.types}
    yield from _argument_problems(root, signature, TRAINER, known, ("trainer",))
    for key, hint in ANSWERED.items():
        if others.get(key) and not (key == "logger" and others[key] is True):
            yield f"trainer.{key}={as_override(others[key])}: {hint}"
