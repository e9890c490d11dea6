"""Weights that a callback or the module puts in the place of the trained ones, such as their average."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import Tensor

from litlab.engine.hooks import implementation

Weights = dict[str, Tensor]
"""A module's state dict."""

BEFORE_VALIDATION = ("on_validation_start", "on_validation_epoch_start", "on_validation_batch_start")
"""Hooks in which the weights can be exchanged for those that are to be validated."""

FRAMEWORKS = ("litlab.", "lightning.")
"""Modules whose hooks leave the weights alone, or save what they exchange by themselves."""

AVERAGING = ("lightning.pytorch.callbacks.stochastic_weight_avg", "lightning.pytorch.callbacks.weight_averaging")
"""Modules of Lightning whose callbacks replace the weights at the end of a training."""


def exchanges_weights(trainer: Trainer) -> bool:
    """Whether the weights that are validated may be others than those that a checkpoint would hold."""
    return any(not home.startswith(FRAMEWORKS) for hook in BEFORE_VALIDATION for _, home in _hooks(trainer, hook))


def replacing_classes(trainer: Trainer) -> list[str]:
    """Names of the classes that may have replaced the weights when the training ended."""
    hooks = _hooks(trainer, "on_train_end")
    return [name for name, home in hooks if home.startswith(AVERAGING) or not home.startswith(FRAMEWORKS)]


def resume_averaging(trainer: Trainer) -> None:
    """Let StochasticWeightAveraging restore its scheduler in the middle of an epoch; Lightning does so at its start."""
    if trainer.fit_loop.restarted_mid_epoch:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, StochasticWeightAveraging):
                callback.on_train_epoch_start(trainer, trainer.lightning_module)


def copied(module: LightningModule) -> Weights:
    """The module's weights as they are now."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def has_parameters(module: LightningModule, weights: Mapping[str, Any]) -> bool:
    """Whether the module's parameters have the values that are among these weights."""
    return all(torch.equal(own.detach(), weights[name].to(own.device)) for name, own in module.named_parameters())


def _hooks(trainer: Trainer, hook: str) -> list[tuple[str, str]]:
    """The classes of the callbacks and of the module, each with the Python module that its hook comes from."""
    owners = [*trainer.callbacks, trainer.lightning_module]  # type: ignore[attr-defined]
    return [(type(owner).__name__, str(getattr(implementation(owner, hook), "__module__", ""))) for owner in owners]
