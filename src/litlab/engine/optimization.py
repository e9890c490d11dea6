"""What is done with one batch: forward, backward, optimizer step."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loops.optimization.automatic import _AutomaticOptimization
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from litlab.distributed.group import current_rank
from litlab.engine.logged import LoggedValues, Step, learning_rates
from litlab.engine.metrics import StepMetrics
from litlab.engine.nonfinite import NonFiniteSkip
from litlab.errors import UserError

Batch = OrderedDict[str, Any]
"""The arguments of `training_step`."""

Backward = Callable[[Tensor], None]

CAPTURE_CHECKS = ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check")
"""By what PyTorch's optimizers, of one version or another, ask at each step whether a graph is being captured."""


def simplify_optimizers(trainer: Trainer) -> None:
    """Spare the optimizers what they do at each step for other settings than these."""
    for optimizer in trainer.optimizers:
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]  # it forbids clipping
        if trainer.strategy.root_device.type == "cpu":
            for check in CAPTURE_CHECKS:  # they look for a GPU, which takes 0.3 ms if there is none
                setattr(optimizer, check, lambda: None)


class LoggedOptimization(_AutomaticOptimization):
    """Lightning's optimization of a batch, with what the module logs going to StepMetrics."""

    def __init__(self, trainer: Trainer, metrics: StepMetrics) -> None:
        super().__init__(trainer)
        self.metrics = metrics

    def run(self, optimizer: Optimizer, batch_idx: int, kwargs: Batch) -> dict[str, Any]:
        """Train on the batch; its outputs."""
        rates = learning_rates([optimizer])
        outputs, gathered = self.execute(optimizer, batch_idx, kwargs)
        loop = self.trainer.fit_loop.epoch_loop
        stepped = not loop._should_accumulate()
        step = Step(loop._batches_that_stepped, loop.batch_size, loop.share, stepped, rates, gathered)
        self.metrics.add(step)
        return outputs

    def prepare(self, obstacle: str | None) -> None:
        """Get ready for an epoch; `obstacle` is why the loop executes one step at a time, if it has to."""

    def begin_execution(self) -> None:
        """Get ready for an execution."""

    def close(self) -> None:
        """Give back what the steps have taken, when the training has ended."""

    def summary(self) -> str | None:
        """Return what `run.json` says about CUDA graphs."""
        return None

    def execute(self, optimizer: Optimizer, batch_idx: int, kwargs: Batch) -> tuple[dict[str, Any], LoggedValues]:
        """Do the step; its outputs, and what the module has logged."""
        with self.metrics.collecting(self.trainer.lightning_module):
            outputs: dict[str, Any] = super().run(optimizer, batch_idx, kwargs)
        return outputs, self.metrics.gather(outputs.get("loss"))

    def backward_of(self, optimizer: Optimizer, backward: Backward) -> Backward:
        """What computes the gradients of the batch that comes next, and notes their norm.

        It is `backward`, unless the batch is to be dropped.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # it drops such steps itself
        if self.metrics.skips and not scaler:
            accumulates = self.trainer.accumulate_grad_batches > 1
            dropping = NonFiniteSkip(self.trainer.lightning_module, optimizer, accumulates)
            backward = partial(dropping.backward, backward=backward)

        weight = self.trainer.fit_loop.epoch_loop.weight

        def noting_norm(loss: Tensor) -> None:
            backward(loss if weight == 1 else loss * weight)
            norm = gradient_norm(optimizer)
            self.metrics.note("gradient_norm", norm / scaler._get_scale_async() if scaler else norm)

        return noting_norm

    def _make_backward_fn(self, optimizer: Optimizer) -> Backward | None:
        backward = super()._make_backward_fn(optimizer)
        return self.backward_of(optimizer, backward) if backward else None


class DirectOptimization(LoggedOptimization):
    """Optimization of a batch without Lightning's calls of hooks that do nothing: half a millisecond a step."""

    def __init__(self, trainer: Trainer, metrics: StepMetrics) -> None:
        super().__init__(trainer, metrics)
        self.detour: str | None = None
        self._obstacle: str | None = None

    def prepare(self, obstacle: str | None) -> None:
        """Find out, before an epoch, whether a step must be left to Lightning.

        Args:
            obstacle: why the loop executes one step at a time, if it does; Lightning then does all of it.
        """
        self._obstacle = obstacle
        self.begin_execution()

    def begin_execution(self) -> None:
        """Find that out again before an execution, since a hook may have changed the Trainer."""
        self.detour = self._obstacle or _detour(self.trainer)

    def execute(self, optimizer: Optimizer, batch_idx: int, kwargs: Batch) -> tuple[dict[str, Any], LoggedValues]:
        """Do the step; its outputs, and what the module has logged."""
        if self.detour:
            return super().execute(optimizer, batch_idx, kwargs)
        progress = self.optim_progress.optimizer.step
        progress.increment_ready()
        results = self.step(optimizer, kwargs)
        progress.increment_completed()
        return results

    def step(self, optimizer: Optimizer, kwargs: Batch) -> tuple[dict[str, Any], LoggedValues]:
        """Do the step without counting it; its outputs, and what the module has logged."""
        trainer, module = self.trainer, self.trainer.lightning_module
        backward = self.backward_of(optimizer, module.backward)
        with self.metrics.collecting(module):
            module._current_fx_name = "training_step"  # where `self.log` is called from
            output = trainer.strategy.training_step(*kwargs.values())
            module._current_fx_name = None
            if output is None and current_rank().world_size > 1:
                raise UserError("training_step has returned None: one of several processes cannot leave a batch out")
            if isinstance(output, Tensor):  # Lightning's way would divide it by 1, here and on the way back
                result = self.output_result_cls(output)
            else:
                result = self.output_result_cls.from_training_step_output(output, 1)
            optimizer.zero_grad()
            if result.closure_loss is not None:
                backward(result.closure_loss)
            limit, algorithm = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
            if limit is not None:
                module.configure_gradient_clipping(optimizer, limit, algorithm)
            optimizer.step()
        return result.asdict() if result.closure_loss is not None else {}, self.metrics.gather(result.loss)


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """The Euclidean norm of all gradients together, before they are clipped."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    gradients = [weight.grad for weight in weights if weight.grad is not None and not weight.grad.is_sparse]
    return get_total_norm(gradients) if gradients else weights[0].new_zeros(())  # the former would be on the CPU


def _detour(trainer: Trainer) -> str | None:
    """Why a step takes more than forward, backward and optimizer step, if so."""
    if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
        return f"{type(trainer.strategy).__name__} may have other steps"
    if trainer.accumulate_grad_batches > 1:
        return "trainer.accumulate_grad_batches is not 1"
    plugin = trainer.precision_plugin
    if type(plugin) not in (Precision, MixedPrecision) or getattr(plugin, "scaler", None):
        return f"trainer.precision={trainer.precision} looks at the gradients first"
    if trainer._detect_anomaly:
        return "trainer.detect_anomaly looks at each gradient"
    if not isinstance(trainer.profiler, PassThroughProfiler):  # type: ignore[attr-defined]
        return "a profiler watches each part of it"
    for optimizer in trainer.optimizers:
        closure = signature(optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is Parameter.empty:
            return f"{type(optimizer).__name__} computes the loss several times"
    return None
