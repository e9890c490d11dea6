"""What losses and layers are given, against what they take: told in one line that names the setting to change."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from litlab.messages import as_override

BINARY_LOSSES = (functional.binary_cross_entropy, functional.binary_cross_entropy_with_logits)
"""Losses that take targets of the predictions' shape, in floating point."""

SIZES = ("image_size", "img_size", "input_size")
"""Names by which networks are told the height and width of images."""


@dataclass(frozen=True)
class Fit:
    """What is known of a run's network and data.

    Attributes:
        module: the LightningModule.
        batch: the batch of the step.
        data: settings of the data module.
        model: settings of the model.
        class_names: the data module's, if it has them.
        last_batch: examples in the last training batch; None where that is not known, or outside of training.
        whole: what the parts of the batch are taken from, if all the data is in memory.
    """

    module: nn.Module
    batch: Any
    data: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    last_batch: int | None = None
    whole: tuple[Tensor, ...] = ()

    def keys(self, *words: str) -> dict[str, int]:
        """The settings of the model that are whole numbers and have one of the words in their names."""
        numbers = _numbers(self.model, "model")
        return {key: value for key, value in numbers if any(word in key.rpartition(".")[2] for word in words)}

    @property
    def inputs(self) -> Tensor | None:
        """The first tensor of the batch."""
        return next((leaf for leaf in tree_leaves(self.batch) if isinstance(leaf, Tensor)), None)

    def all_of(self, part: Tensor) -> Tensor:
        """What the data holds where the batch holds this tensor; if that is not known, the tensor itself."""
        pairs = zip(tree_leaves(self.batch), self.whole, strict=False)
        found = (whole for leaf, whole in pairs if leaf is part and whole.dtype == part.dtype)
        return next(found, part)

    @property
    def source(self) -> str:
        """The data module, as messages begin."""
        return f"data._target_={self.data['_target_']}: " if "_target_" in self.data else ""


def class_problem(fit: Fit, scores: Tensor, labels: Tensor, ignored: int = -100) -> str | None:
    """What is wrong with labels as the class numbers of scores (N, classes, …), if anything is."""
    classes, shape = scores.shape[min(1, scores.ndim - 1)], class_shape(scores)
    if are_probabilities(scores, labels):
        return None
    if labels.shape != shape or labels.dtype not in (torch.int64, torch.uint8):
        takes = "argmax(1)" if labels.shape == scores.shape else ""
        if not takes and labels.ndim == scores.ndim and labels.squeeze(1).shape == shape:
            takes = "squeeze(1)"
        if not takes and labels.shape == shape:
            takes = "long()"
        elif takes == "squeeze(1)" and labels.dtype != torch.int64:
            takes = "squeeze(1).long()"
        hint = f"; give labels.{takes}" if takes else ""
        return f"{stated('labels', labels)}, expected int64 {shape}, class numbers from 0 to {classes - 1}{hint}"
    keys = fit.keys("num_classes")
    is_given = any(leaf is labels for leaf in tree_leaves(fit.batch))
    if fit.class_names and is_given and scores.ndim == 2 and classes != len(fit.class_names):
        shown = ", ".join(fit.class_names[:3]) + (", …" if len(fit.class_names) > 3 else "")
        hint = "; set " + " ".join(f"{key}={len(fit.class_names)}" for key in keys) if keys else ""
        return f"the data has {len(fit.class_names)} classes ({shown}), the network {classes}{hint}"
    counted = fit.all_of(labels).long()
    counted = counted[counted != ignored]
    if not counted.numel():
        return None
    low, high = (int(end) for end in counted.aminmax())
    if low >= 0 and high < classes:
        return None
    more = " ".join(f"{key}={high + 1}" for key in keys)
    hint = f"set {more}" if more else f"the network needs {high + 1} outputs"
    if low < 0:
        hint = "none may be below 0"
    elif low > 0 and high == classes:
        hint = f"subtract 1 from them, or {hint}"
    return f"the labels are from {low} to {high}, expected 0 to {classes - 1}, the network's {classes} classes; {hint}"


def target_problem(func: Callable[..., Any], answers: Tensor, targets: Tensor) -> str | None:
    """What is wrong with the targets of a loss that compares number by number."""
    expected = f"{func.__name__} expects {described(answers)}, as the predictions are"
    if func in BINARY_LOSSES:
        if targets.shape != answers.shape:
            return f"{stated('targets', targets)}, and {expected}"
        if not targets.is_floating_point():
            return f"{stated('targets', targets)}, and {expected}; give targets.float()"
        return None
    if not _is_broadcast_one_way(answers, targets):
        return f"{stated('targets', targets)}, and {expected}; the shapes must be the same"
    needs_float = func in (functional.smooth_l1_loss, functional.huber_loss) and answers.requires_grad
    if needs_float and not targets.is_floating_point():
        return f"{stated('targets', targets)}, and {expected}; give targets.float()"
    return None


