"""Reading checkpoints: data, never code."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from litlab.errors import UserError


def load_weights(module: nn.Module, file: Path) -> None:
    """Put the weights of a checkpoint into `module`, which must have just these.

    Raises:
        UserError: the file is missing, damaged or of another network.
    """
    state = _read(file).get("state_dict")
    if not isinstance(state, dict):
        raise UserError(f"{file} is no checkpoint: it holds no state_dict")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise UserError(f"{file} is of another network: {' '.join(lines)}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no checkpoint {file}") from error
    except Exception as error:  # torch.load says with many types that a file is not what it should be
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{file} is no checkpoint, or a damaged one: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{file} is no checkpoint: it holds a {type(checkpoint).__name__}")
    return checkpoint
