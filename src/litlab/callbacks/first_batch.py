"""Whether the network and the data fit, seen in the first step of a training, a validation and a test."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torchmetrics
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import LBFGS
from torch.utils.data import DataLoader

from litlab.data.memory import InMemoryLoader
from litlab.data.order import Resumable
from litlab.engine.first_calls import FirstCalls
from litlab.engine.misfits import Fit, class_problem
from litlab.errors import UserError
from litlab.messages import first_lines


class FirstBatch(Callback):
    """Tells in one line which setting to change if labels or inputs are not what the losses and the network take.

    It looks at the first batch alone, and costs later steps nothing. A module without such losses is left alone.

    Args:
        data: the settings of the data module that may be changed.
        model: those of the model.
    """

    def __init__(self, data: Mapping[str, Any], model: Mapping[str, Any]) -> None:
        self.data, self.model = data, model

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the first batches.

        Raises:
            UserError: the optimizer cannot take the weights as they are stored.
        """
        self._refuse_channels_last(trainer)
        self._wait(trainer, "validation_step")
        self._wait(trainer, "training_step")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the first batch of a validation that is no part of a training."""
        if trainer.state.fn == "validate":
            self._wait(trainer, "validation_step")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the first batch."""
        self._wait(trainer, "test_step")

    def _wait(self, trainer: Trainer, name: str) -> None:
        """Look into the next call of a step, and at none after it; all calls go by way of the strategy."""
        strategy = trainer.strategy
        step = getattr(strategy, name)

        def first(batch: Any, *args: Any, **kwargs: Any) -> Any:
            vars(strategy).pop(name, None)
            with _explaining(self._fit(trainer, batch, name)):
                return step(batch, *args, **kwargs)

        setattr(strategy, name, first)

    def _fit(self, trainer: Trainer, batch: Any, name: str) -> Fit:
        names = getattr(trainer.datamodule, "class_names", None) or ()  # type: ignore[attr-defined]
        fit = Fit(trainer.lightning_module, batch, self.data, self.model, tuple(names))
        if name != "training_step":
            return fit
        loader = trainer.train_dataloader
        whole = loader.tensors if isinstance(loader, InMemoryLoader) else ()
        return replace(fit, last_batch=_last_batch(loader, trainer.num_training_batches), whole=whole)

    def _refuse_channels_last(self, trainer: Trainer) -> None:
        names = {id(weight): name for name, weight in trainer.lightning_module.named_parameters()}
        for optimizer in trainer.optimizers:
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            if isinstance(optimizer, LBFGS) and (bad := [weight for weight in weights if not weight.is_contiguous()]):
                told = f"LBFGS takes weights that are contiguous, and {names[id(bad[0])]} is not"
                hint = "; set model.channels_last=false" if self.model.get("channels_last") else ""
                raise UserError(f"optimizer: {told}{hint}")


@contextmanager
def _explaining(fit: Fit) -> Iterator[None]:
    """Tell in one line what does not fit.

    Raises:
        UserError: labels or inputs.
    """
    if any(_is_compiled(part) for part in fit.module.modules()):  # a compiler would trace what looks on
        yield
        return
    calls = FirstCalls(fit)
    try:
        with calls:
            yield
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if problem := calls.doubt or _metric_problem(fit, error):
            raise UserError(f"{problem}; the step ended with: {first_lines(error)}") from error
        raise


def _metric_problem(fit: Fit, error: Exception) -> str | None:
    """What is wrong with the labels that a metric of torchmetrics has refused, if anything is."""
    library, frames = str(Path(torchmetrics.__file__).parent), []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith(library):
            frames.append(trace.tb_frame.f_locals)
        trace = trace.tb_next
    for variables in frames:
        scores, labels = variables.get("preds"), variables.get("target")
        if isinstance(scores, Tensor) and isinstance(labels, Tensor) and scores.is_floating_point() and scores.ndim > 1:
            problem = class_problem(fit, scores, labels)
            return f"{fit.source}{problem}" if problem else None
    return None


def _is_compiled(part: nn.Module) -> bool:
    return hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None


def _last_batch(loader: Any, batches: float) -> int | None:
    """How many examples this process has of the last of all batches; None if that is not known, or it never comes."""
    try:
        if batches < len(loader):
            return None
        if isinstance(loader, Resumable):
            return int(loader.sampler.counts(len(loader) - 1)[0])
        if isinstance(loader, DataLoader) and loader.batch_size and not loader.drop_last:
            return len(loader.sampler) % loader.batch_size or loader.batch_size  # type: ignore[arg-type]
    except TypeError:  # it has no length
        pass
    return None


@contextmanager
def telling_of_labels() -> Iterator[None]:
    """Tell in one line of a label that is not a class, which a later batch than the first has held.

    Raises:
        UserError: there is one.
    """
    try:
        yield
    except IndexError as error:
        if found := re.fullmatch(r"Target (-?\d+) is out of bounds\.", str(error)):
            hint = "it should be from 0 to one less than model.net.num_classes, or whatever sets the network's outputs"
            raise UserError(
                f"a batch holds the label {found[1]}, for which the network has no score; {hint}"
            ) from error
        raise
