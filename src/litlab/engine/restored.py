"""Whether a checkpoint's state fits the parts of a training, which would copy unseen what it holds for them.

The schema is the state that each part has in a new training: a number stays a number and a text a text, also in a
user's own callback, optimizer or schedule. What is None or empty there may become anything.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import Tensor
from torch.optim import Optimizer

from litlab.runs.resumable import Callbacks

CHECKED = {field.alias for field in Callbacks.model_fields.values()}
"""Callbacks whose state was checked when the checkpoint was read."""

KINDS: dict[str, Any] = {"a number": bool | int | float, "a text": str, "a dictionary": Mapping, "a list": list | tuple}


def require_fitting_loops(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Make sure that the states of the loops and callbacks fit, before they are restored.

    Raises:
        ValueError: the first value that does not, by its place.
    """
    _require_fitting("loops", trainer.fit_loop.state_dict(), checkpoint["loops"]["fit_loop"])
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if callback.state_key in checkpoint["callbacks"].keys() - CHECKED:
            try:
                new = callback.state_dict()
            except AttributeError:  # it sets later what it saves
                continue
            _require_fitting(f"callbacks.{callback.state_key}", new, checkpoint["callbacks"][callback.state_key])


def require_fitting_optimizers(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Make sure that the states of the optimizers and schedules fit, before they are restored.

    Raises:
        ValueError: the first value that does not, by its place.
    """
    optimizers = [optimizer.state_dict()["param_groups"] for optimizer in trainer.optimizers]
    saved = [state["param_groups"] for state in checkpoint["optimizer_states"]]
    _require_fitting("optimizer_states", optimizers, saved, is_fixed=True)
    if _has_own_schedule(trainer, checkpoint):
        return
    schedules = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    _require_fitting("lr_schedulers", schedules, checkpoint["lr_schedulers"], is_fixed=True)


def _has_own_schedule(trainer: Trainer, checkpoint: Mapping[str, Any]) -> bool:
    """Whether the saved schedule is StochasticWeightAveraging's, which replaces the training's when it begins."""
    averaging = (one for one in trainer.callbacks if isinstance(one, StochasticWeightAveraging))  # type: ignore[attr-defined]
    return any(checkpoint["callbacks"].get(one.state_key, {}).get("scheduler_state") for one in averaging)


def require_fitting_state(optimizer: Optimizer, may_be_empty: bool) -> None:
    """Make sure that what an optimizer keeps for each weight, once that is restored, fits the weight.

    Args:
        optimizer: with the settings that it had when the checkpoint was written.
        may_be_empty: whether all steps may have been left out, as those whose gradients are not finite.

    Raises:
        ValueError: the first value that does not.
    """
    kept = _kept_for_new_weights(optimizer)
    if any(kept.values()) and not (may_be_empty or any(optimizer.state.values())):
        raise ValueError("its optimizer keeps nothing")
    for weight, state in optimizer.state.items() if kept else ():
        for name in state.keys() | kept[weight].keys():
            new, value = kept[weight].get(name), state.get(name)
            is_number = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)
            if isinstance(new, Tensor):
                shape = _shape(new, weight)
                fits = is_number if shape is None else isinstance(value, Tensor) and value.shape == shape
            else:
                like_weight = isinstance(value, Tensor) and value.shape == weight.shape
                fits = is_number or (new is None and (value is None or like_weight))
            if not fits or (isinstance(value, Tensor) and not _is_plain(value)):
                raise ValueError(f"its optimizer has no fitting {name}")


def _require_fitting(place: str, new: Any, saved: Any, is_fixed: bool = False) -> None:
    if problem := next(_misfits(place, new, saved, is_fixed), None):
        raise ValueError(problem)


def _misfits(place: str, new: Any, saved: Any, is_fixed: bool) -> Iterator[str]:
    """What is wrong with a saved value.

    Args:
        place: where it is, for the message.
        new: the value in a new training.
        saved: the value in the checkpoint.
        is_fixed: whether dictionaries keep their keys, but those of PyTorch's own that come and go with its versions
            and begin with an underscore, and lists their length.
    """
    if isinstance(saved, Tensor) and not _is_plain(saved):
        yield f"{place} is a tensor of layout {saved.layout} on {saved.device}"
    if new is None:
        return
    if _kind(new) != _kind(saved) and not (isinstance(new, Tensor) and new.ndim > 0 and isinstance(saved, Tensor)):
        yield f"{place} is {_kind(saved)} instead of {_kind(new)}"
    elif isinstance(new, Mapping):
        if is_fixed and (missing := {key for key in new if str(key)[0] != "_"} - saved.keys()):
            yield f"{place} has no {', '.join(sorted(map(str, missing)))}"
        for key in new.keys() & saved.keys():
            yield from _misfits(f"{place}.{key}", new[key], saved[key], is_fixed)
    elif isinstance(new, list | tuple):
        if is_fixed and len(new) != len(saved):
            yield f"{place} has {len(saved)} values instead of {len(new)}"
        for index, values in enumerate(zip(new, saved, strict=False)):
            yield from _misfits(f"{place}.{index}", *values, is_fixed)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return "a number" if value.numel() == 1 else "a tensor"
    return next((kind for kind, types in KINDS.items() if isinstance(value, types)), type(value).__name__)


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized


def _kept_for_new_weights(optimizer: Optimizer) -> dict[Tensor, dict[str, Any]]:
    """What the optimizer keeps for each of its weights, found by a step with others that are 2 in each dimension.

    Nothing where that cannot be found, as of LBFGS, which needs a closure.
    """
    twin, stand_ins = copy(optimizer), dict[Tensor, Tensor]()
    twin.state, twin.param_groups = defaultdict(dict), []
    try:
        for group in optimizer.param_groups:
            own = {weight: torch.zeros([2] * weight.ndim).to(weight) for weight in group["params"]}
            for stand_in in own.values():
                stand_in.grad = torch.zeros_like(stand_in)
            twin.param_groups.append({**group, "params": list(own.values())})
            stand_ins |= own
        type(optimizer).step(twin)
    except Exception:  # of a user's optimizer, too
        return {}
    return {weight: dict(twin.state[stand_in]) for weight, stand_in in stand_ins.items()}


def _shape(new: Tensor, weight: Tensor) -> torch.Size | None:
    """The shape that belongs to the weight where a stand-in of 2 in each dimension has this one; None for a number."""
    if new.ndim != weight.ndim or (new.numel() == 1 and new.ndim > 0):
        return None
    return torch.Size(own if size == 2 else size for size, own in zip(new.shape, weight.shape, strict=True))
