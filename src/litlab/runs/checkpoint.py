"""Reading checkpoints: data, never code; needs nothing but torch."""

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from litlab.errors import UserError
from litlab.refusals import first_lines

TRAINED = "trained_state_dict"
"""Key of the weights that a training goes on with, where it results in others, such as their average."""

LARGEST_STRUCTURE = 2**26
"""Bytes that all but the tensors may take; they are held in memory at once, where tensors are read as needed."""


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
    for name in {"current_model_state", TRAINED} & checkpoint.keys() | {"state_dict"}:
        _weights(checkpoint, name, module, file)
    # An optimizer copies unseen what it is given; LBFGS, which keeps the most, has 200 times the weights.
    kept = sum(tensor.numel() for tensor in _tensors(checkpoint.get("optimizer_states")))
    if kept > 256 * sum(parameter.numel() for parameter in module.parameters()):
        raise UserError(f"{file} is of another network: its optimizer keeps {kept} numbers")
    return checkpoint


def read(file: Path) -> dict[str, Any]:
    """What a checkpoint holds: tensors, which stay on the disk until they are used, and plain values.

    Raises:
        UserError: the file is missing or damaged, or holds anything else.
    """
    if not file.is_file():
        raise UserError(f"there is no checkpoint {file}")
    try:
        problem = _problem(file)
        checkpoint = None if problem else torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{file} is no checkpoint: it holds more than tensors and plain values") from error
    except Exception as error:  # torch.load says with many types that a file is not what it should be
        raise UserError(f"{file} is no checkpoint, or a damaged one: {first_lines(error)}") from error
    if problem or not isinstance(checkpoint, dict):
        raise UserError(f"{file} is no checkpoint: it {problem or f'holds a {type(checkpoint).__name__}'}")
    return checkpoint


def _problem(file: Path) -> str | None:
    """What keeps the file from being read without danger, if anything does."""
    status = file.stat()
    if status.st_size > LARGEST_STRUCTURE and status.st_blocks * 512 < status.st_size // 4:
        return "is mostly a hole"  # the list of its parts might be, too, and that is read at once
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
    if any(part.file_size != part.compress_size for part in parts):
        return "is compressed"
    structure = sum(part.file_size for part in parts if "/data/" not in part.filename)
    return "holds too much besides tensors" if structure > LARGEST_STRUCTURE else None


def _weights(
    checkpoint: dict[str, Any], name: str, module: nn.Module, file: Path, prefix: str = ""
) -> dict[str, Tensor]:
    """The weights under this name, if those that begin with `prefix` are the module's; without the prefix."""
    weights = checkpoint.get(name)
    if not isinstance(weights, dict):
        raise UserError(f"{file} is no checkpoint: it holds no {name}")
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


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _tensors(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
