"""Running a run again, to see whether the same comes out."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from litlab.config import schema
from litlab.runs.checkpoint import load_weights, read
from litlab.runs.record import Record
from litlab.runs.run import Run
from litlab.training.build import build_module
from litlab.training.train import train

log = logging.getLogger(__name__)


def reproduce(original: Run, config: schema.Train, folder: Path) -> bool:
    """Train as `config`, that of the original, says, in `folder`; whether weights and metrics are the same.

    Raises:
        UserError: the original's checkpoint is damaged or of another network; the config asks for what cannot be had.
    """
    before = read(original.best_checkpoint())
    load_weights(build_module(config), original.best_checkpoint())  # which may refuse them
    again = train(config, Run.create(folder, config.seed, original.record.overrides))
    now = read(again.best_checkpoint())
    differences = [
        *_different_metrics(original.record, again.record),
        *_different_weights(before["state_dict"], now["state_dict"]),
    ]
    if not differences:
        log.info("the same: weights and metrics, to the last bit")
        return True
    for line in differences:
        log.info("not the same: %s", line)
    circumstances = list(_circumstances(original.record, again.record))
    data = config.data["_target_"].rpartition(".")[2]  # as Lightning calls its state
    if not _same(before.get(data), now.get(data)):
        circumstances.append(f"the data: {data} has another state, of other files or another split, say")
    for line in circumstances or ["nothing that the record knows; on a GPU, trainer.deterministic=true may help"]:
        log.info("what has changed: %s", line)
    return False


def _different_metrics(original: Record, again: Record) -> Iterator[str]:
    for part in ("last", "best", "test", "test_by_class"):
        before, now = getattr(original.metrics, part), getattr(again.metrics, part)
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name) and name != "examples_per_second":
                yield f"{part} {name} was {before.get(name)}, now {now.get(name)}"


def _different_weights(original: dict[str, Any], again: dict[str, Any]) -> Iterator[str]:
    if original.keys() != again.keys():
        yield f"the weights were {', '.join(original)}, now {', '.join(again)}"
        return
    different = [name for name, weight in original.items() if not torch.equal(weight, again[name])]
    if different:
        largest = max(float((original[name] - again[name]).abs().max()) for name in different)
        yield f"{len(different)} of {len(original)} weights, by up to {largest:.3g}"


def _same(one: Any, other: Any) -> bool:
    """Whether two states of a data module are the same, to the last bit."""
    (ones, shape), (others, other_shape) = tree_flatten(one), tree_flatten(other)
    pairs = zip(ones, others, strict=False)
    return shape == other_shape and all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def _circumstances(original: Record, again: Record) -> Iterator[str]:
    """What was different when the two were trained."""
    parts = ("device", "precision", "python", "versions", "settings")
    before, now = (dict(_flat({part: getattr(record, part) for part in parts})) for record in (original, again))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            yield f"{name}, {before.get(name)} before, now {now.get(name)}"
    if original.git != again.git or (again.git and again.git.dirty):
        yield f"the code: {_code(original)} before, now {_code(again)}"
    if original.resumed:
        yield "the original was stopped and resumed, maybe with other settings or on another device"


def _code(record: Record) -> str:
    if record.git is None:
        return "of no known commit"
    return f"commit {record.git.commit[:12]}{' with changes that were not committed' if record.git.dirty else ''}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values by their full names; settings have them without that of the group."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, "" if name == "settings" else f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
