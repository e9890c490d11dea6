"""Reading checkpoints: data, never code; needs nothing but torch."""

import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from litlab.errors import UserError
from litlab.messages import first_lines, first_problem
from litlab.runs.resumable import Resumable

TRAINED = "trained_state_dict"
"""Key of the weights that a training goes on with, where it results in others, such as their average."""

LARGEST_STRUCTURE = 2**23
"""Bytes that all but the tensors' numbers may take, besides 1024 for each tensor; all is held in memory at once."""

MOST_VALUES = 2**20
"""Values that may stand in the dictionaries and lists, each counted as often as something refers to it."""

LARGEST_SHARE = 16
"""How many times its numbers are in the file a tensor may have, on average, as tensors may share them."""

DEEPEST = 100
"""Dictionaries and lists inside each other."""

WEIGHTS = ("state_dict", "current_model_state", TRAINED)
"""Keys of the module's weights, which may share memory; `read_resumable` compares them with the module."""


def load_weights(module: nn.Module, file: Path, prefix: str = "") -> None:
    """Put the weights of a checkpoint into `module`, which must have just those whose names begin with `prefix`.

    Raises:
        UserError: the file is missing, damaged or of another network.
    """
    module.load_state_dict(_weights(read(file), "state_dict", module, file, prefix))


def restore_data(data: Any, file: Path) -> None:
    """Let a data module that is not set up yet have the classes and the split of the run that left the checkpoint.

    That takes a method `restore_split(state)`, where `state` is what its `state_dict` gave in the training.

    Raises:
        UserError: the file is missing or damaged, or holds no such state.
    """
    restore = getattr(data, "restore_split", None)
    state = read(file).get(type(data).__qualname__)  # as Lightning calls it there
    if restore is None or state is None:
        return
    try:
        restore(state)
    except UserError as error:
        raise UserError(f"{file} {error}") from error


def read_resumable(file: Path, module: nn.Module) -> dict[str, Any]:
    """What a checkpoint holds to go on with the training of `module`.

    Raises:
        UserError: the file is missing, damaged, of another network, or no training can go on from it.
    """
    checkpoint = read(file)
    for name in set(WEIGHTS) & checkpoint.keys() | {"state_dict"}:
        _weights(checkpoint, name, module, file)
    try:
        Resumable.model_validate(checkpoint)
    except ValidationError as error:
        raise UserError(f"{file} is not a checkpoint to go on from: {first_problem(error)}") from error
    return checkpoint


def read(file: Path) -> dict[str, Any]:
    """What a checkpoint holds: tensors, which stay on the disk until they are used, and plain values.

    Raises:
        UserError: the file is missing or damaged, or holds anything else.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist")
    if damage := _damage(file):
        others = [other for other in sorted(file.parent.glob("*.ckpt")) if other != file and not _damage(other)]
        hint = f"; evaluate, predict and export can take run={others[0]}, which is whole" if others else ""
        raise UserError(f"{file} is not a checkpoint, or is damaged: {damage}{hint}")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{file} is not a checkpoint: it holds more than tensors and plain values") from error
    except Exception as error:  # torch.load says with many types that a file is not what it should be
        raise UserError(f"{file} is not a checkpoint, or is damaged: {first_lines(error)}") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{file} is not a checkpoint: it holds a {type(checkpoint).__name__}")
    if problem := _excess(checkpoint, LARGEST_SHARE * file.stat().st_size):
        raise UserError(f"{file} is not a checkpoint: {problem}")
    return checkpoint


def _damage(file: Path) -> str | None:
    """What keeps the file from being read whole and without danger, if anything does."""
    status = file.stat()
    if status.st_size > LARGEST_STRUCTURE and status.st_blocks * 512 < status.st_size // 4:
        return "it is mostly a hole"  # the list of its parts might be, too, and that is read at once
    try:
        with zipfile.ZipFile(file) as archive:
            if problem := _structure_problem(archive):
                return problem
            broken = archive.testzip()
    except Exception as error:  # zipfile, too, has many types for it
        return first_lines(error)
    return f"the checksum of its part {broken} is wrong" if broken else None


def _structure_problem(archive: zipfile.ZipFile) -> str | None:
    """What keeps the archive's list of values, which is held in memory at once, from being read, if anything does."""
    parts = archive.infolist()
    if any(part.file_size != part.compress_size for part in parts):
        return "it is compressed"
    numbers = [part.file_size for part in parts if "/data/" in part.filename]
    structure = sum(part.file_size for part in parts) - sum(numbers)
    return "it holds too much besides tensors" if structure > LARGEST_STRUCTURE + 1024 * len(numbers) else None


def require_readable(file: Path, checkpoint: Mapping[str, Any]) -> None:
    """Make sure that `read` will take a file that was just written.

    Raises:
        UserError: it will not.
    """
    with zipfile.ZipFile(file) as archive:
        problem = _structure_problem(archive) or _excess(checkpoint, math.inf)
    if problem:
        raise UserError(f"the checkpoint could not be read again: {problem}; keep long lists in tensors")


def _excess(checkpoint: Mapping[str, Any], most_bytes: float) -> str | None:
    """Why reading the values of a checkpoint would take too much time or memory, if so.

    Args:
        checkpoint: what it holds.
        most_bytes: what the tensors may have, which may all refer to the same numbers, or repeat them without end.
    """
    left, values, tensors = [(checkpoint, 0, False)], 0, 0
    while left:
        value, depth, is_weight = left.pop()
        values += 1
        if isinstance(value, Tensor):
            tensors += 0 if is_weight or value.layout != torch.strided else value.nbytes
            if value.is_meta:
                return "it holds a tensor on the meta device, which has no numbers"
        elif isinstance(value, Mapping | list | tuple):
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            if depth > DEEPEST or values + len(value) + len(left) > MOST_VALUES:
                return (
                    f"it holds more than {MOST_VALUES:,} values besides tensors, or lists inside each other without end"
                )
            left += [(item, depth + 1, is_weight or (depth == 0 and key in WEIGHTS)) for key, item in items]
    return "its tensors are many times larger than the file" if tensors > most_bytes else None


def _weights(
    checkpoint: dict[str, Any], name: str, module: nn.Module, file: Path, prefix: str = ""
) -> dict[str, Tensor]:
    """The weights under this name, if those that begin with `prefix` are the module's; without the prefix."""
    weights = checkpoint.get(name)
    if not isinstance(weights, dict):
        raise UserError(f"{file} is not a checkpoint: it holds no {name}")
    if prefix:
        weights = {str(key).removeprefix(prefix): part for key, part in weights.items() if str(key).startswith(prefix)}
    misfits = list(_misfits(weights, module.state_dict()))
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise UserError(f"{file} is of another network: {'; '.join(misfits[:3])}{more}")
    return weights


def _misfits(weights: Mapping[str, Any], own: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in own.items():
        given = weights.get(name)
        if not isinstance(given, Tensor):
            yield f"{name} is missing"
        elif given.shape != tensor.shape:
            yield f"{name} is of shape {tuple(given.shape)}, not {tuple(tensor.shape)}"
        elif (given.dtype, given.layout, given.device.type) != (tensor.dtype, tensor.layout, "cpu"):
            yield f"{name} is {given.dtype} {given.layout} on {given.device}, not {tensor.dtype}"
    yield from (f"{name} is unknown" for name in weights if name not in own)
