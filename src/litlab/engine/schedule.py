"""Learning-rate schedules: built from their config node, and rebuilt when a resumed run has another length."""

import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import _init_optimizers_and_lr_schedulers
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau

from litlab.config import schema
from litlab.config.component_schema import LRSchedulerConfig
from litlab.config.components import build, import_target, parameters
from litlab.errors import UserError

PER_STEP = (OneCycleLR, CyclicLR)
"""Classes whose documentation calls `step` after each batch; PyTorch's others are stepped once an epoch."""

PLATEAU_STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")
"""What ReduceLROnPlateau knows of the metric so far; the rest of its state is settings."""


class ScheduleFactory:
    """Makes what a LightningModule returns as `lr_scheduler`: the schedule, and when Lightning steps it.

    The constructor gets the optimizer as `optimizer`, if it has that argument, and the training's length under those of
    its names for it (`LENGTHS`) that have no value of their own.

    Args:
        node: the config's `scheduler`.
        checkpoint: the config's `checkpoint`, whose metric ReduceLROnPlateau watches unless the node names one.
    """

    LENGTHS = ("total_steps", "T_max", "total_iters", "num_training_steps")

    def __init__(self, node: Mapping[str, Any], checkpoint: schema.Checkpoint) -> None:
        self.target = str(node["_target_"])
        self.found = import_target(self.target, "scheduler")
        self.parameters = parameters(self.found)
        own = set(LRSchedulerConfig.model_fields) - set(self.parameters)
        self.options = {key: node[key] for key in own & node.keys()}
        self.node = {key: node[key] for key in node if key not in own}
        self.checkpoint = checkpoint

    def __call__(self, optimizer: Optimizer, trainer: Trainer) -> dict[str, Any]:
        """The schedule of this optimizer, with its interval, as Lightning's `lr_scheduler` dictionary.

        Raises:
            UserError: the schedule cannot be built, or does not fit the training.
        """
        if not isinstance(trainer, Trainer):
            raise UserError("configure_optimizers: `scheduler` takes the optimizer and the Trainer, self.trainer")
        wanted = self._wanted()
        per_step = isinstance(self.found, type) and issubclass(self.found, PER_STEP)
        options = {"interval": "step" if wanted or per_step else "epoch", **self.options}
        node = _with_optimizer(self.node, optimizer) | {name: _length(name, options, trainer) for name in wanted}
        if isinstance(self.found, type) and issubclass(self.found, ReduceLROnPlateau):
            options, node = self._watching(options, node)
        scheduler = build(node, key="scheduler")
        if isinstance(scheduler, OneCycleLR):
            _require_enough_steps(scheduler, options, trainer)
        return {"scheduler": scheduler, **options}

    def _wanted(self) -> list[str]:
        """Arguments for which the training's length is needed."""
        spans = [name for name in ("epochs", "steps_per_epoch") if self.node.get(name) is not None]
        names: tuple[str, ...] = self.LENGTHS
        if spans and "total_steps" in self.parameters:
            names = ("epochs", "steps_per_epoch")  # together they mean total_steps
        unset = (inspect.Parameter.empty, None)
        return [
            name
            for name in names
            if name in self.parameters and self.node.get(name) is None
            if name in self.node or self.parameters[name].default in unset
        ]

    def _watching(self, options: dict[str, Any], node: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options and the node of a ReduceLROnPlateau, with its metric and whether less of it is better."""
        name = self.target.rpartition(".")[2]
        monitor = options.get("monitor") or self.checkpoint.monitor
        if monitor is None:
            raise UserError(f"scheduler: {name} needs a metric to watch; set scheduler.monitor or checkpoint.monitor")
        if "mode" not in node and monitor != self.checkpoint.monitor:
            raise UserError(f"scheduler.monitor={monitor}: set scheduler.mode, too, to min or max")
        return options | {"monitor": monitor}, {"mode": self.checkpoint.mode, **node}


def _with_optimizer(node: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """The node with the optimizer among its arguments and those of its nested nodes, where there is one."""

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(item) for item in value]
        return _with_optimizer(value, optimizer) if isinstance(value, dict) and "_target_" in value else value

    needs_it = "optimizer" in parameters(import_target(str(node["_target_"]), "scheduler"))
    return {key: filled(node[key]) for key in node} | ({"optimizer": optimizer} if needs_it else {})


def _length(name: str, options: Mapping[str, Any], trainer: Trainer) -> int:
    """The training's length as the argument `name` counts it: how often the schedule will be stepped, in all."""
    epochs = trainer.max_epochs if trainer.max_epochs is not None else -1
    if name == "epochs" or (name != "steps_per_epoch" and options["interval"] == "epoch"):
        length = math.inf if epochs == -1 else float(epochs)
    else:
        length = trainer.estimated_stepping_batches
    if math.isinf(length):
        setting = "trainer.max_epochs" if options["interval"] == "epoch" else "trainer.max_epochs or trainer.max_steps"
        raise UserError(f"scheduler.{name}: needs to know how long the training is; set {setting}")
    if name == "steps_per_epoch":
        return math.ceil(length / max(1, epochs))
    frequency = 1 if name == "epochs" else options.get("frequency", 1)
    if frequency == 1 or options["interval"] == "epoch" or epochs == -1:
        return int(length // frequency)
    return int(length / epochs // frequency * epochs)  # Lightning counts anew in each epoch


def _require_enough_steps(scheduler: OneCycleLR, options: Mapping[str, Any], trainer: Trainer) -> None:
    """Raise UserError if a schedule that ends in an error after its last step is shorter than the training."""
    epochs = trainer.max_epochs if trainer.max_epochs not in (None, -1) else math.inf
    steps = epochs if options["interval"] == "epoch" else trainer.estimated_stepping_batches
    calls = steps // options.get("frequency", 1)
    if scheduler.total_steps < calls < math.inf:
        hint = "leave out scheduler.total_steps, and it is the training's length"
        raise UserError(
            f"scheduler: ends after {scheduler.total_steps} steps, but the training has {calls:.0f}; {hint}"
        )


def steps_of(states: Sequence[Mapping[str, Any]]) -> list[int]:
    """How often each of some schedules was stepped, by their state dicts."""
    return [state["last_epoch"] if "last_epoch" in state else steps_of(state["_schedulers"])[0] for state in states]


def rebuild_schedules(trainer: Trainer, steps: Sequence[int]) -> None:
    """Put the schedules, and the optimizers' settings, where the present config would have led after so many steps.

    State dicts keep a schedule's settings, such as the length that it was made for, and most schedules derive each rate
    from the one before. Hence all settings come from newly made ones, which are stepped as often as the old ones were.
    """
    _, configs = _init_optimizers_and_lr_schedulers(trainer.lightning_module)
    for config, new, count in zip(trainer.lr_scheduler_configs, configs, steps, strict=True):
        if (config.interval, config.frequency) != (new.interval, new.frequency):
            raise UserError(
                f"scheduler.interval={new.interval}: the run's schedule was stepped once an {config.interval}"
            )
        if isinstance(new.scheduler, ReduceLROnPlateau):
            known = {key: value for key, value in config.scheduler.state_dict().items() if key in PLATEAU_STATE}
            config.scheduler.load_state_dict(new.scheduler.state_dict() | known)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "call optimizer.step() first", which the run has done
            for _ in range(count):
                new.scheduler.step()
        config.scheduler.load_state_dict(new.scheduler.state_dict())
        _take_settings(config.scheduler.optimizer, new.scheduler.optimizer)


def _take_settings(optimizer: Optimizer, new: Optimizer) -> None:
    for group, fresh in zip(optimizer.param_groups, new.param_groups, strict=True):
        group.update({key: value for key, value in fresh.items() if key != "params"})