def layer_problem(fit: Fit, layer: nn.Module, name: str, given: Tensor) -> str | None:
    """Why a layer cannot take what it is given, if a setting or the data is the cause."""
    weight = next(layer.parameters(recurse=False))
    if not (given.is_floating_point() or isinstance(layer, nn.Embedding)) and weight.is_floating_point():
        hint = "give floats, such as images.float() / 255" if given.dtype == torch.uint8 else "give .float()"
        return f"{fit.source}{name} computes with {_kind(weight)} and gets {described(given)}; {hint}"
    if given.dtype == torch.float64 and weight.dtype == torch.float32:
        return f"{fit.source}{name} computes with float32 and gets {described(given)}; give .float()"
    if isinstance(layer, _ConvNd) and given.ndim == weight.ndim and given.shape[1] != layer.in_channels:
        found = int(given.shape[1])
        keys = [key for key, value in fit.keys("channel", "in_chans").items() if value == layer.in_channels]
        told = f"{name} takes {layer.in_channels} channels and gets {described(given)}, with {found}"
        if given.shape[-1] == layer.in_channels:
            return f"{fit.source}{told}; the channels come before height and width: give images.movedim(-1, 1)"
        return f"{_setting(keys, layer.in_channels)}{told}; set {keys[0]}={found}" if keys else None
    if isinstance(layer, _ConvNd) and given.ndim == weight.ndim - 1:
        told = f"{name} takes {weight.ndim} dimensions, of which the channels are the second, and gets"
        return f"{fit.source}{told} {described(given)}; give images.unsqueeze(1)"
    if isinstance(layer, nn.Linear) and given.shape[-1] != layer.in_features:
        return _size_problem(fit, layer, name, int(given.shape[-1]))
    return None


def _size_problem(fit: Fit, layer: nn.Linear, name: str, found: int) -> str | None:
    """A linear layer that gets another number of features than it takes, for the images' size or by a setting."""
    told = f"{name} takes {layer.in_features} features and gets {found}"
    images = fit.inputs
    if images is not None and images.ndim == 4:
        height, width = map(int, images.shape[-2:])
        for key, value in fit.keys(*SIZES).items():
            if (value, value) != (height, width):
                hint = f"set {key}={height}" if height == width else f"bring the images to {value}x{value}"
                return f"{key}={value}: {told}, as the images are {height}x{width}; {hint}"
    keys = [key for key, value in fit.keys("").items() if value == layer.in_features]
    return f"{_setting(keys, layer.in_features)}{told}; set {keys[0]}={found}" if len(keys) == 1 else None


def are_probabilities(scores: Tensor, labels: Tensor) -> bool:
    """Whether the labels have one number for each score, as cross entropy takes them, too."""
    return labels.is_floating_point() and labels.shape == scores.shape


def class_shape(scores: Tensor) -> tuple[int, ...]:
    """The shape of the class numbers that belong to scores (N, classes, …)."""
    return (*scores.shape[:1], *scores.shape[2:]) if scores.ndim > 1 else ()


def _is_broadcast_one_way(one: Tensor, other: Tensor) -> bool:
    """Whether the shapes are the same, or one alone is stretched: of (N, 1) and (N,) both would be, to (N, N)."""
    pairs = list(zip_longest(reversed(one.shape), reversed(other.shape), fillvalue=1))
    stretched = {1 if size == 1 else 2 for size, others in pairs if size != others and 1 in (size, others)}
    return len(stretched) < 2 and all(size == others or 1 in (size, others) for size, others in pairs)


def stated(what: str, tensor: Tensor) -> str:
    """What labels or targets are, as the beginning of a message."""
    return f"the {what} are {described(tensor)}"


def described(tensor: Tensor) -> str:
    """A tensor's type and shape, such as `float32 (10, 1, 28, 28)`."""
    return f"{_kind(tensor)} {tuple(tensor.shape)}"


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _setting(keys: list[str], value: int) -> str:
    return f"{keys[0]}={as_override(value)}: " if keys else ""


def _numbers(settings: Mapping[str, Any], place: str) -> Iterator[tuple[str, int]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{place}.{key}")
        elif isinstance(value, int) and not isinstance(value, bool):
            yield f"{place}.{key}", value
